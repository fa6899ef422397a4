"""`record` and `dag_json`: two decoders that agree on everything, and a lazy way through a repo."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_stream import (
    Cid,
    Driver,
    DriverBuilder,
    InvalidDagCbor,
    Processor,
    RepoStreamError,
    dagcbor,
    open_car,
    records,
)
from repo_stream.process import dag_json, noop, record
from repo_stream.testing import Link, build_car, build_repo
from support import walk

CID = Cid.of(b"a record")
BLOB = Cid(b"\x01\x55\x12\x20" + bytes(range(32)))
POST: dict[str, object] = {
    "$type": "app.bsky.feed.post",
    "text": "grüße 👋",
    "size": -(2**40),
    "ok": True,
    "nothing": None,
    "raw": b"\xd8\x2a\xfb",
    "embed": {"images": [{"ref": BLOB}, {"ref": CID}, []]},
}

BOTH_WAYS = pytest.mark.parametrize(
    "mem_limit_mb", [pytest.param(16, id="memory"), pytest.param(0, id="disk")]
)


def shape(value: Any) -> object:
    """A value with its types, for `Cid` and `bytes` are equal, and so are `True` and 1."""
    kind: type[object] = value.__class__
    if kind is dict:
        return {key: shape(item) for key, item in value.items()}
    if kind is list:
        return [shape(item) for item in value]
    return kind, value


def outcome(decode: Callable[[bytes], object], block: bytes) -> object:
    try:
        return shape(decode(block))
    except InvalidDagCbor as error:
        return type(error), str(error)


def alike(block: bytes) -> object:
    """Decode by both ways, which have to agree, and give what they made of it."""
    slow = outcome(dagcbor.decode_map, block)
    assert outcome(record, block) == slow
    return slow


# --- Two decoders, one result -------------------------------------------------------------------


@pytest.fixture(params=["libipld", "cbor2"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cbor2":
        monkeypatch.setattr(records, "find_libipld", lambda: None)
    name: str = request.param
    return name


@pytest.mark.usefixtures("decoder")
def test_a_record_is_plain_values() -> None:
    assert shape(record(dagcbor.encode(POST))) == shape(dict(sorted(POST.items(), key=_order)))


def _order(item: tuple[str, object]) -> tuple[int, bytes]:
    return len(item[0].encode()), item[0].encode()


CIDS = st.one_of(
    st.binary(max_size=8).map(Cid.of),
    st.binary(min_size=32, max_size=32).map(lambda digest: Cid(b"\x01\x55\x12\x20" + digest)),
    st.binary(min_size=32, max_size=32).map(lambda digest: Cid(b"\x12\x20" + digest)),
    st.binary(min_size=20, max_size=20).map(lambda digest: Cid(b"\x01\x71\x11\x14" + digest)),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=40)
    | CIDS
    | CIDS.map(bytes)  # a byte string that could pass for a link
)
RECORDS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=12,
    ),
    max_size=5,
)


@given(RECORDS)
def test_decoders_agree_on_records(value: dict[str, object]) -> None:
    assert alike(dagcbor.encode(value)) == shape(value)


@given(RECORDS, st.data())
def test_decoders_agree_on_mutants(value: dict[str, object], data: st.DataObject) -> None:
    block = bytearray(dagcbor.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(block)))
        new = data.draw(st.sampled_from([b"", b"\xd8\x2a", b"\xfb", b"\x18", b"\xa0", b"\0"]))
        new = new or data.draw(st.binary(max_size=3))
        block[at : at + data.draw(st.integers(0, 3))] = new
    alike(bytes(block))


@given(st.binary(max_size=60))
def test_decoders_agree_on_anything(block: bytes) -> None:
    alike(b"\xa1\x61x" + block)


def mutants() -> Iterator[bytes]:
    block = dagcbor.encode(POST)
    for at in range(len(block)):
        yield block[:at]
        for byte in range(256):
            yield block[:at] + bytes([byte]) + block[at + 1 :]


@pytest.mark.long
def test_decoders_agree_on_every_byte_changed() -> None:
    valid = sum(isinstance(alike(block), dict) for block in mutants())
    assert valid > 1000


def field(hexadecimal: str) -> bytes:
    return b"\xa1\x61x" + bytes.fromhex(hexadecimal)


NOT_RECORDS = {
    "float": field("fb3ff8000000000000"),
    "short float": field("f93c00"),
    "NaN": field("f97e00"),
    "undefined": field("f7"),
    "long form": field("1801"),
    "long tag": field("d9002a582500" + CID.hex()),
    "long link": field("d82a582600" + CID.hex() + "00"),
    "link without zero": field("d82a5824" + CID.hex()),
    "empty link": field("d82a4100"),
    "another tag": field("c11a00000000"),
    "bignum": field("c24101"),
    "indefinite": field("9fff"),
    "not UTF-8": field("61ff"),
    "surrogate": field("63eda080"),
    "trailing": field("00") + b"\0",
    "cut short": field("6261"),
    "empty": b"",
    "unsorted keys": bytes.fromhex("a2616200616100"),
    "a key twice": bytes.fromhex("a2616100616100"),
    "number as a key": bytes.fromhex("a10000"),
    "list": b"\x80",
    "link": bytes.fromhex("d82a582500" + CID.hex()),
    "too deep": field("81" * 128 + "00"),
    "far too deep": field("81" * 900 + "00"),
    "endlessly deep": field("81" * 200_000 + "00"),
}


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("process", [record, dag_json])
@pytest.mark.parametrize("name", NOT_RECORDS)
def test_what_is_no_record(process: Callable[[bytes], object], name: str) -> None:
    with pytest.raises(InvalidDagCbor):
        process(NOT_RECORDS[name])


@pytest.mark.parametrize("name", NOT_RECORDS)
def test_both_decoders_say_the_same_of_what_is_no_record(name: str) -> None:
    alike(NOT_RECORDS[name])


@pytest.mark.parametrize("levels", [99, 100, 101, 126, 127, 128])
def test_both_decoders_go_equally_deep(levels: int) -> None:
    alike(field("81" * levels + "00"))
    alike(field("81" * levels + "d82a582500" + CID.hex()))


def test_a_float_is_named() -> None:
    with pytest.raises(InvalidDagCbor, match="has no float"):
        record(NOT_RECORDS["float"])


@pytest.mark.parametrize("value", [POST, {"a": bytes(CID)}, {"a": [CID, CID]}, {}])
def test_most_records_need_one_decoder(
    value: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte string that could pass for a link is doubtful, and nothing else here is."""
    asked: list[bytes] = []
    decode_map = dagcbor.decode_map

    def ask(block: bytes) -> dict[str, object]:
        asked.append(block)
        return decode_map(block)

    block = dagcbor.encode(value)
    monkeypatch.setattr(dagcbor, "decode_map", ask)
    assert shape(record(block)) == shape(decode_map(block))
    doubtful = any(type(item) is bytes for item in value.values())
    assert len(asked) == doubtful


