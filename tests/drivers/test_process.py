"""Processors: what is made of records, in memory and on its way through the disk and back."""

from __future__ import annotations

import array
import enum
import json
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from repo_stream import (
    Cid,
    DiskBuilder,
    Driver,
    DriverBuilder,
    MissingBlock,
    ProcessError,
    Processor,
)
from repo_stream.process import length, noop
from repo_stream.testing import build_car, build_repo, cid_of, encode
from support import walk
from support.driving import BOTH_WAYS, driving, each_of, paused_at, rest_of, until_error

REPO = build_repo(
    {f"com.example.{'ab'[n % 2]}/{n:03}": {"n": n, "text": "x" * n} for n in range(120)}
)
BLOCKS = [(key, REPO.blocks[cid]) for key, cid in REPO.records.items()]
CAR = REPO.to_car()


async def results(
    process: Callable[[bytes], Any] | Processor[Any], mem_limit_mb: float, car: bytes = CAR
) -> list[tuple[str, Any]]:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=process)
    return [(output.key, output.value) for output in await walk(car, builder, chunk=7)]


# --- Functions ----------------------------------------------------------------------------------


FUNCTIONS: dict[str, Callable[[bytes], Any]] = {
    "len": len,
    "length": length,
    "noop": noop,
    "bytes": bytes,
    "method": bytes.hex,
    "lambda": lambda data: data[::-1],
    "dict": lambda data: {"size": len(data), "start": data[:5]},
    "tuple": lambda data: (len(data), [data[:5], None]),
    "None": lambda _data: None,
    "zero": lambda _data: 0,
    "empty text": lambda _data: "",
    "empty bytes": lambda _data: b"",
}


@BOTH_WAYS
async def test_results_of_a_function_come_beside_their_keys(mem_limit_mb: float) -> None:
    wrong = [
        name
        for name, process in FUNCTIONS.items()
        if await results(process, mem_limit_mb) != [(key, process(data)) for key, data in BLOCKS]
    ]
    assert wrong == []


@BOTH_WAYS
async def test_processor_never_sees_a_node(mem_limit_mb: float) -> None:
    seen: list[bytes] = []
    await results(seen.append, mem_limit_mb)
    assert not {cid_of(data) for data in seen} & set(REPO.nodes)


@BOTH_WAYS
async def test_record_of_two_keys_has_the_same_result_under_both(mem_limit_mb: float) -> None:
    car = build_car({"a/1": {"same": True}, "a/2": {"other": True}, "b/1": {"same": True}})
    found = dict(await results(bytes.hex, mem_limit_mb, car))
    assert found["a/1"] == found["b/1"] != found["a/2"]


# --- Processors ---------------------------------------------------------------------------------


@dataclass
class Size:
    """A result that CBOR does not carry."""

    size: int
    start: str


def size(data: bytes) -> Size:
    return Size(len(data), data[:4].hex())


def as_json(value: Size) -> bytes:
    return json.dumps(asdict(value)).encode()


def from_json(data: bytes) -> Size:
    return Size(**json.loads(data))


@BOTH_WAYS
async def test_results_go_through_dumps_and_loads_of_their_processor(mem_limit_mb: float) -> None:
    processor = Processor(size, dumps=as_json, loads=from_json)
    found = await results(processor, mem_limit_mb)
    assert found == [(key, size(data)) for key, data in BLOCKS]
    assert {type(value) for _, value in found} == {Size}


async def test_dumps_and_loads_are_used_only_on_disk() -> None:
    dumped: list[Size] = []
    loaded: list[bytes] = []

    def dumps(value: Size) -> bytes:
        dumped.append(value)
        return as_json(value)

    def loads(data: bytes) -> Size:
        loaded.append(data)
        return from_json(data)

    processor = Processor(size, dumps=dumps, loads=loads)
    await results(processor, 16)
    assert not dumped
    assert not loaded
    await results(processor, 0)
    assert len(dumped) == len(loaded) == len(BLOCKS)


