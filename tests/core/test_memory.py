"""The memory store: what it says that it costs, what it keeps, and what it gives away."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import pytest

from repo_stream import Processor, sizes
from repo_stream.process import length, noop
from repo_stream.store.memory import MemoryStore
from repo_stream.testing import cid_of
from support import columns
from support.forms import both_forms

form = both_forms("repo_stream.store.memory", __name__)

Block = tuple[bytes, bytes]

MIB = 1 << 20
NODE_LIKE = b"\xa2\x61e\x80"


def block(data: bytes) -> Block:
    return cid_of(data), data


def blocks(count: int, size: int = 200) -> list[Block]:
    return [block(number.to_bytes(4, "big") * (size // 4)) for number in range(count)]


def batches(items: list[Block], size: int = 512) -> Iterator[list[Block]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def filled(items: list[Block], processor: Processor[Any], batch: int = 512) -> MemoryStore[Any]:
    store = MemoryStore(processor)
    for part in batches(items, batch):
        store.add(*columns(part))
    return store


RAW = Processor(noop)
LENGTHS = Processor(length)
BOTH = pytest.mark.parametrize(
    "processor", [pytest.param(RAW, id="raw"), pytest.param(LENGTHS, id="lengths")]
)


NUMBERS = (0, 256, 257, -7, 1 << 30, (1 << 60) - 1, 1 << 60, -(1 << 60))


@pytest.mark.parametrize(
    ("size", "kind"),
    [(-1, ValueError), (float("nan"), ValueError), (None, TypeError), ("9", TypeError)],
    ids=["negative", "nan", "None", "text"],
)
def test_a_size_with_which_the_limit_would_not_hold_is_refused(
    size: Any, kind: type[Exception]
) -> None:
    processor = Processor(length, size_of=lambda _: size)
    with pytest.raises(kind, match="what size_of returns must "):
        filled(blocks(3), processor)
    store = MemoryStore(processor)
    with pytest.raises(kind, match="what size_of returns must "):
        store.put_back(blocks(1)[0][0], block=None, result=5)


def test_a_result_costs_what_size_of_says() -> None:
    """The numbers among them are sized in place."""
    there = blocks(10)
    for value in (*NUMBERS, True, 3.5, "text", b"bytes"):
        result = returning(value)
        plain = filled(there, Processor(result))
        twin = filled(there, Processor(result, size_of=lambda each: sizes.size_of(each)))  # noqa: PLW0108 - another function
        assert plain.size == twin.size, value


def returning(value: object) -> Callable[[bytes], object]:
    return lambda _: value


# --- Against tracemalloc ------------------------------------------------------------------------


def growth_of(fill: Callable[[], MemoryStore[Any]]) -> tuple[int, int]:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        store = fill()
        return tracemalloc.get_traced_memory()[0] - before, store.size
    finally:
        tracemalloc.stop()


def backwards(data: bytes) -> tuple[int, bytes]:
    return len(data), bytes(reversed(data))


@pytest.mark.parametrize(
    "process",
    [
        pytest.param(noop, id="raw"),
        pytest.param(backwards, id="tuples"),
    ],
)
def test_the_size_is_what_is_allocated_in_batches_of_any_size(
    process: Callable[[bytes], Any],
) -> None:
    for batch in (1, 7, 512, 100_000):

        def fill(batch: int = batch) -> MemoryStore[Any]:
            return filled(blocks(2000, 400), Processor(process), batch)

        grown, said = growth_of(fill)
        # The allocators round up, which is not traced.
        assert said == pytest.approx(grown, rel=0.1), batch


def long_blocks(count: int) -> list[Block]:
    """Tiny blocks with CIDs of the greatest length, and ordinary ones between them."""
    long = [(b"\x01\x55\x00\x80" + data.ljust(128), data) for _, data in blocks(count, 4)]
    return [each for pair in zip(long, blocks(count, 8), strict=True) for each in pair]


@BOTH
@pytest.mark.parametrize("batch", [1, 7, 512])
def test_long_cids_are_counted_as_long_as_they_are_there(
    processor: Processor[Any], batch: int
) -> None:
    grown, said = growth_of(lambda: filled(long_blocks(2000), processor, batch))
    assert said == pytest.approx(grown, rel=0.1)
    some = long_blocks(300)
    store = filled([*some, *some, *some[:11]], processor, batch)
    full, half = contents(store), filled(some[:300], processor, batch)
    assert full == contents(filled(some, processor, batch))
    raw, processed = store.forget([cid for cid, _ in some[300:]])
    assert contents(store) == contents(half)
    for cid, data in raw:
        store.put_back(cid, block=data, result=None)
    for cid, result in processed:
        store.put_back(cid, block=None, result=result)
    assert contents(store) == full


def test_a_late_store_keeps_blocks_as_they_are_and_calls_no_processor() -> None:
    def never(block: bytes) -> int:
        pytest.fail(f"called with {block!r}")

    there = blocks(1000)
    late = MemoryStore(Processor(never), late=True)
    for part in batches([*there, *there[:10]]):
        late.add(*columns(part))
    raw = filled([*there, *there[:10]], RAW)
    assert (late.processes, raw.processes, MemoryStore(LENGTHS).processes) == (False, False, True)
    assert (dict(late.blocks.raw), len(late.blocks.processed)) == (dict(there), 0)
    empty = sys.getsizeof(late.blocks.processed)
    assert late.size == raw.size + empty
    assert late.forget([cid for cid, _ in there]) == (there, [])
    assert late.empty


@BOTH
def test_every_block_adds_to_the_size(processor: Processor[Any]) -> None:
    store = MemoryStore(processor)
    sizes = [store.size]
    for one in blocks(300, 1000):
        store.add(*columns([one]))
        sizes.append(store.size)
    assert all(one < other for one, other in pairwise(sizes))


@BOTH
def test_an_empty_store_costs_next_to_nothing(processor: Processor[Any]) -> None:
    store = MemoryStore(processor)
    assert 0 < store.size < 500
    before = store.size
    store.add([], [])
    assert store.size == before


# --- Blocks that come again ---------------------------------------------------------------------


@BOTH
def test_blocks_that_come_again_are_not_counted_again(processor: Processor[Any]) -> None:
    once = filled(blocks(1000, 300), processor).size
    again = blocks(1000, 300)
    for batch in (1, 100, 512, 10_000):
        for order in (again + again, [one for one in again for _ in range(3)]):
            assert filled(order, processor, batch).size == pytest.approx(once, rel=0.01)


LIKE_A_NODE = pytest.mark.parametrize("like_a_node", [False, True], ids=["record", "node-like"])


@LIKE_A_NODE
@BOTH
def test_a_large_block_among_small_repeats_is_counted(
    processor: Processor[Any], like_a_node: bool
) -> None:
    """Repeats cost nothing, but what comes with them costs what it costs."""
    small = blocks(511, 4)
    start = NODE_LIKE if like_a_node else b"\xa1"
    large = [block(start + bytes([number]) * 100_000) for number in range(100)]
    store = filled(small, processor)
    for one in large:
        store.add(*columns([*small, one]))
    held = sum(len(data) for _, data in large) if processor is RAW or like_a_node else 0
    assert store.size >= held
    assert store.size == pytest.approx(filled(small + large, processor).size, rel=0.01)


@LIKE_A_NODE
@BOTH
def test_other_bytes_under_a_known_cid_are_counted(
    processor: Processor[Any], like_a_node: bool
) -> None:
    """Where CIDs are not verified, or cannot be, any bytes can come under any of them."""
    start = NODE_LIKE if like_a_node else b"\xa1"
    cids = [cid_of(bytes([number])) for number in range(100)]
    small = [(cid, start) for cid in cids]
    large = [(cid, start + bytes(100_000)) for cid in cids]
    held = sum(len(data) for _, data in large) if processor is RAW or like_a_node else 0
    for batch in (1, 100, 300):
        store = filled([*small, *large, *large], processor, batch)
        assert store.size >= held
        assert store.size == pytest.approx(filled(large, processor).size, rel=0.01)
        # And what is gone is not counted any more.
        small_again = filled([*large, *small], processor, batch)
        assert small_again.size == pytest.approx(filled(small, processor).size, rel=0.01)


def test_of_two_blocks_with_one_cid_the_later_stays() -> None:
    cid = cid_of(b"first")
    for batch in (1, 2):
        store = filled([(cid, b"first"), (cid, b"second")], RAW, batch)
        assert store.blocks.raw == {cid: b"second"}
        lengths = filled([(cid, b"first"), (cid, b"second")], LENGTHS, batch)
        assert lengths.blocks.processed == {cid: 6}


def test_what_is_not_bytes_is_no_block() -> None:
    cids = [cid_of(b"first"), cid_of(b"second")]
    for wrong in (None, 5):
        store = MemoryStore(LENGTHS)
        with pytest.raises(TypeError):
            store.add(cids, cast("list[bytes]", [b"first", wrong]))
        assert len(store.blocks.processed) == 1


# --- Raw or processed ---------------------------------------------------------------------------


class Refused(Exception):
    pass


def refuse_odd(data: bytes) -> int:
    if data[3] % 2:
        raise Refused
    return len(data)


def test_blocks_that_could_be_a_node_or_failed_are_kept_raw() -> None:
    plain = blocks(100)
    like_nodes = [block(NODE_LIKE + bytes([number])) for number in range(50)]
    store = filled(plain + like_nodes, Processor(refuse_odd))
    odd = [one for one in plain if one[1][3] % 2]
    assert store.blocks.raw == dict(odd + like_nodes)
    assert store.blocks.processed == {cid: 200 for cid, data in plain if not data[3] % 2}
    assert all(cid in store.blocks for cid, _ in plain + like_nodes)


def test_a_block_is_kept_raw_on_request() -> None:
    store = MemoryStore(LENGTHS)
    cid, data = block(b"\xa1" + bytes(100_000))
    before = store.size
    store.keep_raw(cid, data)
    assert store.blocks.raw == {cid: data}
    assert store.blocks.processed == {}
    assert store.size - before >= 100_000


def test_the_processors_own_measure_counts() -> None:
    store = filled(blocks(1000), Processor(length, size_of=lambda _: 1_000_000))
    assert store.size > 1_000_000_000


# --- Giving blocks away -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("most", [1, 7, 340, 10_000])
def test_draining_gives_everything_away_once(processor: Processor[Any], most: int) -> None:
    plain = blocks(300)
    like_nodes = [block(NODE_LIKE + bytes([number])) for number in range(40)]
    store = filled(plain + like_nodes, processor)
    raw: list[Block] = []
    processed: list[tuple[bytes, Any]] = []
    for _ in range(1000):
        some_raw, some_processed = store.drain(most, MIB)
        assert len(some_raw) + len(some_processed) <= most
        if not some_raw and not some_processed:
            break
        raw += some_raw
        processed += some_processed
    if processor is RAW:
        assert sorted(raw) == sorted(plain + like_nodes)
        assert not processed
    else:
        assert sorted(raw) == sorted(like_nodes)
        assert sorted(processed) == sorted((cid, len(data)) for cid, data in plain)
    assert store.drain(most, MIB) == ([], [])


@BOTH
def test_draining_gives_no_more_bytes_of_raw_blocks_than_asked_for(
    processor: Processor[Any],
) -> None:
    like_nodes = [block(NODE_LIKE + bytes([number]) * 10_000) for number in range(20)]
    store = filled(like_nodes, processor)
    drained: list[Block] = []
    while blocks_now := store.drain(1000, 35_000)[0]:
        assert len(blocks_now) == (3 if len(drained) < 18 else 2)
        drained += blocks_now
    assert sorted(drained) == sorted(like_nodes)
    store = filled(like_nodes, processor)
    assert len(store.drain(1000, 1)[0]) == 1


@BOTH
def test_a_drained_store_is_as_new(processor: Processor[Any]) -> None:
    new = MemoryStore(processor).size
    store = filled(blocks(2000), processor)
    full = store.size
    for _ in range(3):
        assert store.size == full
        while any(store.drain(300, MIB)):
            pass
        assert store.size == new
        assert not store.blocks.raw
        assert not store.blocks.processed
        for part in batches(blocks(2000)):
            store.add(*columns(part))


@BOTH
def test_draining_gives_the_memory_back(processor: Processor[Any]) -> None:
    def fill_and_drain() -> MemoryStore[Any]:
        store = filled(blocks(4_000), processor)
        while any(store.drain(1000, MIB)):
            pass
        return store

    fill_and_drain()
    grown, said = growth_of(fill_and_drain)
    assert said < 500
    assert grown < 200_000  # tuples that Python keeps for reuse


# --- Taking blocks out and in again -------------------------------------------------------------


def contents(store: MemoryStore[Any]) -> int:
    """What a store says that it costs, but for its tables, which may have grown meanwhile."""
    return store.size - sum(map(sys.getsizeof, store.blocks.tables))


@BOTH
def test_blocks_that_are_forgotten_and_put_back_cost_what_they_did(
    processor: Processor[Any],
) -> None:
    plain = blocks(300)
    like_nodes = [block(NODE_LIKE + bytes([number])) for number in range(40)]
    store = filled(plain + like_nodes, processor)
    full = contents(store)
    some = plain[::2] + like_nodes[::2]

    raw, processed = store.forget([cid_of(b"is not here"), *(cid for cid, _ in some)])
    if processor is RAW:
        assert (raw, processed) == (some, [])
    else:
        assert (raw, processed) == (like_nodes[::2], [(cid, len(data)) for cid, data in plain[::2]])
    assert not any(cid in store.blocks for cid, _ in some)
    assert contents(store) < full
    assert store.forget(cid for cid, _ in some) == ([], [])

    for _ in range(2):  # the second time each takes its own place
        for cid, data in raw:
            store.put_back(cid, block=data, result=None)
        for cid, result in processed:
            store.put_back(cid, block=None, result=result)
        assert contents(store) == pytest.approx(full, abs=1)
    assert dict(store.forget(cid for cid, _ in some)[0]) == dict(raw)


@BOTH
def test_a_store_that_shrinks_gives_the_memory_of_its_tables_back(
    processor: Processor[Any],
) -> None:
    there = blocks(3000)
    store = filled(there, processor)
    store.forget(cid for cid, _ in there[100:])
    large = store.size
    store.shrink()
    assert store.size < large / 3
    assert all(cid in store.blocks for cid, _ in there[:100])


def test_a_store_is_empty_if_it_has_no_block_of_either_kind() -> None:
    for one in (block(b"a record"), block(NODE_LIKE)):
        store = MemoryStore(LENGTHS)
        empty = [store.empty]
        store.add(*columns([one]))
        empty.append(store.empty)
        store.forget([one[0]])
        assert [*empty, store.empty] == [True, False, True]