def test_libipld_is_imported_by_the_first_record_only() -> None:
    program = (
        "import sys, repo_stream, repo_stream.process as p; assert 'libipld' not in sys.modules;"
        "p.record(b'\\xa0'); assert 'libipld' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_without_libipld_records_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = records.find_libipld.__wrapped__
    assert fast() == (libipld.decode_dag_cbor, libipld.encode_dag_cbor)
    monkeypatch.setitem(sys.modules, "libipld", None)
    assert fast() is None


# --- DAG-JSON -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("decoder")
def test_dag_json_is_canonical() -> None:
    line = dag_json(dagcbor.encode({"bb": CID, "a": [b"\xfb\xff", 1, None], "z": "ü\n\x01\u2028"}))
    assert line == (
        '{"a":[{"/":{"bytes":"+/8"}},1,null],"bb":{"/":"' + str(CID) + '"},"z":"ü\\n\\u0001\u2028"}'
    )


@given(RECORDS)
def test_dag_json_holds_the_same_values(value: dict[str, object]) -> None:
    try:
        line = dag_json(dagcbor.encode(value))
    except ValueError:
        assert '"/"' in json.dumps(list(keys(value)))
        return
    assert shape(json.loads(line, object_hook=from_json)) == shape(value)
    assert "\n" not in line


def keys(value: Any) -> Iterator[str]:
    kind: type[object] = value.__class__
    if kind is dict:
        yield from value
    for item in value.values() if kind is dict else value if kind is list else ():
        yield from keys(item)


def from_json(parts: dict[str, Any]) -> object:
    match parts:
        case {"/": str(text)} if len(parts) == 1:
            return Cid.parse(text)
        case {"/": {"bytes": str(text)}}:
            return base64.b64decode(text + "=" * (-len(text) % 4))
        case _:
            return parts


@pytest.mark.parametrize("reserved", [{"/": "x"}, {"/": "x", "a": 1}, {"/": {"bytes": "x"}}])
def test_dag_json_refuses_what_would_come_back_as_another(reserved: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="would be a link"):
        dag_json(dagcbor.encode({"in": [reserved]}))


@pytest.mark.parametrize("fine", [{"/": 1}, {"!": 1, "/": "x"}, {"/": {"a": 1}}, {"x": '{"/":'}])
def test_dag_json_takes_other_slashes(fine: dict[str, object]) -> None:
    assert json.loads(dag_json(dagcbor.encode(fine))) == fine


# --- Through a repo -----------------------------------------------------------------------------

VALUES = {f"com.example.a/{n:03}": {"n": n, "text": "x" * n, "link": Link(CID)} for n in range(90)}
VALUES["com.example.b/1"] = VALUES["com.example.a/001"]
REPO = build_repo(VALUES)
CAR = REPO.to_car()


@BOTH_WAYS
@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("process", [record, dag_json])
async def test_ready_processors_give_every_record(
    process: Callable[[bytes], object], mem_limit_mb: int
) -> None:
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=process)
    found = [(output.rkey, output.data) for output in await walk(CAR, builder, chunk=7)]
    assert found == [(rkey, process(REPO.blocks[cid])) for rkey, cid in REPO.records.items()]


