"""The one walker, driven by hand: blocks come from a `dict`, in any order, at any time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import cbor2
import pytest

from repo_stream import (
    Limits,
    MalformedNode,
    MissingBlock,
    ProcessError,
)
from repo_stream.limits import KIB
from repo_stream.mst.blocks import Arrivals, Blocks
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Output, Taken, TreeNode
from repo_stream.mst.walker import Walker
from repo_stream.testing import (
    BuiltRepo,
    RawRecord,
    build_repo,
    cid_of,
    key_height,
    node,
    tid,
)
from support.forms import both_forms
from support.interrupts import each_press
from support.trees import keys_of

form = both_forms(
    "repo_stream.mst.walker",
    __name__,
    below=["repo_stream.mst.cursor", "repo_stream.mst.lookahead"],
)


def test_all_parts_of_a_walker_are_of_one_form() -> None:
    walker: type[Walker[Any]] = Walker
    look_ahead = walker.wanted.__globals__["look_ahead"]
    parts = [each.__module__ for each in (*walker.__mro__, look_ahead)]
    ours = [module for module in parts if module.startswith("repo_stream.")]
    assert len(ours) == 3
    assert len({"._" in module for module in ours}) == 1, ours


LIMITS: Final = Limits()
Triple = tuple[str, bytes, bytes]


# --- Repos to walk --------------------------------------------------------------------------------


def plain_repo(count: int = 300) -> BuiltRepo:
    return build_repo({f"com.example.{n % 3}/{tid(n << 33)}": {"n": n} for n in range(count)})


def sharing_repo() -> BuiltRepo:
    """Many keys, few records."""
    return build_repo({f"com.example.share/{n:03}": {"n": n % 7} for n in range(100)})


def node_like_repo() -> BuiltRepo:
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


def one_record_repo() -> BuiltRepo:
    return build_repo({"com.example.a/1": {"n": 1}})


REPOS: Final[dict[str, Callable[[], BuiltRepo]]] = {
    "empty": lambda: build_repo({}),
    "one record": one_record_repo,
    "plain": plain_repo,
    "sharing": sharing_repo,
    "node-like": node_like_repo,
}


@pytest.fixture(scope="module", params=REPOS)
def repo(request: pytest.FixtureRequest) -> BuiltRepo:
    return REPOS[request.param]()


def expected(repo: BuiltRepo) -> list[Triple]:
    return [(key, cid, repo.blocks[cid]) for key, cid in repo.records.items()]


def in_walk_order(repo: BuiltRepo, at_hand: Iterable[bytes] = ()) -> list[bytes]:
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

    repo: BuiltRepo
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
        assert len(taken.keys) <= n
        self.given += zip(taken.keys, taken.cids, taken.values, strict=True)
        return len(taken.keys)

    def take_all(self, n: int = 1_000_000) -> list[Triple]:
        while self.take(n):
            pass
        return self.given

    def wanted(self, n: int = 1_000_000) -> list[bytes]:
        return self.walker.wanted(self.blocks, n)

    def done(self) -> bool:
        return self.walker.done


def test_a_walk_with_all_blocks_at_hand_gives_every_record_in_order(repo: BuiltRepo) -> None:
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


def test_chunks_are_full_but_for_the_last() -> None:
    repo = plain_repo()
    for n in (1, 2, 3, 7, 100, 299, 300, 301):
        hand = Hand(repo)
        hand.bring(*repo.blocks)
        sizes = [hand.take(n) for _ in range(-(-300 // n))]
        assert sizes == [n] * (300 // n) + [300 % n] * (300 % n > 0)
        assert hand.given == expected(repo)
        assert hand.take(n) == 0


def test_a_walk_goes_as_far_as_blocks_come_one_by_one(repo: BuiltRepo) -> None:
    for seed in range(3):
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


def test_a_walk_is_the_same_for_blocks_that_come_at_any_time_and_chunks_of_any_size(
    repo: BuiltRepo,
) -> None:
    for seed in range(5):
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


@pytest.mark.parametrize(
    ("fetch", "n", "prune"),
    [
        pytest.param(1, 1, True, id="one by one, pruned"),
        pytest.param(2, 7, False, id="two at a time"),
        pytest.param(10, 7, True, id="ten at a time, pruned"),
        pytest.param(1000, 1, False, id="many at a time, records one by one"),
        pytest.param(1000, 1000, True, id="many at a time, pruned"),
        pytest.param(1000, 1000, False, id="many at a time"),
    ],
)
def test_a_walk_that_fetches_what_it_wants_is_whole(
    repo: BuiltRepo, fetch: int, n: int, *, prune: bool
) -> None:
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


def test_at_first_the_root_is_wanted(repo: BuiltRepo) -> None:
    hand = Hand(repo)
    assert hand.wanted() == [repo.root]
    assert hand.take() == 0
    assert not hand.done()
    missing = hand.walker.missing()
    assert isinstance(missing, MissingBlock)
    assert (missing.cid, missing.kind, missing.key) == (repo.root, "node", None)


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
    key = list(repo.records)[2]
    assert (missing.cid, missing.kind, missing.key) == (records[2], "record", key)
    assert key in str(missing)


def test_records_that_keys_share_are_wanted_once() -> None:
    repo = sharing_repo()
    hand = Hand(repo)
    hand.bring(*repo.nodes)
    assert hand.wanted() == list(dict.fromkeys(repo.records.values()))
    assert len(hand.wanted()) == 7
    assert len(hand.wanted(3)) == 3


def test_what_is_wanted_is_what_a_naive_walk_lacks(repo: BuiltRepo) -> None:
    for seed in range(10):
        dice = random.Random(seed)
        share = (0.1, 0.5, 0.8)[seed % 3]
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


def test_interrupts_of_the_processor_lose_no_record() -> None:
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


@pytest.mark.parametrize("along", [False, True], ids=["kept", "along"])
def test_an_interrupt_leaves_nothing_in_the_lists_of_the_caller(along: bool) -> None:
    repo = plain_repo()
    taken: Taken[bytes] = Taken([], [], [])
    interrupts = 0

    def process(block: bytes) -> bytes:
        nonlocal interrupts
        if len(taken.keys) > 10 and not interrupts:
            interrupts += 1
            raise KeyboardInterrupt
        return block

    every = Blocks(dict(repo.blocks), dict[bytes, bytes]())
    order = [item.cid for item in Walker(repo.root, bytes, LIMITS).take_items(every, 1000)]
    arrivals = Arrivals(list[bytes](order), [repo.blocks[cid] for cid in order])
    walker = Walker(repo.root, process, LIMITS)

    def take() -> Taken[bytes]:
        if along:
            return walker.take_along(arrivals, Blocks({}, {}), 1000, taken)
        return walker.take(every, 1000, taken)

    with pytest.raises(KeyboardInterrupt):
        take()
    assert taken == ([], [], [])
    assert take() is taken
    assert [*zip(*taken, strict=True)] == expected(repo)


def test_an_interrupt_at_any_point_leaves_the_walk_where_the_lists_of_the_caller_end() -> None:
    repo = plain_repo(50)
    blocks = Blocks(dict(repo.blocks), dict[bytes, bytes]())
    for press in each_press():
        walker = Walker(repo.root, bytes, LIMITS)
        taken: Taken[bytes] = Taken([], [], [])
        with suppress(KeyboardInterrupt), press.within():
            walker.take(blocks, 20, taken)
        assert walker.has_ahead(b"") is not bool(taken.keys)
        taken.extend(walker.take(blocks, 1000))
        assert [*zip(*taken, strict=True)] == expected(repo), press


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
    beside = [f"{key}." for key in repo.records]
    walker = Walker(repo.root, process, LIMITS, KeyRanges.prefixes([*beside, *wanted]))
    assert len(walker.wanted(blocks, 1000)) > 20
    blocks.raw.update(repo.blocks)
    return walker, blocks


def test_a_wanted_record_is_found_behind_many_leaves_that_hold_none() -> None:
    last = expected(plain_repo())[-1]
    walker, blocks = before_leaves([last[0]], bytes)
    assert [*zip(*walker.take(blocks, 1), strict=True)] == [last]
    assert not walker.take(blocks, 1).keys
    assert walker.done


@pytest.mark.parametrize("interrupted", [1, 2], ids=["first", "second"])
def test_an_interrupt_behind_many_leaves_that_hold_none_loses_no_record(interrupted: int) -> None:
    calls = 0

    def process(block: bytes) -> bytes:
        nonlocal calls
        calls += 1
        if calls == interrupted:
            raise KeyboardInterrupt
        return block

    every = expected(plain_repo())
    two = [every[-30], every[-1]]
    walker, blocks = before_leaves([key for key, _, _ in two], process)
    given: Taken[bytes] = Taken([], [], [])
    for _ in range(5):
        try:
            given.extend(walker.take(blocks, 2))
        except KeyboardInterrupt:
            assert calls == interrupted
    assert calls > interrupted
    assert [*zip(*given, strict=True)] == two


# --- Letting go -----------------------------------------------------------------------------------


def test_pruning_keeps_only_blocks_that_are_still_to_come() -> None:
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


def test_pruning_keeps_all_records_of_a_long_node() -> None:
    repo = build_repo({key: {"n": n} for n, key in enumerate(keys_of(0, 200))})
    assert len(repo.nodes) == 1
    hand = Hand(repo)
    hand.bring(*repo.blocks)
    hand.take(10)
    hand.walker.prune(hand.blocks)
    assert set(hand.blocks.raw) == set(list(repo.records.values())[10:])


def test_pruning_keeps_a_record_under_several_keys() -> None:
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


def test_pruning_takes_raw_and_processed_blocks() -> None:
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


# --- Skipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 10], ids=["at once", "after ten records"])
def test_skipping_to_a_key_passes_by_all_before_it(taken: int) -> None:
    repo = plain_repo()
    hand = Hand(repo)
    hand.bring(*repo.blocks)
    walker = hand.walker
    walker.passing = {}
    assert hand.take(taken) == taken
    left_out = [walker.left_out]
    keys = list(repo.records)
    for place in (taken + 1, 50, 51, 200):
        assert walker.has_ahead(keys[place].encode())
        walker.skip_to(keys[place].encode())
        left_out.append(walker.left_out)
        assert not walker.has_ahead(keys[place - 1].encode())
        hand.take(1)
        assert hand.given[-1] == expected(repo)[place]
    assert left_out == [False, True, True, True, True]
    hand.take_all()
    given = (taken + 1, 50, 51, *range(200, 300))
    assert hand.given[taken:] == [expected(repo)[place] for place in given]

    places = (taken, *range(taken + 2, 50), *range(52, 200))
    skipped = {repo.records[keys[place]] for place in places}
    by = [cid for cid in repo.ordered("stream") if walker.passes(cid, repo.blocks[cid])]
    assert skipped == set(by) - set(repo.nodes)
    assert not any(walker.passes(cid, repo.blocks[cid]) for cid in by)


# --- Large records --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kept", "along", "items"])
@pytest.mark.parametrize("shared", [False, True], ids=["distinct", "shared"])
@pytest.mark.parametrize("deep", [False, True], ids=["one node", "many nodes"])
def test_a_take_processes_large_records_a_few_at_a_time(
    way: str, *, shared: bool, deep: bool
) -> None:
    keys = [f"a/{n}" for n in range(30)] if deep else keys_of(0, 30)
    numbers = [0 if shared else n for n in range(30)]
    repo = build_repo(
        {key: RawRecord(bytes([n]) * 100 * KIB) for key, n in zip(keys, numbers, strict=True)}
    )
    calls = 0

    def process(block: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return block

    processed = Blocks(repo.blocks, repo.blocks)
    order = [item.cid for item in Walker(repo.root, bytes, LIMITS).take_items(processed, 1000)]
    arrivals = Arrivals(list[bytes](order), [repo.blocks[cid] for cid in order])
    raw = Blocks(dict(repo.blocks), dict[bytes, bytes]())
    walker = Walker(repo.root, process, LIMITS)
    given: list[Triple] = []
    while not walker.done:
        before = calls
        if way == "items":
            items = walker.take_items(raw, 1000)
            given += [item for item in items if isinstance(item, Output)]
        else:
            along = way == "along"
            taken = walker.take_along(arrivals, raw, 1000) if along else walker.take(raw, 1000)
            given += zip(taken.keys, taken.cids, taken.values, strict=True)
        assert calls - before <= 3  # three have more than 256 KiB
    assert given == expected(repo)
    assert calls == len(given)


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
    assert walker.take(blocks, 1000).keys == keys[:place]
    for _ in range(3):
        with pytest.raises(ProcessError) as caught:
            walker.take(blocks, 1000)
        assert (caught.value.key, caught.value.cid) == (keys[place], failing)
        assert isinstance(caught.value.__cause__, LookupError)
    assert seen == [repo.blocks[cid] for cid in list(repo.records.values())[: place + 1]]


def test_a_missing_block_is_no_error_of_the_walker() -> None:
    hand = Hand(one_record_repo())
    (key,), (record,) = hand.repo.records, hand.repo.records.values()
    hand.bring(hand.repo.root)
    for _ in range(3):
        assert hand.take() == 0
        missing = hand.walker.missing()
        assert (missing.cid, missing.kind, missing.key) == (record, "record", key)
    hand.bring(record)
    assert hand.take() == 1
    assert hand.done()


# --- Columns --------------------------------------------------------------------------------------


def test_columns_of_records_are_joined_and_cut() -> None:
    taken: Taken[int] = Taken([], [], [])
    assert list(taken) == [[], [], []]
    taken.extend(Taken(["a", "b"], [b"A", b"B"], [1, 2]))
    taken.extend(Taken(["c"], [b"C"], [3]))
    assert taken.cut(1) == (["b", "c"], [b"B", b"C"], [2, 3])
    assert taken.cut(0, 2) == (["a", "b"], [b"A", b"B"], [1, 2])
    assert taken.cut(3) == ([], [], [])