async def test_records_as_they_are_may_have_another_form_on_disk() -> None:
    processor = Processor(noop, dumps=lambda data: data[::-1], loads=lambda data: data[::-1])
    assert await results(processor, 0) == BLOCKS
    assert await results(processor, 16) == BLOCKS


async def test_size_of_decides_what_fits_in_memory() -> None:
    # More than one piece, as the limit is looked at between them.
    car = build_car({f"a/{n}": {"text": "x" * 9000} for n in range(99)})
    builder = DriverBuilder(mem_limit_mb=1)
    small = builder.with_block_processor(Processor(len, size_of=lambda _value: 0))
    assert isinstance(await small.load_car(car), Driver.Memory)
    large = builder.with_block_processor(Processor(len, size_of=lambda _value: 1 << 20))
    await (await paused_at(car, large)).aclose()


def test_processor_says_whether_blocks_stay_as_they_are() -> None:
    assert Processor(noop).keeps_bytes
    assert not Processor(bytes).keeps_bytes
    assert not Processor(noop, dumps=bytes.upper).keeps_bytes


# --- Through the disk and back ------------------------------------------------------------------

CID = Cid.of(b"something")
PLUS_5 = timezone(timedelta(hours=5, minutes=30))

VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "zero": 0,
    "minus one": -1,
    "64 bits": 2**64 - 1,
    "minus 64 bits": -(2**64),
    "65 bits": 2**64,
    "200 bits": -(2**200),
    "float": 0.1,
    "whole float": 1.0,
    "minus zero": -0.0,
    "infinity": -math.inf,
    "small float": 5e-324,
    "complex": 1 + 2j,
    "text": "héé\0 \U0001f331",
    "bytes": bytes(range(256)),
    "Cid": CID,
    "date": date(2024, 2, 29),
    "datetime": datetime(2024, 2, 29, 1, 2, 3, 456789, UTC),
    "datetime with offset": datetime(1969, 2, 28, 1, 2, 3, tzinfo=PLUS_5),
    "Decimal": Decimal("1.10"),
    "infinite Decimal": Decimal("-Infinity"),
    "Fraction": Fraction(-1, 3),
    "UUID": UUID(int=7),
    "list": [1, [2, [3, []]]],
    "tuple": (1, (2, (3, ()))),
    "set": {1, "two", b"three"},
    "frozenset": frozenset({1, 2}),
    "empty ones": [[], (), {}, set[int](), frozenset[int](), "", b""],
    "sets of sets": {frozenset({1}), frozenset({2, frozenset({3})})},
    "tuples in sets": {(1, 2), (3, (4,))},
    "dict": {"b": 1, "a": [2, {"c": (3,)}]},
    "dict with any keys": {1: "int", b"b": "bytes", (1, 2): "tuple", None: "None", CID: "Cid"},
    "dict with frozenset keys": {frozenset({(1,)}): {2}},
    "Cids inside": {"ref": CID, "refs": [CID, (CID, {CID})]},
    "lists and tuples mixed": [([(1,)],), ([],)],
    "list of equal ones": [[1]] * 3,
    "everything": {"l": [(1, {2}), {"d": {3: (b"4", CID, None, True)}}], "f": 0.5},
}


def shape(value: Any) -> object:
    """A value together with the types of everything in it."""
    kind: str = type(value).__name__
    if kind == "dict":
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if kind in {"list", "tuple"}:
        return kind, [shape(part) for part in value]
    if kind in {"set", "frozenset"}:
        return kind, sorted(repr(shape(member)) for member in value)
    return kind, repr(value)


async def through_the_disk(values: dict[str, Any]) -> dict[str, Any]:
    """What comes back of values, and of lists that they are in."""
    named = {encode({"name": name}): value for name, value in values.items()}
    car = build_car({f"a/{name}": {"name": name} for name in values})
    bare = dict(await results(lambda data: named[data], 0, car))
    inside = dict(await results(lambda data: [named[data], len(data)], 0, car))
    assert [size for _, size in inside.values()] == [
        len(encode({"name": key.removeprefix("a/")})) for key in inside
    ]
    return {name: [bare[f"a/{name}"], inside[f"a/{name}"][0]] for name in values}