@BOTH_WAYS
async def test_a_lazy_processor_sees_what_the_walk_reaches(mem_limit_mb: int) -> None:
    seen: list[bytes] = []

    def keep(block: bytes) -> int:
        seen.append(block)
        return len(block)

    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=Processor(keep, lazy=True))
    match await builder.load_car(CAR):
        case Driver.Memory(_, driver):
            assert seen == []
            assert len(await driver.next_chunk(10) or []) == 10
            assert len(seen) < 90
        case Driver.Disk(paused):
            assert seen == []
            await paused.aclose()
    await walk(CAR, builder)
    assert REPO.blocks[REPO.records["com.example.a/089"]] in seen


async def test_a_lazy_processor_takes_the_room_of_its_blocks() -> None:
    """What fits as bytes fits as records too, each of which would take ten times as much."""
    car = build_car({f"a/{n}": {"list": [[n], [n + 1], [n + 2]]} for n in range(20_000)})
    fits: dict[str, bool] = {}
    ways: dict[str, Any] = {"raw": noop, "lazy": record, "eager": Processor(record)}
    for name, process in ways.items():
        outcome = await DriverBuilder(mem_limit_mb=10, block_processor=process).load_car(car)
        fits[name] = isinstance(outcome, Driver.Memory)
        if isinstance(outcome, Driver.Disk):
            await outcome.paused.aclose()
    assert fits == {"raw": True, "lazy": True, "eager": False}


@BOTH_WAYS
async def test_a_record_with_a_float_is_named_by_its_key(mem_limit_mb: int) -> None:
    car = build_car({"a/1": {"n": 1}, "a/2": {"n": 1.5}, "a/3": {"n": 2}})
    builder = DriverBuilder(mem_limit_mb=mem_limit_mb, block_processor=record)
    with pytest.raises(RepoStreamError, match=r"a/2.*has no float") as caught:
        await walk(car, builder)
    assert isinstance(caught.value.__cause__, InvalidDagCbor)


@BOTH_WAYS
async def test_bad_records_are_skipped_where_that_is_asked_for(mem_limit_mb: int) -> None:
    car = build_car({"a/1": {"n": 1}, "a/2": {"n": 1.5}, "a/3": {"n": 3}})
    async with open_car(
        car, mem_limit_mb=mem_limit_mb, block_processor=record, on_error="skip"
    ) as repo:
        assert [pair async for pair in repo] == [("a/1", {"n": 1}), ("a/3", {"n": 3})]
        assert [problem.rkey for problem in repo.problems] == ["a/2"]


@BOTH_WAYS
async def test_slow_lazy_processors_let_others_work(mem_limit_mb: int) -> None:
    """A chunk that takes a second must not keep the loop for so long."""

    def slow(block: bytes) -> int:
        time.sleep(0.001)
        return len(block)

    car = build_car({f"a/{n:03}": {"n": n} for n in range(400)})
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with (
        open_car(
            car, mem_limit_mb=mem_limit_mb, block_processor=Processor(slow, lazy=True)
        ) as repo,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(count)
        await anyio.lowlevel.checkpoint()
        before = turns
        assert len(await repo.next_chunk(400) or []) == 400
        assert turns - before >= 3
        tasks.cancel_scope.cancel()


# --- What can be a processor --------------------------------------------------------------------


async def process_async(block: bytes) -> int:
    return len(block)


class AsyncCallable:
    async def __call__(self, block: bytes) -> int:
        return len(block)


@pytest.mark.parametrize(
    "wrong", [process_async, functools.partial(process_async), AsyncCallable(), 3, None]
)
def test_what_cannot_be_a_processor_is_told_when_it_is_given(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a block processor is"):
        DriverBuilder(block_processor=wrong)
    with pytest.raises(TypeError, match="a block processor is"):
        DriverBuilder().with_block_processor(wrong)
    with pytest.raises(TypeError, match="a block processor is"):
        Processor(wrong)
