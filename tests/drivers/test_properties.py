"""Repos, files and mutations that nobody thought of.

Examples are made by hypothesis, about a hundred a test; with `REPO_STREAM_HYPOTHESIS=thorough` in
the environment, a hundred times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from repo_stream import (
    CarDecoder,
    CarReader,
    Cid,
    DriverBuilder,
    Limits,
    RepoStreamError,
)
from repo_stream.car import parse_header, parse_header_plainly
from repo_stream.cid import ordinary
from repo_stream.dagcbor import encode
from repo_stream.mst import (
    Commit,
    Node,
    decode_commit_plainly,
    decode_node,
    decode_node_plainly,
)
from repo_stream.testing import Entry, Repo, build_repo, node
from support.strategies import (
    BACKENDS,
    EXAMPLES,
    FEW,
    REPOS,
    SMALL_REPOS,
    expected,
    in_pieces,
    mutated,
    run,
    shared_bytes,
    walked,
)

# --- Any repo -----------------------------------------------------------------------------------


LIMITS = st.sampled_from([0, 0.0005, 0.003, 0.01, 16])
CUTS = st.lists(st.integers(1, 50) | st.integers(1, 2000), max_size=4)
CHUNKS = st.integers(1, 5) | st.sampled_from([7, 256, 10_000])
ORDERS: Any = st.sampled_from(["shuffled", "stream", "export"])


@BACKENDS
@EXAMPLES
@given(
    repo=REPOS,
    order=ORDERS,
    seed=st.integers(0, 99),
    copies=st.integers(1, 3),
    cuts=CUTS,
    limit=LIMITS,
    chunk=CHUNKS,
)
def test_what_goes_in_comes_out(
    *,
    backend: str,
    repo: Repo,
    order: Any,
    seed: int,
    copies: int,
    cuts: list[int],
    limit: float,
    chunk: int,
) -> None:
    car = repo.to_car(order=order, seed=seed, copies=copies)

    async def check() -> None:
        source = in_pieces(car, cuts)
        got, error = await walked(source, DriverBuilder(mem_limit_mb=limit), chunk)
        if error is not None:
            raise error
        assert got == expected(repo)

    run(backend, check)


@BACKENDS
@FEW
@given(repo=REPOS, extra=st.lists(st.binary(max_size=40), max_size=5), chunk=CHUNKS, at=CUTS)
def test_processed_values_are_the_same_both_ways(
    backend: str, repo: Repo, extra: list[bytes], chunk: int, at: list[int]
) -> None:
    car = repo.to_car(extra_blocks=[(ordinary(data), data) for data in extra])

    def process(data: bytes) -> tuple[int, list[bytes], dict[bytes, bytes]]:
        return len(data), [data[:3]], {data[:2]: data[2:]}

    async def check() -> None:
        outcomes: list[Any] = []
        for limit in (16, 0):
            builder = DriverBuilder(mem_limit_mb=limit, block_processor=process)
            outcomes.append(await walked(in_pieces(car, at), builder, chunk))
        whole = [(rkey, cid, process(repo.blocks[cid])) for rkey, cid in repo.records.items()]
        assert outcomes == [(whole, None), (whole, None)]

    run(backend, check)


class Refused(Exception):
    pass


@BACKENDS
@FEW
@given(
    repo=REPOS,
    refused=st.integers(0, 7),
    missing=st.lists(st.integers(0, 100), max_size=2),
    chunk=CHUNKS,
)
def test_faults_are_the_same_both_ways(
    backend: str, repo: Repo, refused: int, missing: list[int], chunk: int
) -> None:
    """A processor that raises, blocks that are not there: the same records and the same error."""
    cids = [cid for cid in repo.blocks if cid != repo.commit_cid]
    car = repo.to_car(omit=[cids[number % len(cids)] for number in missing])

    def process(data: bytes) -> bytes:
        if ordinary(data)[-1] % 8 == refused:
            raise Refused
        return data

    async def check() -> None:
        outcomes: list[Any] = []
        for limit in (16, 0):
            builder = DriverBuilder(mem_limit_mb=limit, block_processor=process)
            got, error = await walked(car, builder, chunk)
            outcomes.append((got, type(error), str(error)))
        in_memory, on_disk = outcomes
        assert in_memory == on_disk
        whole = expected(repo)
        assert in_memory[0] == whole[: len(in_memory[0])]
        if in_memory[1] is type(None):
            assert in_memory[0] == whole

    run(backend, check)


# --- Any mutation -------------------------------------------------------------------------------


@BACKENDS
@EXAMPLES
@given(data=st.data(), repo=SMALL_REPOS, limit=LIMITS, chunk=CHUNKS, cuts=CUTS)
def test_a_mutated_file_gives_the_same_records_or_an_error(
    *,
    backend: str,
    data: st.DataObject,
    repo: Repo,
    limit: float,
    chunk: int,
    cuts: list[int],
) -> None:
    """Never another exception, and never a record that was not there."""
    car = data.draw(mutated(repo.to_car(order=data.draw(ORDERS))))

    async def check() -> None:
        got, error = await walked(in_pieces(car, cuts), DriverBuilder(mem_limit_mb=limit), chunk)
        whole = expected(repo)
        assert got == whole[: len(got)]
        if error is None:
            assert got == whole

    run(backend, check)


@BACKENDS
@EXAMPLES
@given(data=st.data(), repo=SMALL_REPOS, chunk=CHUNKS)
def test_a_mutated_block_under_its_own_cid_is_the_same_both_ways(
    backend: str, data: st.DataObject, repo: Repo, chunk: int
) -> None:
    """Unverified, so that what is wrong gets as far as the tree, the commit and the records."""
    blocks = dict(repo.blocks)
    for cid in data.draw(st.lists(st.sampled_from(sorted(blocks)), min_size=1, max_size=2)):
        blocks[cid] = data.draw(mutated(blocks[cid]))
    car = repo.to_car(omit=blocks, extra_blocks=blocks.items())

    async def check() -> None:
        outcomes: list[Any] = []
        for limit in (16, 0):
            builder = DriverBuilder(mem_limit_mb=limit, verify_cids=False)
            got, error = await walked(car, builder, chunk)
            rkeys = [output.rkey.encode() for output in got]
            assert rkeys == sorted(set(rkeys))
            outcomes.append((got, type(error), str(error)))
        assert outcomes[0] == outcomes[1]

    run(backend, check)


@BACKENDS
@FEW
@given(junk=st.binary(max_size=200), limit=st.sampled_from([0, 16]), header=st.booleans())
def test_junk_is_an_error(backend: str, junk: bytes, limit: float, header: bool) -> None:
    car = build_repo({}).to_car(omit=build_repo({}).blocks)
    source = car + junk if header else junk

    async def check() -> None:
        got, error = await walked(source, DriverBuilder(mem_limit_mb=limit), 7)
        assert got == []
        assert error is not None

    run(backend, check)


# --- The decoder --------------------------------------------------------------------------------


def decoded(car: bytes, cuts: list[int]) -> tuple[list[tuple[bytes, bytes]], str, Any]:
    """The blocks, the error, and what the decoder says at the end."""
    decoder = CarDecoder(limits=Limits(block_bytes=5000))
    blocks: list[tuple[bytes, bytes]] = []
    error = ""
    at = turn = 0
    try:
        while at < len(car):
            size = cuts[turn % len(cuts)] if cuts else len(car)
            blocks += decoder.feed(car[at : at + size])
            at, turn = at + size, turn + 1
        decoder.finish()
    except RepoStreamError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return blocks, error, (decoder.header, decoder.blocks)


@EXAMPLES
@given(data=st.data(), repo=SMALL_REPOS, one=CUTS, other=CUTS)
def test_pieces_make_no_difference(
    data: st.DataObject, repo: Repo, one: list[int], other: list[int]
) -> None:
    """The same blocks, and the same error at the same offset, however the file is cut."""
    car = data.draw(st.just(repo.to_car()) | mutated(repo.to_car()))
    assert decoded(car, one) == decoded(car, other)


@BACKENDS
@FEW
@given(repo=SMALL_REPOS, cuts=CUTS)
def test_a_reader_gives_every_block(backend: str, repo: Repo, cuts: list[int]) -> None:
    car = repo.to_car(order="stream", copies=2)

    async def check() -> None:
        async with await CarReader.open(in_pieces(car, cuts)) as reader:
            assert reader.header.roots == (repo.commit_cid,)
            got = [block async for block in reader]
        assert got == [block for block in repo.blocks.items() for _ in range(2)]

    run(backend, check)


# --- Nodes --------------------------------------------------------------------------------------

CIDS = st.binary(min_size=32, max_size=32).map(lambda digest: b"\x01\x71\x12\x20" + digest)
SOME_CIDS = st.sampled_from([ordinary(bytes([number])) for number in range(4)])


@st.composite
def nodes(draw: st.DrawFn) -> bytes:
    """A node with its keys in order, which is all that can be seen in it alone."""
    keys = sorted(draw(st.sets(st.binary(min_size=1, max_size=300), max_size=30)))
    if draw(st.booleans()):
        start = draw(st.binary(max_size=280))
        keys = [start + key for key in keys]
    entries: list[Entry] = []
    before = b""
    for key in keys:
        shared = shared_bytes(before, key)
        entries.append((shared, key[shared:], draw(SOME_CIDS), draw(st.none() | SOME_CIDS)))
        before = key
    return node(draw(st.none() | CIDS), entries)


def node_or_error(decode: Callable[..., Any], block: bytes, limits: Limits) -> Any:
    try:
        return decode(block, ordinary(block), limits)
    except RepoStreamError as error:
        return type(error), str(error)


NODE_LIMITS = st.sampled_from(
    [Limits(), Limits(node_entries=5), Limits(key_bytes=300), Limits(key_bytes=511)]
)


@EXAMPLES
@given(data=st.data(), limits=NODE_LIMITS)
def test_both_node_decoders_agree(data: st.DataObject, limits: Limits) -> None:
    block = data.draw(nodes())
    block = data.draw(st.just(block) | mutated(block))
    fast = node_or_error(decode_node, block, limits)
    assert fast == node_or_error(decode_node_plainly, block, limits)


def encoded_again(decoded_node: Node) -> bytes:
    left, keys, values, trees = decoded_node
    entries: list[Entry] = []
    before = b""
    for at, (key, value) in enumerate(zip(keys, values, strict=True)):
        shared = shared_bytes(before, key)
        entries.append((shared, key[shared:], value, trees.get(at)))
        before = key
    return node(left, entries)


@EXAMPLES
@given(block=nodes())
def test_a_decoded_node_is_the_one_that_was_encoded(block: bytes) -> None:
    assert encoded_again(decode_node(block, ordinary(block), Limits())) == block


@EXAMPLES
@given(data=st.data())
def test_only_what_would_be_encoded_so_is_decoded(data: st.DataObject) -> None:
    """A mutant that is taken is canonical: encoding what was decoded gives the same bytes."""
    block = data.draw(mutated(data.draw(nodes())))
    try:
        found = decode_node(block, ordinary(block), Limits())
    except RepoStreamError:
        return
    assert encoded_again(found) == block
    assert found[1] == sorted(set(found[1]))


# --- The header and the commit ------------------------------------------------------------------

LINKS = CIDS.map(Cid)
USUAL_DIDS = st.text("abz234567", min_size=24, max_size=24).map("did:plc:".__add__)
DIDS = USUAL_DIDS | st.sampled_from(["did:web:example.com", "did:plc:" + "a" * 25, "did:x:", "é"])
TIDS = st.sampled_from(["3jzfcijpj2z2a", "2222222222222", "zzzzzzzzzzzzz", "3jzfcijpj2z2", ""])


def commits(dids: st.SearchStrategy[str], prevs: st.SearchStrategy[object]) -> Any:
    fields = {"did": dids, "rev": TIDS, "sig": st.binary(min_size=63, max_size=65), "data": LINKS}
    return st.fixed_dictionaries({**fields, "prev": prevs, "version": st.sampled_from([3, 2])})


COMMITS = commits(USUAL_DIDS, st.none()) | commits(DIDS, st.none() | LINKS)
HEADERS = st.fixed_dictionaries(
    {"roots": st.lists(LINKS, min_size=1, max_size=2), "version": st.sampled_from([1, 1, 1, 2])}
)


def result_or_error(decode: Callable[..., Any], *given_: object) -> Any:
    try:
        return decode(*given_)
    except RepoStreamError as error:
        return type(error), str(error)


@EXAMPLES
@given(data=st.data(), fields=COMMITS)
def test_both_commit_decoders_agree(data: st.DataObject, fields: dict[str, object]) -> None:
    block = encode(fields)
    block = data.draw(st.just(block) | mutated(block))
    cid = Cid.of(block)
    decoded = result_or_error(Commit.decode, block, cid)
    assert decoded == result_or_error(decode_commit_plainly, block, cid)


@EXAMPLES
@given(data=st.data(), fields=HEADERS)
def test_both_header_decoders_agree(data: st.DataObject, fields: dict[str, object]) -> None:
    header = encode(fields)
    header = data.draw(st.just(header) | mutated(header))
    assert result_or_error(parse_header, header) == result_or_error(parse_header_plainly, header)


def test_each_byte_of_a_usual_commit_and_header_counts() -> None:
    link = Cid.of(b"")
    usual = {"did": "did:plc:" + "a" * 24, "rev": "3jzfcijpj2z2a", "sig": bytes(64)}
    block = encode({**usual, "data": link, "prev": None, "version": 3})
    header = encode({"roots": [link], "version": 1})
    for changed in with_one_byte_changed(block):
        decoded = result_or_error(Commit.decode, changed, link)
        assert decoded == result_or_error(decode_commit_plainly, changed, link)
    for changed in with_one_byte_changed(header):
        decoded = result_or_error(parse_header, changed)
        assert decoded == result_or_error(parse_header_plainly, changed)


def with_one_byte_changed(block: bytes) -> Iterator[bytes]:
    for at in range(len(block)):
        for bit in range(8):
            yield block[:at] + bytes([block[at] ^ 1 << bit]) + block[at + 1 :]