async def test_spilled_values_come_back_as_they_were() -> None:
    found = await through_the_disk(VALUES)
    changed = {
        name: each
        for name, value in VALUES.items()
        for each in found[name]
        if each != value or shape(each) != shape(value)
    }
    assert changed == {}


async def test_spilled_nan_comes_back() -> None:
    found = await through_the_disk({"nan": math.nan})
    assert all(math.isnan(value) for value in found["nan"])


# --- What CBOR cannot carry ---------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Plain:
    pass


class Point(NamedTuple):
    x: int
    y: int


def endless() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


UNSPILLABLE: dict[str, tuple[Any, str]] = {
    "dataclass": (Size(1, "a"), "Size"),
    "object": (Plain(), "Plain"),
    "enum": (Colour.RED, "Colour"),
    "int enum": (Level.LOW, "Level"),
    "str subclass": (Text("t"), "Text"),
    "int subclass": (Number(1), "Number"),
    "namedtuple": (Point(1, 2), "Point"),
    "OrderedDict": (OrderedDict(a=1), "OrderedDict"),
    "defaultdict": (defaultdict(list[int], a=[1]), "defaultdict"),
    "Counter": (Counter("aab"), "Counter"),
    "bytearray": (bytearray(b"b"), "bytearray"),
    "memoryview": (memoryview(b"b"), "memoryview"),
    "array": (array.array("I", [1]), "array"),
    "range": (range(3), "range"),
    "function": (len, "builtin_function_or_method"),
    "type": (int, "type"),
    "path": (PurePosixPath("a"), "PurePosixPath"),
    "timedelta": (timedelta(1), "timedelta"),
    "naive datetime": (datetime(2024, 1, 1), "datetime"),  # noqa: DTZ001 - naive
    "ellipsis": (..., "ellipsis"),
    "deep inside": ([1, {"a": (2, {"b": Plain()})}], "Plain"),
    "as a key": ({Point(1, 2): 1}, "Point"),
    "lone surrogate": ("\ud800", "str"),
    "lone surrogate inside": (["\ud800"], "list"),
    "cycle": (endless(), "list"),
    "too deep": (deep(5000), "list"),
}


def check_error(error: Any, key: str, cid: bytes, named: str) -> None:
    assert isinstance(error, ProcessError)
    assert named in str(error)
    assert "dumps=" in str(error)
    assert "loads=" in str(error)
    assert len(str(error)) < 1000
    assert (error.key, error.cid) == (key, cid)
    assert isinstance(error.__cause__, Exception)


async def test_values_that_cbor_cannot_carry_are_errors_on_disk_alone() -> None:
    repo = build_repo({f"a/{name}": {"name": name} for name in UNSPILLABLE})
    values = {encode({"name": name}): value for name, (value, _) in UNSPILLABLE.items()}
    builder = DriverBuilder(block_processor=lambda data: values[data]).with_on_error("yield")
    for output in await walk(repo.to_car(), builder):
        assert output.value is UNSPILLABLE[output.key.removeprefix("a/")][0]
    on_disk = await walk(repo.to_car(), builder.with_mem_limit_mb(0))
    assert [output.key for output in on_disk] == list(repo.records)
    for key, cid, error in on_disk:
        check_error(error, key, cid, UNSPILLABLE[key.removeprefix("a/")][1])


async def test_value_that_cbor_cannot_carry_ends_the_walk_at_its_record() -> None:
    key, bad = BLOCKS[60]

    def process(data: bytes) -> Any:
        return Plain() if data == bad else len(data)

    async with DiskBuilder().open() as store:
        builder = DriverBuilder(mem_limit_mb=0, block_processor=process)
        _, driver = await (await paused_at(CAR, builder)).finish_loading(store)
        got: list[tuple[str, Any]] = []
        for _ in range(9):
            got += await driver.next_chunk(7) or []
        assert got == [(key, len(data)) for key, data in BLOCKS[:60]]
        with pytest.raises(ProcessError) as caught:
            await driver.next_chunk(7)
        check_error(caught.value, key, REPO.records[key], "Plain")
        # The store is as good as new.
        outputs = await walk(CAR, DriverBuilder(mem_limit_mb=0), store=store)
        assert [(output.key, output.value) for output in outputs] == BLOCKS


