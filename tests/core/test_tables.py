"""Tables in both forms, against a `dict`: which the plain form is, and the compiled one is not."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from repo_stream import Cid
from repo_stream.ipld.cid import ordinary
from repo_stream.mst import tables
from repo_stream.mst.frames import Frame
from repo_stream.mst.tables import Table
from support import traced
from support.forms import both_forms
from support.strategies import EXAMPLES

form = both_forms("repo_stream.mst.tables", __name__)

# Digests that differ in one byte, in the words of the hash; and CIDs of other kinds and lengths.
ALIKE = [bytes(at) + b"\1" + bytes(31 - at) for at in range(0, 32, 3)]
ORDINARY = [ordinary(digest) for digest in (bytes(32), b"\xff" * 32, *ALIKE)]
ODD = [b"", b"\1", ORDINARY[0][:-1], ORDINARY[0] + b"\0", b"\1\x55" + ORDINARY[0][2:]]
KEYS = [*ORDINARY, *ODD]

key = st.sampled_from(KEYS)
step = st.one_of(
    st.tuples(st.just("set"), key, st.integers()),
    st.tuples(st.just("delete"), key, st.none()),
    st.tuples(st.just("pop"), key, st.none()),
    st.tuples(st.just("pop last"), st.none(), st.none()),
    st.tuples(st.just("update"), st.lists(key), st.integers()),
    st.tuples(st.just("shrink"), st.none(), st.none()),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


def filled(cids: Iterable[bytes]) -> Table[int]:
    table: Table[int] = tables.new()
    for number, cid in enumerate(cids):
        table[cid] = number
    return table


def made(count: int, start: int = 0) -> list[bytes]:
    dice = random.Random(start)
    return [ordinary(dice.randbytes(32)) for _ in range(count)]


def do(table: Table[int], name: str, what: Any, value: Any) -> object:
    match name:
        case "set":
            table[what] = value
        case "delete" if what in table:
            del table[what]
        case "pop":
            return table.pop(what, None)
        case "update":
            table.update([(cid, value + at) for at, cid in enumerate(what)])
        case "shrink":
            tables.shrink(table)
        case "clear":
            table.clear()
        case _:
            pass
    return None


def check(table: Table[int], model: dict[bytes, int], keys: Iterable[bytes]) -> None:
    assert table == model
    assert len(table) == len(model)
    assert bool(table) == bool(model)
    assert table.keys() == model.keys()
    assert sorted(table) == sorted(model)
    assert sorted(table.values()) == sorted(model.values())
    for cid in keys:
        assert (cid in table) == (cid in model)
        assert table.get(cid) == model.get(cid)
        assert table.get(cid, -1) == model.get(cid, -1)
    assert list(tables.finder(table)(list(model))) == list(model.values())


@EXAMPLES
@given(st.lists(step, max_size=60))
def test_a_table_does_what_a_dict_does(steps: list[tuple[str, Any, Any]]) -> None:
    table: Table[int] = tables.new()
    model: dict[bytes, int] = {}
    for name, what, value in steps:
        if name == "pop last" and table:
            cid, taken = table.popitem()
            assert model.pop(cid) == taken
            continue
        assert do(table, name, what, value) == do(model, name, what, value)
        check(table, model, KEYS)


def test_a_large_table_does_what_a_dict_does() -> None:
    dice = random.Random(7)
    cids = [*made(3000), *ODD]
    table: Table[int] = tables.new()
    model: dict[bytes, int] = {}
    # More is put in than taken out, then less, then more again.
    for part, puts in enumerate([0.9, 0.2, 0.7]):
        for number in range(10_000):
            cid = dice.choice(cids)
            if dice.random() < puts:
                table[cid] = model[cid] = number
            else:
                assert table.pop(cid, None) == model.pop(cid, None)
        check(table, model, cids)
        if part == 1:
            tables.shrink(table)
            check(table, model, cids)
    while model:
        cid, value = table.popitem()
        assert model.pop(cid) == value
    assert not table


@pytest.mark.parametrize("cid", [ORDINARY[3], ODD[1]], ids=["ordinary", "odd"])
def test_a_cid_that_is_not_there_is_a_key_error(cid: bytes) -> None:
    table = filled(made(100))
    for missing in (table.__getitem__, table.__delitem__, table.pop):
        with pytest.raises(KeyError) as raised:
            missing(cid)
        assert raised.value.args == (cid,)
    with pytest.raises(KeyError):
        list(tables.finder(table)([*table, cid]))
    assert not tables.holds_any(table, [cid])
    assert table.pop(cid, None) is None
    with pytest.raises(KeyError):
        filled([]).popitem()


def test_a_cid_finds_what_its_bytes_name() -> None:
    table = filled(Cid(cid) for cid in ORDINARY)
    assert table == {cid: number for number, cid in enumerate(ORDINARY)}
    assert all(table[Cid(cid)] == table[cid] for cid in ORDINARY)


def test_holds_any_finds_any_of_several() -> None:
    table = filled([*ORDINARY[:4], ODD[0]])
    assert tables.holds_any(table, [ORDINARY[5], ORDINARY[2]])
    assert tables.holds_any(table, [ORDINARY[5], ODD[0]])
    assert not tables.holds_any(table, [ORDINARY[5], ODD[1]])
    assert not tables.holds_any(table, [])


@pytest.mark.parametrize("change", ["grows", "is cleared", "other CIDs"])
def test_a_table_that_changes_during_iteration_is_an_error(change: str) -> None:
    table = filled(made(10))
    cids = iter(table)
    next(cids)
    if change == "grows":
        table[ORDINARY[0]] = 1
    else:
        table.clear()
    if change == "other CIDs":
        for number in range(11):
            table[b"%d" % number] = number
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        next(cids)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_expected_cids_change_nothing(count: int) -> None:
    there = made(count)
    cids = [cid for pair in zip(there, made(count, start=1), strict=True) for cid in pair] + ODD
    frames: list[Frame] = [(["a"] * len(cids), cids), *[(cid, 1, b"", None) for cid in cids]]
    for held in ([], there, [*there, *ODD]):
        table = filled(held)
        raw = dict.fromkeys(held, b"a block")
        nodes: Table[bytes] = tables.new()
        nodes.update(raw)
        tables.expect(table, cids)
        for at_hand in (nodes, raw):
            for records in (table, filled([]), dict(table)):
                tables.expect_all_of(frames, at_hand, records)
        check(table, {cid: number for number, cid in enumerate(held)}, cids)
        assert nodes == raw


def tag(cid: bytes) -> int:
    """The hash of an ordinary CID, in a compiled table."""
    from repo_stream.mst import _tables  # noqa: PLC0415 - only there if it is compiled

    found = _tables.tag(cid)
    assert found is not None
    return found


@pytest.fixture
def compiled() -> None:
    table: Table[int] = tables.new()
    if type(table) is dict:
        pytest.skip("plain tables are dicts")


@pytest.mark.usefixtures("compiled")
def test_a_generator_of_expected_cids_may_change_the_table() -> None:
    table = filled(made(100))

    def clearing() -> Iterator[bytes]:
        yield from made(50)
        table.clear()
        yield from made(50)

    tables.expect(table, cast("Any", clearing()))
    assert not table


def test_a_value_that_cannot_be_taken_out_stays() -> None:
    """A list that gets shorter may find no memory to move to."""
    testing = pytest.importorskip("_testcapi")
    cids = made(400)
    for left in range(150, 300):
        table = filled(cids)
        for cid in cids[left:]:
            del table[cid]
        testing.set_nomemory(0, 2)
        try:
            table.pop(cids[0])
        except MemoryError:
            pass
        finally:
            testing.remove_mem_hooks()
        kept = [cid for cid in cids if cid in table]
        assert len(table) == len(kept)
        for cid in kept:
            del table[cid]
        assert not table


@pytest.mark.usefixtures("compiled")
def test_cids_of_one_hash_are_told_apart() -> None:
    seen: dict[int, bytes] = {}
    pairs: list[tuple[bytes, bytes]] = []
    dice = random.Random()
    for _ in range(2_000_000):
        cid = ordinary(dice.randbytes(32))
        if (other := seen.setdefault(tag(cid), cid)) != cid:
            pairs.append((cid, other))
            if len(pairs) == 3:
                break
    for one, other in pairs:
        table = filled([one])
        assert other not in table
        table[other] = 7
        assert (table[one], table[other]) == (0, 7)
        del table[one]
        assert table == {other: 7}
    assert len(pairs) == 3


@pytest.mark.usefixtures("compiled")
def test_every_byte_of_a_digest_counts_for_its_slot() -> None:
    """Digests that differ in the high bits of one word alone are spread as any others are."""
    for byte in range(32):
        digest = bytearray(32)
        slots: set[int] = set()
        for value in range(256):
            digest[byte] = value
            slots.add(tag(ordinary(bytes(digest))) % 4096)
        assert len(slots) > 128, byte


def test_a_cycle_through_a_table_is_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.table: Table[Holder] = tables.new()

    holder = Holder()
    for cid in (ORDINARY[0], ODD[0]):
        holder.table[cid] = holder
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("cid", [ORDINARY[0], ODD[0]], ids=["ordinary", "odd"])
def test_a_value_that_is_deleted_may_use_the_table(cid: bytes) -> None:
    seen: list[tuple[int, bool]] = []

    class Value:
        def __del__(self) -> None:
            seen.append((len(table), cid in table))

    table: Table[Any] = tables.new()
    others = made(50)
    for each in others:
        table[each] = None
    table[cid] = Value()
    table[cid] = Value()
    del table[cid]
    table[cid] = Value()
    table.clear()
    gc.collect()
    assert seen == [(51, True), (50, False), (0, False)]
    for each in others:
        table[each] = each
    assert table == dict(zip(others, others, strict=True))


@pytest.mark.parametrize("odd", [False, True], ids=["ordinary", "odd"])
def test_a_table_says_what_it_takes(odd: bool) -> None:
    made(1)
    with traced():
        table = filled(cid + b"\0" * odd for cid in made(8_000))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        # The values are numbers of 28 bytes, but for the first of them.
        assert taken == pytest.approx(
            sys.getsizeof(table) + (tables.KEY_COST + 28) * len(table), rel=0.15
        )


@pytest.mark.parametrize("odd", [False, True], ids=["ordinary", "odd"])
def test_a_table_grows_within_what_it_needs(odd: bool) -> None:
    batch = 100
    with traced() as peak:
        table: Table[None] = tables.new()
        for start in range(120):
            need = tables.need(table) + tables.KEY_COST * len(table)
            assert need >= sys.getsizeof(table)
            tracemalloc.reset_peak()
            for cid in made(batch, start):
                table[cid + b"\0" * odd] = None
            assert peak() < need + 300 * batch + 20_000


@pytest.mark.parametrize("odd", [False, True], ids=["ordinary", "odd"])
def test_a_table_gives_back_what_it_does_not_need(odd: bool) -> None:
    cids = [cid + b"\0" * odd for cid in made(10_000)]
    table = filled(cids)
    full = sys.getsizeof(table)
    for cid in cids[100:]:
        del table[cid]
    tables.shrink(table)
    assert sys.getsizeof(table) < full / 20
    assert table == {cid: number for number, cid in enumerate(cids[:100])}
    table.clear()
    assert sys.getsizeof(table) <= sys.getsizeof(filled([ORDINARY[0]]))
