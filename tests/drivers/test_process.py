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
    RepoStreamError,
)
from repo_stream.process import length, noop
from repo_stream.testing import build_car, build_repo, cid_of, encode
from support import walk

BOTH_WAYS = pytest.mark.parametrize(
    "mem_limit_mb", [pytest.param(16, id="memory"), pytest.param(0, id="disk")]
)

REPO = build_repo(
    {f"com.example.{'ab'[n % 2]}/{n:03}": {"n": n, "text": "x" * n} for n in range(120)}
)
BLOCKS = [(rkey, REPO.blocks[cid]) for rkey, cid in REPO.records.items()]
CAR = REPO.to_car()


async def results(
    process: Callable[[bytes], Any] | Processor[Any], mem_limit_mb: float, car: bytes = CAR
) -> list[tuple[str, Any]]:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=process)
    return [(output.rkey, output.data) for output in await walk(car, builder, chunk=7)]


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
@pytest.mark.parametrize("name", FUNCTIONS)
async def test_a_bare_function_is_enough(name: str, mem_limit_mb: int) -> None:
    process = FUNCTIONS[name]
    assert await results(process, mem_limit_mb) == [(rkey, process(data)) for rkey, data in BLOCKS]


@BOTH_WAYS
async def test_without_one_records_come_as_they_are(mem_limit_mb: int) -> None:
    outputs = await walk(CAR, DriverBuilder(mem_limit_mb=mem_limit_mb))
    assert [(output.rkey, output.data) for output in outputs] == BLOCKS


@BOTH_WAYS
async def test_a_processor_never_sees_a_node(mem_limit_mb: int) -> None:
    seen: list[bytes] = []
    await results(seen.append, mem_limit_mb)
    assert not {cid_of(data) for data in seen} & set(REPO.nodes)


@BOTH_WAYS
async def test_one_record_under_two_keys_is_one_result(mem_limit_mb: int) -> None:
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
async def test_a_processor_with_its_own_serialization(mem_limit_mb: int) -> None:
    processor = Processor(size, dumps=as_json, loads=from_json)
    found = await results(processor, mem_limit_mb)
    assert found == [(rkey, size(data)) for rkey, data in BLOCKS]
    assert {type(value) for _, value in found} == {Size}


async def test_its_own_serialization_is_used_only_on_disk() -> None:
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


async def test_a_processor_of_bytes_may_have_its_own_serialization() -> None:
    """Records as they are, but not on disk."""
    processor = Processor(noop, dumps=lambda data: data[::-1], loads=lambda data: data[::-1])
    assert await results(processor, 0) == BLOCKS
    assert await results(processor, 16) == BLOCKS


@pytest.mark.parametrize(("each", "way"), [(0, Driver.Memory), (1 << 20, Driver.Disk)])
async def test_size_of_decides_what_fits(each: int, way: type) -> None:
    def size_of(_value: int) -> int:
        return each

    # More than one piece, as the limit is looked at between them.
    car = build_car({f"a/{n}": {"text": "x" * 9000} for n in range(99)})
    builder = DriverBuilder(mem_limit_mb=1, block_processor=Processor(len, size_of=size_of))
    outcome = await builder.load_car(car)
    assert isinstance(outcome, way)
    if isinstance(outcome, Driver.Disk):
        await outcome.paused.aclose()


def test_a_processor_says_whether_blocks_stay_as_they_are() -> None:
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


@pytest.mark.parametrize("name", VALUES)
async def test_a_spilled_value_comes_back_as_it_was(name: str) -> None:
    value = VALUES[name]
    found = await results(lambda data: [value, len(data)], 0)
    assert found == [(rkey, [value, len(data)]) for rkey, data in BLOCKS]
    for at in range(3):
        assert shape(found[at][1][0]) == shape(value)
    bare = await results(lambda _data: value, 0)
    assert {repr(shape(result)) for _, result in bare} == {repr(shape(value))}


async def test_a_spilled_nan_comes_back() -> None:
    assert all(math.isnan(value) for _, value in await results(lambda _: math.nan, 0))


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