async def test_result_that_cannot_be_stored_does_no_harm_if_no_key_names_it() -> None:
    nobodys = encode({"text": "nobody's"})
    car = REPO.to_car(extra_blocks=[(cid_of(nobodys), nobodys)])

    def process(data: bytes) -> Any:
        return object() if data == nobodys else len(data)

    for limit in (16, 0):
        outputs = await walk(car, DriverBuilder(mem_limit_mb=limit, block_processor=process))
        assert [(output.key, output.value) for output in outputs] == [
            (key, len(data)) for key, data in BLOCKS
        ]


async def test_processor_of_which_no_result_can_be_stored_fails_early() -> None:
    car = build_car({f"com.example.a/{n:04}": {"n": n} for n in range(200)})
    builder = DriverBuilder(mem_limit_mb=0, block_processor=lambda _data: object())
    async with DiskBuilder().open() as store:
        paused = await paused_at(car, builder)
        with pytest.raises(ProcessError, match="dumps=") as caught:
            await paused.finish_loading(store)
        assert caught.value.key is None
        # The store is as good as new.
        outputs = await walk(CAR, DriverBuilder(mem_limit_mb=0), store=store)
        assert [(output.key, output.value) for output in outputs] == BLOCKS


async def test_error_of_dumps_is_the_cause_of_a_process_error() -> None:
    def dumps(_value: int) -> bytes:
        raise KeyError("no such thing")

    processor = Processor(len, dumps=dumps)
    assert len(await results(processor, 16)) == len(BLOCKS)
    with pytest.raises(ProcessError, match="no such thing") as caught:
        await results(processor, 0)
    assert isinstance(caught.value.__cause__, KeyError)


async def test_dumps_must_return_bytes() -> None:
    wrong: list[Any] = [None, 5, "text", bytearray(b"b")]
    for given in wrong:
        processor = Processor(bytes, dumps={data: given for _, data in BLOCKS}.__getitem__)
        message = f"dumps returned a {type(given).__name__} instead of bytes"
        with pytest.raises(ProcessError, match=message) as caught:
            await results(processor, 0)
        assert isinstance(caught.value.__cause__, TypeError)


async def test_dumps_may_give_a_subclass_of_bytes() -> None:
    class Odd(bytes):
        def __index__(self) -> int:
            return 7

    processor = Processor(len, dumps=lambda value: Odd(b"%d" % value), loads=int)
    assert await results(processor, 0) == await results(Processor(len), 0)


# --- What cannot be read back -------------------------------------------------------------------


async def test_error_of_loads_ends_the_walk_at_its_record() -> None:
    class Unreadable(Exception):
        pass

    for at, chunk in ((0, 1), (0, 7), (1, 1), (6, 7), (7, 7), (60, 7), (60, 256), (119, 256)):
        key, marked = BLOCKS[at]

        def loads(data: bytes, marked: bytes = marked) -> bytes:
            if data == marked:
                raise Unreadable
            return data

        processor = Processor(bytes, dumps=bytes, loads=loads)
        builder = DriverBuilder(mem_limit_mb=0).with_block_processor(processor)
        async with driving(CAR, builder) as driver:
            got, error = await until_error(each_of(driver, chunk))
            with pytest.raises(ProcessError) as again:
                await driver.next_chunk(chunk)
            assert again.value is error
        assert got == BLOCKS[:at], (at, chunk)
        assert isinstance(error, ProcessError)
        assert (error.key, error.cid) == (key, REPO.records[key])
        assert isinstance(error.__cause__, Unreadable)


