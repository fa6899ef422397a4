"""The one walker, driven by hand: blocks come from a `dict`, in any order, at any time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import cbor2
import pytest

from repo_stream import (
    EmptyNode,
    InvalidKey,
    KeyOutOfRange,
    LimitExceeded,
    Limits,
    MalformedNode,
    MissingBlock,
    NodeError,
    ProcessError,
    RepoStreamError,
    WrongDepth,
)
from repo_stream.ranges import KeyRanges
from repo_stream.testing import (
    Entry,
    RawRecord,
    Repo,
    build_repo,
    cid_of,
    encode,
    key_height,
    node,
    tid,
)
from repo_stream.walk import Blocks, Taken, TreeNode, Walker

LIMITS: Final = Limits()
Triple = tuple[str, bytes, bytes]


# --- Repos to walk --------------------------------------------------------------------------------


def plain_repo(count: int = 300) -> Repo:
    return build_repo({f"com.example.{n % 3}/{tid(n << 33)}": {"n": n} for n in range(count)})


def sharing_repo() -> Repo:
    """Many keys, few records."""
    return build_repo({f"com.example.share/{n:03}": {"n": n % 7} for n in range(100)})


def node_like_repo() -> Repo:
    """Records that look like nodes, one of them the very node of a subtree before it."""
    low = keys_of(0, 3, "com.example.a")
    small = build_repo({key: {"n": 1} for key in low})
    root, blocks = small.root, small.blocks
    high = keys_of(1, 1, "com.example.b")[0]
    others: dict[str, object] = {
        high: RawRecord(blocks[root]),
        "com.example.c/empty": RawRecord(node(None)),
        "com.example.c/other": RawRecord(node(cid_of(b"nowhere"))),
        "com.example.c/start": RawRecord(b"\xa2\x61e\x80 and then no node"),
        "com.example.c/same": RawRecord(blocks[root]),
    }
    repo = build_repo({**{key: {"n": 1} for key in low}, **others})
    assert root in repo.nodes
    assert root in repo.records.values()
    return repo


def names(collection: str) -> Iterator[str]:
    return (f"{collection}/{n:05}" for n in itertools.count())


def one_record_repo() -> Repo:
    return build_repo({"com.example.a/1": {"n": 1}})


REPOS: Final[dict[str, Callable[[], Repo]]] = {
    "empty": lambda: build_repo({}),
    "one record": one_record_repo,
    "plain": plain_repo,
    "sharing": sharing_repo,
    "node-like": node_like_repo,
}


@pytest.fixture(params=REPOS)
def repo(request: pytest.FixtureRequest) -> Repo:
    return REPOS[request.param]()


def expected(repo: Repo) -> list[Triple]:
    return [(key, cid, repo.blocks[cid]) for key, cid in repo.records.items()]


def in_walk_order(repo: Repo, at_hand: Iterable[bytes] = ()) -> list[bytes]:
    """What the walk needs and has not, in order, as far as nodes at hand tell; each CID once."""
    here = set(at_hand)
    order: dict[bytes, None] = {}

    def go(cid: bytes) -> None:
        if cid not in here:
            order[cid] = None
            return
        body = cbor2.loads(repo.blocks[cid])
        if body["l"] is not None:
            go(body["l"].value[1:])
        for entry in body["e"]:
            record = entry["v"].value[1:]
            if record not in here:
                order[record] = None
            if entry["t"] is not None:
                go(entry["t"].value[1:])

    go(repo.root)
    return list(order)


# --- Walking by hand ------------------------------------------------------------------------------


@dataclass
class Hand:
    """A walker, the blocks it has, and what it has given."""

    repo: Repo
    limits: Limits = LIMITS
    given: list[Triple] = field(default_factory=list[Triple])

    def __post_init__(self) -> None:
        at_hand: dict[bytes, bytes] = {}
        self.blocks = Blocks(at_hand, at_hand)
        self.walker = Walker(self.repo.root, bytes, self.limits)

    def bring(self, *cids: bytes) -> None:
        for cid in cids:
            self.blocks.raw[cid] = self.repo.blocks[cid]

    def take(self, n: int = 1_000_000) -> int:
        taken = self.walker.take(self.blocks, n)
        assert len(taken.rkeys) <= n
        self.given += zip(taken.rkeys, taken.cids, taken.values, strict=True)
        return len(taken.rkeys)

    def take_all(self, n: int = 1_000_000) -> list[Triple]:
        while self.take(n):
            pass
        return self.given

    def wanted(self, n: int = 1_000_000) -> list[bytes]:
        return self.walker.wanted(self.blocks, n)

    def done(self) -> bool:
        return self.walker.done


def test_with_all_blocks_at_hand_a_walk_gives_every_record_in_order(repo: Repo) -> None:
    hand = Hand(repo)
    hand.bring(*repo.blocks)
    assert hand.take_all() == expected(repo)
    assert hand.done()
    assert hand.take() == 0
    assert hand.wanted() == []


def test_chunk_boundaries_never_change_what_comes() -> None:
    repo = node_like_repo()
    for n in range(1, len(repo.records) + 2):
        hand = Hand(repo)
        hand.bring(*repo.blocks)
        full, rest = divmod(len(repo.records), n)
        assert [hand.take(n) for _ in range(full)] == [n] * full
        assert hand.take(n) == rest
        assert hand.take(n) == 0
        assert hand.given == expected(repo)
        assert hand.done()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 299, 300, 301])
def test_chunks_of_a_larger_repo(n: int) -> None:
    hand = Hand(plain_repo())
    hand.bring(*hand.repo.blocks)
    sizes = [hand.take(n) for _ in range(-(-300 // n))]
    assert sizes == [n] * (300 // n) + [300 % n] * (300 % n > 0)
    assert hand.given == expected(hand.repo)
    assert hand.take(n) == 0


@pytest.mark.parametrize("seed", range(5))
def test_blocks_that_come_one_by_one_in_any_order(repo: Repo, seed: int) -> None:
    hand = Hand(repo)
    order = list(repo.blocks)
    random.Random(seed).shuffle(order)
    for cid in order:
        assert not hand.done()
        hand.bring(cid)
        hand.take_all()
        assert hand.given == expected(repo)[: len(hand.given)]
        if cid is not order[-1]:
            # As far as it could go: what it stands before is missing.
            assert hand.done() or hand.walker.missing().cid not in hand.blocks
        if hand.done():
            break
    assert hand.done()
    assert hand.given == expected(repo)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_that_come_a_few_at_a_time_and_chunks_of_any_size(repo: Repo, seed: int) -> None:
    dice = random.Random(seed)
    hand = Hand(repo)
    order = list(repo.blocks)
    dice.shuffle(order)
    while not hand.done():
        for _ in range(dice.randrange(20)):
            if order:
                hand.bring(order.pop())
        # Looking ahead changes nothing of what comes.
        if dice.random() < 0.5:
            hand.wanted(dice.choice((1, 3, 1000)))
        hand.take(dice.choice((1, 2, 5, 50)))
        assert hand.given == expected(repo)[: len(hand.given)]
    assert hand.given == expected(repo)


@pytest.mark.parametrize("fetch", [1, 2, 10, 1000])
@pytest.mark.parametrize("n", [1, 7, 1000])
@pytest.mark.parametrize("prune", [False, True])
def test_a_walk_that_fetches_what_it_wants(repo: Repo, fetch: int, n: int, *, prune: bool) -> None:
    hand = Hand(repo)
    rounds = 0
    while not hand.done():
        if hand.take(n):
            continue
        if hand.done():
            break
        wanted = hand.wanted(fetch)
        assert wanted
        assert wanted[0] == hand.walker.missing().cid
        assert len(set(wanted)) == len(wanted) <= fetch
        assert not any(cid in hand.blocks for cid in wanted)
        if prune:
            hand.walker.prune(hand.blocks)
        hand.bring(*wanted)
        rounds += 1
    assert hand.given == expected(repo)
    if fetch == 1000 and not prune:
        # One round a level of the tree, and one for the records at most.
        assert rounds <= 2 + max((key_height(key) for key in repo.records), default=0)


# --- What is wanted -------------------------------------------------------------------------------


def test_at_first_the_root_is_wanted(repo: Repo) -> None:
    hand = Hand(repo)
    assert hand.wanted() == [repo.root]
    assert hand.take() == 0
    assert not hand.done()
    missing = hand.walker.missing()
    assert isinstance(missing, MissingBlock)
    assert (missing.cid, missing.kind, missing.rkey) == (repo.root, "node", None)


def test_with_all_nodes_at_hand_the_records_are_wanted_in_order() -> None:
    repo = plain_repo()
    hand = Hand(repo)
    hand.bring(*repo.nodes)
    records = list(repo.records.values())
    assert hand.wanted() == records
    assert hand.wanted(10) == records[:10]
    hand.bring(*records[3:6], *records[:2])
    assert hand.wanted(4) == [records[2], *records[6:9]]
    assert hand.take() == 2
    missing = hand.walker.missing()
    rkey = list(repo.records)[2]
    assert (missing.cid, missing.kind, missing.rkey) == (records[2], "record", rkey)
    assert rkey in str(missing)


def test_records_that_keys_share_are_wanted_once() -> None:
    repo = sharing_repo()
    hand = Hand(repo)
    hand.bring(*repo.nodes)
    assert hand.wanted() == list(dict.fromkeys(repo.records.values()))
    assert len(hand.wanted()) == 7
    assert len(hand.wanted(3)) == 3


@pytest.mark.parametrize("seed", range(20))
def test_what_is_wanted_is_what_a_naive_walk_lacks(repo: Repo, seed: int) -> None:
    dice = random.Random(seed)
    share = dice.choice((0.1, 0.5, 0.8))
    here = [cid for cid in repo.blocks if cid == repo.root or dice.random() < share]
    hand = Hand(repo)
    hand.bring(*here)
    lacking = in_walk_order(repo, here)
    for n in (1, 2, 10, 1_000_000):
        assert hand.wanted(n) == lacking[:n]
    hand.take_all(dice.choice((1, 9, 1000)))
    assert hand.wanted()[:1] == lacking[:1]
    assert hand.done() == (not lacking)


def test_nothing_is_wanted_beyond_a_node_that_is_faulty() -> None:
    repo = plain_repo()
    leaves = [cid for cid in repo.nodes if cbor2.loads(repo.blocks[cid])["l"] is None]
    hand = Hand(repo)
    hand.bring(*repo.nodes)
    spoilt = leaves[len(leaves) // 2]
    hand.blocks.raw[spoilt] = repo.blocks[spoilt] + b"\0"
    reachable = hand.wanted()
    assert 0 < len(reachable) < len(repo.records)
    assert reachable == list(repo.records.values())[: len(reachable)]
    hand.bring(*reachable)
    with pytest.raises(MalformedNode):
        hand.take_all(10)
    assert hand.given == expected(repo)[: len(reachable)]


def test_an_interrupt_leaves_a_walk_with_much_ahead_as_it_was() -> None:
    repo = plain_repo()
    calls = 0

    def process(block: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls % 23 == 0:
            raise KeyboardInterrupt
        return block

    blocks = Blocks(dict(repo.blocks), dict[bytes, bytes]())
    walker = Walker(repo.root, process, LIMITS)
    walker.wanted(blocks, 1000)
    given: Taken[bytes] = Taken([], [], [])
    interrupts = 0
    for n in itertools.islice(itertools.cycle([1, 2, 7, 20, 22]), 1000):
        try:
            given.extend(walker.take(blocks, n))
        except KeyboardInterrupt:
            interrupts += 1
        if walker.done:
            break
    assert interrupts > 10
    assert [*zip(*given, strict=True)] == expected(repo)


def before_leaves(
    wanted: Iterable[str], process: Callable[[bytes], bytes]
) -> tuple[Walker[bytes], Blocks[bytes]]:
    """A walk that has all at hand, of leaves as yet unopened, most of which have nothing wanted."""
    repo = plain_repo()
    blocks = Blocks(dict[bytes, bytes](), dict[bytes, bytes]())
    for cid in repo.nodes:
        tree = cbor2.loads(repo.blocks[cid])
        if tree["l"] is not None or any(entry["t"] is not None for entry in tree["e"]):
            blocks.raw[cid] = repo.blocks[cid]
    beside = [f"{rkey}." for rkey in repo.records]
    walker = Walker(repo.root, process, LIMITS, KeyRanges.prefixes([*beside, *wanted]))
    assert len(walker.wanted(blocks, 1000)) > 20
    blocks.raw.update(repo.blocks)
    return walker, blocks


def test_what_is_wanted_comes_after_much_that_may_be_there_and_is_not() -> None:
    last = expected(plain_repo())[-1]
    walker, blocks = before_leaves([last[0]], bytes)
    assert [*zip(*walker.take(blocks, 1), strict=True)] == [last]
    assert not walker.take(blocks, 1).rkeys
    assert walker.done


@pytest.mark.parametrize("interrupted", [1, 2])
def test_an_interrupt_after_much_that_is_not_wanted_loses_nothing(interrupted: int) -> None:
    calls = 0

    def process(block: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls == interrupted:
            raise KeyboardInterrupt
        return block

    every = expected(plain_repo())
    two = [every[-30], every[-1]]
    walker, blocks = before_leaves([rkey for rkey, _, _ in two], process)
    given: Taken[bytes] = Taken([], [], [])
    for _ in range(5):
        try:
            given.extend(walker.take(blocks, 2))
        except KeyboardInterrupt:
            assert calls == interrupted
    assert calls > interrupted
    assert [*zip(*given, strict=True)] == two


# --- Letting go -----------------------------------------------------------------------------------


def test_pruning_lets_go_of_what_has_been_walked_and_keeps_what_has_not() -> None:
    repo = plain_repo()
    hand = Hand(repo)
    hand.bring(*repo.blocks)
    hand.take(100)
    hand.wanted()
    hand.walker.prune(hand.blocks)
    still = list(repo.records.values())[100:]
    assert set(hand.blocks.raw) == set(still)
    assert hand.take_all() == expected(repo)
    hand.walker.prune(hand.blocks)
    assert hand.blocks.raw == {}


def test_pruning_keeps_all_of_a_long_run() -> None:
    repo = build_repo({key: {"n": n} for n, key in enumerate(keys_of(0, 200))})
    assert len(repo.nodes) == 1
    hand = Hand(repo)
    hand.bring(*repo.blocks)
    hand.take(10)
    hand.walker.prune(hand.blocks)
    assert set(hand.blocks.raw) == set(list(repo.records.values())[10:])


def test_pruning_keeps_a_record_that_comes_again() -> None:
    repo = sharing_repo()
    hand = Hand(repo)
    hand.bring(*repo.blocks)
    for _ in range(len(repo.records)):
        hand.take(1)
        hand.wanted()
        hand.walker.prune(hand.blocks)
    assert hand.done()
    assert hand.given == expected(repo)


def test_pruning_keeps_nodes_that_are_still_to_be_given() -> None:
    repo = plain_repo()
    blocks = Blocks(dict(repo.blocks), dict[bytes, bytes]())
    walker = Walker(repo.root, bytes, LIMITS)
    items = walker.take_items(blocks, 5)
    walker.wanted(blocks, 1000)
    walker.prune(blocks)
    while more := walker.take_items(blocks, 100):
        items += more
    assert walker.done
    assert {item.cid for item in items if isinstance(item, TreeNode)} == set(repo.nodes)


def test_pruning_looks_at_both_tables() -> None:
    repo = one_record_repo()
    (record,) = repo.records.values()
    blocks: Blocks[int] = Blocks(
        {repo.root: repo.blocks[repo.root], b"odd": b""}, {record: 7, b"old": 8}
    )
    walker = Walker(repo.root, len, LIMITS)
    walker.prune(blocks)
    assert blocks.raw.keys() == {repo.root}
    assert blocks.processed == {}
    blocks.processed[record] = 7
    assert walker.take(blocks, 1) == ([*repo.records], [record], [7])
    assert walker.done


# --- Two states of a block ------------------------------------------------------------------------


def test_processed_records_are_given_as_they_are_and_raw_ones_are_processed() -> None:
    repo = build_repo({f"com.example.a/{n}": {"n": n} for n in range(10)})
    cids = list(repo.records.values())
    raw = {cid: repo.blocks[cid] for cid in (*repo.nodes, *cids[::2])}
    blocks: Blocks[int] = Blocks(raw, {cid: 1000 + n for n, cid in enumerate(cids) if n % 2})
    taken = Walker(repo.root, len, LIMITS).take(blocks, 100)
    lengths = [len(repo.blocks[cid]) for cid in cids]
    assert taken == (
        list(repo.records),
        cids,
        [1000 + n if n % 2 else lengths[n] for n in range(10)],
    )


def test_a_processed_block_is_no_node() -> None:
    repo = one_record_repo()
    walker = Walker(repo.root, len, LIMITS)
    blocks: Blocks[int] = Blocks({}, {repo.root: 5})
    assert walker.wanted(blocks, 10) == []
    with pytest.raises(MalformedNode) as caught:
        walker.take(blocks, 1)
    assert caught.value.cid == repo.root


def test_the_processor_is_called_for_records_only_and_its_failure_names_the_record() -> None:
    repo = node_like_repo()
    seen: list[bytes] = []

    def process(block: bytes) -> int:
        seen.append(block)
        if block == repo.blocks[failing]:
            raise LookupError("not today")
        return len(block)

    keys = list(repo.records)
    failing = repo.records["com.example.c/other"]
    place = keys.index("com.example.c/other")
    walker = Walker(repo.root, process, LIMITS)
    blocks: Blocks[int] = Blocks(dict(repo.blocks), {})
    assert walker.take(blocks, 1000).rkeys == keys[:place]
    for _ in range(3):
        with pytest.raises(ProcessError) as caught:
            walker.take(blocks, 1000)
        assert (caught.value.rkey, caught.value.cid) == (keys[place], failing)
        assert isinstance(caught.value.__cause__, LookupError)
    assert seen == [repo.blocks[cid] for cid in list(repo.records.values())[: place + 1]]


# --- Errors ---------------------------------------------------------------------------------------


RECORD: Final = encode({"text": "a record"})
RECORD_CID: Final = cid_of(RECORD)


def keys_after(key: str, height: int, count: int) -> list[str]:
    """Keys of a height between `key` and whatever does not begin with it."""
    found = (name for name in names(key + "-") if key_height(name) == height)
    return list(itertools.islice(found, count))


def keys_of(height: int, count: int, collection: str = "com.example.k") -> list[str]:
    found = (name for name in names(collection) if key_height(name) == height)
    return list(itertools.islice(found, count))


@dataclass
class Made:
    """A node made by hand, with all that is below it."""

    block: bytes
    below: dict[bytes, bytes]

    @property
    def cid(self) -> bytes:
        return cid_of(self.block)

    @property
    def blocks(self) -> dict[bytes, bytes]:
        return {RECORD_CID: RECORD, self.cid: self.block, **self.below}


def made(*rows: tuple[str | bytes, Made | None], left: Made | None = None) -> Made:
    """Make a node of keys, each with the subtree after it or `None`; no prefix is left out."""
    previous = b""
    entries: list[Entry] = []
    below: dict[bytes, bytes] = {}
    for name, subtree in rows:
        key = name.encode() if isinstance(name, str) else name
        pairs = zip(previous, key, strict=False)
        prefix = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        entries.append((prefix, key[prefix:], RECORD_CID, subtree.cid if subtree else None))
        below |= subtree.blocks if subtree else {}
        previous = key
    below |= left.blocks if left else {}
    return Made(node(left.cid if left else None, entries), below)


def leaf(*keys: str | bytes) -> Made:
    return made(*((key, None) for key in keys))


def walk_to_the_error(
    top: Made, n: int, limits: Limits = LIMITS
) -> tuple[list[str], RepoStreamError]:
    """Walk a faulty tree in chunks; the error has to come after the records, and to stay."""
    blocks = Blocks(top.blocks, top.blocks)
    walker = Walker(top.cid, bytes, limits)
    rkeys: list[str] = []
    try:
        while taken := walker.take(blocks, n).rkeys:
            rkeys += taken
    except RepoStreamError as error:
        fault = error
    else:
        raise AssertionError("no error came")
    for again in (1, n, 1000):
        with pytest.raises(type(fault)) as caught:
            walker.take(blocks, again)
        assert caught.value is fault
    assert not walker.done
    return rkeys, fault


ONE, TWO = keys_of(1, 2)
HIGH: Final = keys_of(2, 1)[0]
EARLY: Final = keys_of(0, 3, "com.example.a")
BETWEEN: Final = keys_after(ONE, 0, 3)
BEYOND: Final = keys_after(TWO, 0, 3)
NOT_UTF8: Final = next(
    key for n in range(100) if key_height(key := ONE.encode() + b"\xff%d" % n) == 0
)
BROKEN: Final = Made(b"\xa2\x61e\x80\x61l\xf7", {})


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("top", "before", "error", "fields"),
    [
        pytest.param(BROKEN, [], MalformedNode, {"cid": BROKEN.cid}, id="a broken root"),
        pytest.param(
            made((ONE, leaf(*BETWEEN)), (TWO, BROKEN), left=leaf(*EARLY)),
            [*EARLY, ONE, *BETWEEN, TWO],
            MalformedNode,
            {"cid": BROKEN.cid},
            id="a broken end",
        ),
        pytest.param(
            made((ONE, BROKEN), (TWO, None), left=leaf(*EARLY)),
            [*EARLY, ONE],
            MalformedNode,
            {},
            id="broken in the middle",
        ),
        pytest.param(
            made((ONE, leaf(*BEYOND)), (TWO, None)),
            [ONE],
            KeyOutOfRange,
            {"key": BEYOND[-1].encode(), "lower": ONE.encode(), "upper": TWO.encode()},
            id="keys beyond their range",
        ),
        pytest.param(
            made((ONE, None), (TWO, leaf(*BETWEEN))),
            [ONE, TWO],
            KeyOutOfRange,
            {"key": BETWEEN[0].encode(), "lower": TWO.encode(), "upper": None},
            id="keys short of their range",
        ),
        pytest.param(
            made((ONE, None), left=leaf(*EARLY, *BETWEEN)),
            [],
            KeyOutOfRange,
            {"key": BETWEEN[-1].encode(), "lower": None, "upper": ONE.encode()},
            id="keys beyond the first",
        ),
        pytest.param(
            made((HIGH, made((keys_after(HIGH, 1, 1)[0], None), left=leaf(*EARLY)))),
            [HIGH],
            KeyOutOfRange,
            {"key": EARLY[0].encode(), "lower": HIGH.encode()},
            id="keys out of a range from two levels up",
        ),
        pytest.param(
            made((HIGH, made(left=leaf(*EARLY)))),
            [HIGH],
            KeyOutOfRange,
            {"key": EARLY[0].encode(), "lower": HIGH.encode(), "upper": None},
            id="keys out of a range, through a node without keys",
        ),
        pytest.param(
            made((ONE, leaf(*BETWEEN, TWO))),
            [ONE],
            WrongDepth,
            {"key": TWO.encode(), "depth": 1, "expected": 0},
            id="a key that belongs higher",
        ),
        pytest.param(
            made((ONE, made()), left=leaf(*EARLY)),
            [*EARLY, ONE],
            EmptyNode,
            {"depth": 0},
            id="an empty leaf",
        ),
        pytest.param(
            made((ONE, leaf(NOT_UTF8))),
            [ONE],
            InvalidKey,
            {"key": NOT_UTF8},
            id="a key that is not UTF-8",
        ),
        pytest.param(
            made((ONE, Made(b"\xa2\x61e\x99\xff\xff", {}))),
            [ONE],
            LimitExceeded,
            {"limit": "node_entries", "actual": 0xFFFF},
            id="too many entries",
        ),
    ],
)
def test_records_before_an_error_come_first_and_the_error_stays(
    n: int, top: Made, before: list[str], error: type[RepoStreamError], fields: dict[str, object]
) -> None:
    rkeys, fault = walk_to_the_error(top, n)
    assert rkeys == before
    assert type(fault) is error
    assert {name: getattr(fault, name) for name in fields} == fields


def test_a_good_tree_of_the_same_pieces_is_walked() -> None:
    top = made((ONE, leaf(*BETWEEN)), (TWO, leaf(*BEYOND)), left=leaf(*EARLY))
    taken = Walker(top.cid, bytes, LIMITS).take(Blocks(top.blocks, top.blocks), 100)
    assert taken.rkeys == [*EARLY, ONE, *BETWEEN, TWO, *BEYOND]
    assert set(taken.values) == {RECORD}


def test_keys_up_to_the_very_ends_of_their_range_are_fine() -> None:
    last = next(f"{ONE}~{n}" for n in range(100) if key_height(f"{ONE}~{n}") == 0)
    top = made((ONE, leaf(BETWEEN[0], last)), (TWO, None))
    taken = Walker(top.cid, bytes, LIMITS).take(Blocks(top.blocks, top.blocks), 100)
    assert taken.rkeys == [ONE, BETWEEN[0], last, TWO]


def test_the_depth_of_the_root_has_a_limit() -> None:
    rkeys, fault = walk_to_the_error(leaf(HIGH), 10, Limits(mst_depth=1))
    assert rkeys == []
    assert isinstance(fault, LimitExceeded)
    assert (fault.limit, fault.maximum, fault.actual) == ("mst_depth", 1, 2)
    top = leaf(HIGH)
    walker = Walker(top.cid, bytes, Limits(mst_depth=2))
    assert walker.take(Blocks(top.blocks, top.blocks), 10).rkeys == [HIGH]


def test_looking_ahead_at_a_faulty_node_does_not_bring_its_error_forward() -> None:
    top = made((ONE, leaf(*BETWEEN)), (TWO, BROKEN), left=leaf(*EARLY))
    blocks = Blocks(top.blocks, top.blocks)
    walker = Walker(top.cid, bytes, LIMITS)
    rkeys: list[str] = []
    for _ in range(8):
        assert walker.wanted(blocks, 100) == []
        rkeys += walker.take(blocks, 1).rkeys
    assert rkeys == [*EARLY, ONE, *BETWEEN, TWO]
    with pytest.raises(NodeError):
        walker.take(blocks, 1)


def test_a_missing_block_is_no_error_of_the_walker() -> None:
    hand = Hand(one_record_repo())
    (rkey,), (record,) = hand.repo.records, hand.repo.records.values()
    hand.bring(hand.repo.root)
    for _ in range(3):
        assert hand.take() == 0
        missing = hand.walker.missing()
        assert (missing.cid, missing.kind, missing.rkey) == (record, "record", rkey)
    hand.bring(record)
    assert hand.take() == 1
    assert hand.done()


# --- Columns --------------------------------------------------------------------------------------


def test_columns_can_be_joined_and_cut() -> None:
    taken: Taken[int] = Taken([], [], [])
    assert list(taken) == [[], [], []]
    taken.extend(Taken(["a", "b"], [b"A", b"B"], [1, 2]))
    taken.extend(Taken(["c"], [b"C"], [3]))
    assert taken.cut(1) == (["b", "c"], [b"B", b"C"], [2, 3])
    assert taken.cut(0, 2) == (["a", "b"], [b"A", b"B"], [1, 2])
    assert taken.cut(3) == ([], [], [])