@pytest.mark.parametrize("name", UNSPILLABLE)
async def test_what_cbor_cannot_carry(name: str) -> None:
    value, named = UNSPILLABLE[name]

    def process(data: bytes) -> Any:
        return value if len(data) == len(BLOCKS[60][1]) else len(data)

    in_memory = dict(await results(process, 16))
    assert in_memory[BLOCKS[60][0]] is value

    first = next(rkey for rkey, data in BLOCKS if process(data) is value)
    async with DiskBuilder().open() as store:
        outcome = await DriverBuilder(mem_limit_mb=0, block_processor=process).load_car(CAR)
        assert isinstance(outcome, Driver.Disk)
        _, driver = await outcome.paused.finish_loading(store)
        before = [rkey for rkey, _ in BLOCKS[: [rkey for rkey, _ in BLOCKS].index(first)]]
        for at in range(0, len(before), 7):
            chunk = await driver.next_chunk(7)
            assert chunk is not None
            assert [rkey for rkey, _ in chunk] == before[at : at + 7]
        with pytest.raises(ProcessError) as caught:
            await driver.next_chunk(7)
        error = caught.value
        assert named in str(error)
        assert "dumps=" in str(error)
        assert "loads=" in str(error)
        assert len(str(error)) < 1000
        assert error.rkey == first
        assert error.cid == REPO.records[first]
        assert isinstance(error.__cause__, Exception)
        # The store is as good as new.
        outputs = await walk(CAR, DriverBuilder(mem_limit_mb=0), store=store)
        assert [(output.rkey, output.data) for output in outputs] == BLOCKS


async def test_what_cannot_be_stored_and_is_nobodys_does_no_harm() -> None:
    nobodys = encode({"text": "nobody's"})
    car = REPO.to_car(extra_blocks=[(cid_of(nobodys), nobodys)])

    def process(data: bytes) -> Any:
        return object() if data == nobodys else len(data)

    for limit in (16, 0):
        outputs = await walk(car, DriverBuilder(mem_limit_mb=limit, block_processor=process))
        assert [(output.rkey, output.data) for output in outputs] == [
            (rkey, len(data)) for rkey, data in BLOCKS
        ]


async def test_a_processor_whose_results_cannot_be_stored_is_told_early() -> None:
    car = build_car({f"com.example.a/{n:04}": {"n": n} for n in range(200)})
    builder = DriverBuilder(mem_limit_mb=0, block_processor=lambda _data: object())
    async with DiskBuilder().open() as store:
        outcome = await builder.load_car(car)
        assert isinstance(outcome, Driver.Disk)
        with pytest.raises(ProcessError, match="dumps=") as caught:
            await outcome.paused.finish_loading(store)
        assert caught.value.rkey is None
        # The store is as good as new.
        outputs = await walk(CAR, DriverBuilder(mem_limit_mb=0), store=store)
        assert [(output.rkey, output.data) for output in outputs] == BLOCKS


async def test_dumps_that_fails() -> None:
    def dumps(_value: int) -> bytes:
        raise KeyError("no such thing")

    processor = Processor(len, dumps=dumps)
    assert len(await results(processor, 16)) == len(BLOCKS)
    with pytest.raises(ProcessError, match="no such thing") as caught:
        await results(processor, 0)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("given", [None, 5, "text", bytearray(b"b")], ids=repr)
async def test_dumps_that_gives_no_bytes(given: Any) -> None:
    processor = Processor(len, dumps=lambda _value: given)
    with pytest.raises(ProcessError, match=f"dumps gave a {type(given).__name__} ") as caught:
        await results(processor, 0)
    assert isinstance(caught.value.__cause__, TypeError)


async def test_dumps_that_gives_a_kind_of_bytes() -> None:
    class Odd(bytes):
        def __index__(self) -> int:
            return 7

    processor = Processor(len, dumps=lambda value: Odd(b"%d" % value), loads=int)
    assert await results(processor, 0) == await results(Processor(len), 0)


# --- What cannot be read back -------------------------------------------------------------------


async def until_error(
    processor: Processor[Any], chunk: int
) -> tuple[list[Any], RepoStreamError | None]:
    """Walk as far as it goes, and once more."""
    got: list[Any] = []
    async with DiskBuilder().open() as store:
        outcome = await DriverBuilder(mem_limit_mb=0, block_processor=processor).load_car(CAR)
        assert isinstance(outcome, Driver.Disk)
        _, driver = await outcome.paused.finish_loading(store)
        try:
            while part := await driver.next_chunk(chunk):
                got += part
        except RepoStreamError as error:
            first = error
        else:
            return got, None
        with pytest.raises(type(first)) as again:
            await driver.next_chunk(chunk)
        assert again.value is first
        return got, first


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("at", [0, 1, 60, 119])
async def test_loads_that_fails(at: int, chunk: int) -> None:
    class Unreadable(Exception):
        pass

    marked = BLOCKS[at][1]

    def loads(data: bytes) -> bytes:
        if data == marked:
            raise Unreadable
        return data

    got, error = await until_error(Processor(bytes, dumps=bytes, loads=loads), chunk)
    assert got == BLOCKS[:at]
    assert isinstance(error, ProcessError)
    assert error.rkey == BLOCKS[at][0]
    assert error.cid == REPO.records[BLOCKS[at][0]]
    assert isinstance(error.__cause__, Unreadable)