async def test_loads_may_fail_on_a_block_that_is_never_reached() -> None:
    def loads(data: bytes) -> bytes:
        if b"nobody" in data:
            raise ValueError
        return data

    processor = Processor(bytes, dumps=bytes, loads=loads)
    car = REPO.to_car(extra_blocks=[(cid_of(b"nobody's"), b"nobody's")])
    assert await results(processor, 0, car) == BLOCKS


# --- Functions that raise -----------------------------------------------------------------------


@BOTH_WAYS
async def test_function_that_always_raises_fails_on_the_first_record(mem_limit_mb: float) -> None:
    def process(_data: bytes) -> int:
        raise LookupError("nothing here")

    with pytest.raises(ProcessError, match="LookupError: nothing here") as caught:
        await results(process, mem_limit_mb)
    assert caught.value.key == BLOCKS[0][0]
    assert isinstance(caught.value.__cause__, LookupError)
    assert await results(process, mem_limit_mb, build_car({})) == []


def failing_on(bad: bytes, error: type[Exception] | Exception) -> Callable[[bytes], int]:
    def process(data: bytes) -> int:
        if data == bad:
            raise error
        return len(data)

    return process


@BOTH_WAYS
async def test_whatever_a_function_raises_is_the_cause_of_a_process_error(
    mem_limit_mb: float,
) -> None:
    for kind in (RecursionError, MemoryError, StopIteration, StopAsyncIteration):
        with pytest.raises(ProcessError, match=kind.__name__) as caught:
            await results(failing_on(BLOCKS[60][1], kind), mem_limit_mb)
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.key == BLOCKS[60][0]


async def test_records_of_a_stream_are_processed_once_up_to_the_one_that_fails() -> None:
    """Many records are processed at once there."""
    car = build_car({f"app.test.a/{n:02}": {"n": n} for n in range(30)}, order="stream")
    for bad, kind in ((0, RecursionError), (3, StopIteration), (7, RecursionError), (29, KeyError)):
        seen: list[bytes] = []
        fails = failing_on(encode({"n": bad}), kind)

        def process(
            data: bytes, seen: list[bytes] = seen, fails: Callable[[bytes], int] = fails
        ) -> int:
            seen.append(data)
            return fails(data)

        builder = DriverBuilder().with_block_processor(process)
        async with builder.stream_car(car) as (_, driver):
            got, error = await until_error(each_of(driver, 20))
        assert isinstance(error, ProcessError)
        assert kind.__name__ in str(error)
        assert error.key == f"app.test.a/{bad:02}"
        assert [key for key, _ in got] == [f"app.test.a/{n:02}" for n in range(bad)]
        assert len(set(seen[:bad])) == bad


@BOTH_WAYS
async def test_function_that_raises_a_repo_stream_error_is_a_process_error_too(
    mem_limit_mb: float,
) -> None:
    error = MissingBlock(cid=CID, kind="record", key="not/this")
    with pytest.raises(ProcessError) as caught:
        await results(failing_on(BLOCKS[60][1], error), mem_limit_mb)
    assert caught.value.key == BLOCKS[60][0]
    assert caught.value.__cause__ is error


@BOTH_WAYS
async def test_ctrl_c_in_a_processor_comes_out_as_it_is(mem_limit_mb: float) -> None:
    def process(_data: bytes) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await results(process, mem_limit_mb)


@BOTH_WAYS
async def test_ctrl_c_during_the_walk_loses_no_record(mem_limit_mb: float) -> None:
    repo = build_repo({f"app.test.a/{number:03}": {"n": number} for number in range(300)})
    calls = 0

    def late(block: bytes) -> int:
        """Keep records raw until the walk asks for them, and then be interrupted once."""
        nonlocal calls
        calls += 1
        if calls <= len(repo.records):
            raise ValueError
        if calls == len(repo.records) + 100:
            raise KeyboardInterrupt
        return len(block)

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=late)
    async with driving(repo.to_car(), builder) as driver:
        got = await driver.next_chunk(50) or []
        with pytest.raises(KeyboardInterrupt):
            await driver.next_chunk(200)
        got += await rest_of(driver, 64)
    assert [key for key, _ in got] == list(repo.records)