async def test_loads_may_fail_for_what_is_never_reached() -> None:
    def loads(data: bytes) -> bytes:
        if b"nobody" in data:
            raise ValueError
        return data

    processor = Processor(bytes, dumps=bytes, loads=loads)
    car = REPO.to_car(extra_blocks=[(cid_of(b"nobody's"), b"nobody's")])
    assert await results(processor, 0, car) == BLOCKS


# --- Functions that raise -----------------------------------------------------------------------


@BOTH_WAYS
async def test_a_function_that_always_raises(mem_limit_mb: int) -> None:
    def process(_data: bytes) -> int:
        raise LookupError("nothing here")

    with pytest.raises(ProcessError, match="LookupError: nothing here") as caught:
        await results(process, mem_limit_mb)
    assert caught.value.rkey == BLOCKS[0][0]
    assert isinstance(caught.value.__cause__, LookupError)
    assert await results(process, mem_limit_mb, build_car({})) == []


@BOTH_WAYS
@pytest.mark.parametrize("kind", [RecursionError, MemoryError, StopIteration, StopAsyncIteration])
async def test_whatever_a_function_raises_is_named(
    kind: type[Exception], mem_limit_mb: int
) -> None:
    def process(data: bytes) -> int:
        if data == BLOCKS[60][1]:
            raise kind
        return len(data)

    with pytest.raises(ProcessError, match=kind.__name__) as caught:
        await results(process, mem_limit_mb)
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.rkey == BLOCKS[60][0]


@pytest.mark.parametrize("kind", [RecursionError, StopIteration])
@pytest.mark.parametrize("bad", [0, 3, 7, 29])
async def test_whatever_a_function_raises_is_named_in_a_stream(
    kind: type[Exception], bad: int
) -> None:
    """Many records are processed at once there: each once, up to the one that is named."""
    seen: list[bytes] = []

    def process(data: bytes) -> int:
        seen.append(data)
        if data == encode({"n": bad}):
            raise kind
        return len(data)

    car = build_car({f"app.test.a/{n:02}": {"n": n} for n in range(30)}, order="stream")
    rkeys: list[str] = []

    async def read() -> None:
        async with DriverBuilder().with_block_processor(process).stream_car(car) as (_, driver):
            while chunk := await driver.next_chunk(20):
                rkeys.extend([rkey for rkey, _ in chunk])

    with pytest.raises(ProcessError, match=kind.__name__) as caught:
        await read()
    assert caught.value.rkey == f"app.test.a/{bad:02}"
    assert rkeys == [f"app.test.a/{n:02}" for n in range(bad)]
    assert len(set(seen[:bad])) == bad


@BOTH_WAYS
async def test_a_function_that_raises_an_error_of_ours(mem_limit_mb: int) -> None:
    """It is the processor's all the same, and comes as its `ProcessError`."""
    error = MissingBlock(cid=CID, kind="record", rkey="not/this")

    def process(data: bytes) -> int:
        if data == BLOCKS[60][1]:
            raise error
        return len(data)

    with pytest.raises(ProcessError) as caught:
        await results(process, mem_limit_mb)
    assert caught.value.rkey == BLOCKS[60][0]
    assert caught.value.__cause__ is error


@BOTH_WAYS
async def test_an_interrupt_is_not_a_result(mem_limit_mb: int) -> None:
    def process(_data: bytes) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await results(process, mem_limit_mb)


@pytest.mark.parametrize("mem_limit_mb", [100, 0])
async def test_an_interrupt_while_walking_loses_no_record(mem_limit_mb: int) -> None:
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

    rkeys: list[str] = []
    async with DiskBuilder().open() as store:
        match await DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=late).load_car(
            repo.to_car()
        ):
            case Driver.Memory(_, driver):
                pass
            case Driver.Disk(paused):
                _, driver = await paused.finish_loading(store)
        rkeys += [rkey for rkey, _ in await driver.next_chunk(50) or ()]
        with pytest.raises(KeyboardInterrupt):
            await driver.next_chunk(200)
        while chunk := await driver.next_chunk(64):
            rkeys += [rkey for rkey, _ in chunk]
    assert rkeys == list(repo.records)
