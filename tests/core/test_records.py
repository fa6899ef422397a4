"""`record` and `dag_json`: two decoders that agree on everything."""

from __future__ import annotations

import base64
import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import libipld
import pytest
from hypothesis import given, strategies as st

from repo_stream import Cid, DriverBuilder, InvalidDagCbor, NestedTooDeep, Processor
from repo_stream.ipld import dagcbor, datamodel as records
from repo_stream.process import dag_json, record
from support import traced

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
    except (InvalidDagCbor, NestedTooDeep) as error:
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
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=40)
    | CIDS
    | CIDS.map(bytes)  # a byte string that could pass for a link
)
RECORDS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    max_size=5,
)


@given(RECORDS)
def test_decoders_agree_on_records(value: dict[str, object]) -> None:
    assert alike(dagcbor.encode(value)) == shape(value)


# Whatever the encoder writes, of the data model or not.
WIDER = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        LEAVES
        | st.floats()
        | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, -(2**63), -(2**63) - 1, -(2**64)])
        | st.binary(max_size=34).map(lambda digest: Cid(b"\1\x71\x12%c%b" % (len(digest), digest)))
        | st.sampled_from([3, 128, 129]).map(lambda depth: nested(depth - 1)),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=6,
    ),
    max_size=5,
)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def is_of_the_data_model(value: Any, depth: int = 1) -> bool:
    """Judge a value by the specification, for there is no third decoder to ask."""
    kind: type[object] = value.__class__
    if kind is dict or kind is list:
        items = value.values() if kind is dict else value
        # An empty list or map is no level of its own.
        return not items or (
            depth <= 128 and all(is_of_the_data_model(each, depth + 1) for each in items)
        )
    if kind is Cid and value.hash_function == 0x12:
        return len(value.digest) == 32
    return -(2**63) <= value < 2**63 if kind is int else kind is not float


@given(WIDER)
def test_decoders_take_the_data_model_and_nothing_wider(value: dict[str, object]) -> None:
    block = dagcbor.encode(value)
    assert (alike(block) == shape(value)) == is_of_the_data_model(value)


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


# A short record of all kinds of values.
SHORT = dagcbor.encode({"a": "é", "bb": -300, "c": [True, None, b"\xfb"], "d": {"": CID}})


def mutants() -> Iterator[bytes]:
    digest = SHORT.index(CID[4:])
    for at in range(len(SHORT)):
        yield SHORT[:at]
        # One byte in the middle of a digest is as good as another.
        for byte in range(256) if not digest < at < digest + 31 else (SHORT[at] ^ 1,):
            yield SHORT[:at] + bytes([byte]) + SHORT[at + 1 :]


def test_decoders_agree_on_every_byte_changed() -> None:
    valid = sum(isinstance(alike(block), dict) for block in mutants())
    assert valid > 1000


def field(hexadecimal: str) -> bytes:
    return b"\xa1\x61x" + bytes.fromhex(hexadecimal)


NOT_RECORDS = {
    "2^63": field("1b8000000000000000"),
    "2^64-1": field("1bffffffffffffffff"),
    "minus-2^63-1": field("3b8000000000000000"),
    "minus-2^64": field("3bffffffffffffffff"),
    "link-with-a-cut-digest": field("d82a581900" + "01711214" + "00" * 20),
    "link-with-a-longer-digest": field("d82a582600" + "01711221" + "00" * 33),
    "v0-with-a-cut-digest": field("d82a582200" + "1220" + "00" * 31),
    "float": field("fb3ff8000000000000"),
    "short-float": field("f93c00"),
    "nan": field("f97e00"),
    "undefined": field("f7"),
    "long-form": field("1801"),
    "long-tag": field("d9002a582500" + CID.hex()),
    "long-link": field("d82a582600" + CID.hex() + "00"),
    "link-without-zero": field("d82a5824" + CID.hex()),
    "empty-link": field("d82a4100"),
    "another-tag": field("c11a00000000"),
    "bignum": field("c24101"),
    "indefinite": field("9fff"),
    "not-utf-8": field("61ff"),
    "surrogate": field("63eda080"),
    "trailing": field("00") + b"\0",
    "cut-short": field("6261"),
    "empty": b"",
    "unsorted-keys": bytes.fromhex("a2616200616100"),
    "a-key-twice": bytes.fromhex("a2616100616100"),
    "number-as-a-key": bytes.fromhex("a10000"),
    "list": b"\x80",
    "link": bytes.fromhex("d82a582500" + CID.hex()),
}
TOO_DEEP = {
    "too-deep": field("81" * 128 + "00"),
    "far-too-deep": field("81" * 900 + "00"),
    "endlessly-deep": field("81" * 200_000 + "00"),
}


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", NOT_RECORDS)
def test_what_is_no_record_is_refused(name: str) -> None:
    for process in (record, dag_json):
        with pytest.raises(InvalidDagCbor):
            process(NOT_RECORDS[name])


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", TOO_DEEP)
def test_a_record_that_is_nested_too_deep_is_refused_for_that(name: str) -> None:
    for process in (record, dag_json):
        with pytest.raises(NestedTooDeep, match="nested deeper than 128 levels"):
            process(TOO_DEEP[name])


def test_both_decoders_say_the_same_of_what_is_no_record() -> None:
    for block in (*NOT_RECORDS.values(), *TOO_DEEP.values()):
        alike(block)


def test_both_decoders_go_equally_deep() -> None:
    for levels in (99, 100, 101, 126, 127, 128):
        assert isinstance(alike(field("81" * levels + "00")), dict) == (levels <= 127)
        alike(field("81" * levels + "d82a582500" + CID.hex()))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("number", [2**63 - 1, 2**53, -(2**63)])
def test_the_widest_integers_of_the_data_model_are_read(number: int) -> None:
    block = dagcbor.encode({"n": [number]})
    assert record(block) == {"n": [number]}
    assert dag_json(block) == f'{{"n":[{number}]}}'


def test_the_error_says_that_an_integer_is_too_wide() -> None:
    with pytest.raises(InvalidDagCbor, match="whose integers have 64 bits with a sign"):
        record(NOT_RECORDS["2^63"])


@pytest.mark.usefixtures("decoder")
def test_links_of_all_forms_that_servers_serve_are_read() -> None:
    v0 = Cid(b"\x12\x20" + bytes(32))
    block = dagcbor.encode({"image": [v0, BLOB, CID]})
    assert shape(record(block)) == shape({"image": [v0, BLOB, CID]})
    assert str(v0).startswith("Qm")
    assert f'{{"/":"{v0}"}}' in dag_json(block)


def test_the_error_says_that_a_record_has_a_float() -> None:
    with pytest.raises(InvalidDagCbor, match="has no float"):
        record(NOT_RECORDS["float"])


FACET: dict[str, object] = {"index": {"byteEnd": 9, "byteStart": 3}, "features": [{"tag": "a"}]}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(POST, id="post"),
        pytest.param({"a": bytes(CID)}, id="bytes-like-a-link"),
        pytest.param({"a": [CID, CID]}, id="links"),
        pytest.param({}, id="empty"),
        pytest.param({"facets": [FACET] * 400, "text": "\u0439" * 600}, id="many-values"),
    ],
)
def test_only_bytes_that_look_like_a_link_need_the_other_decoder(
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


def test_libipld_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = records.find_libipld.__wrapped__
    assert fast() == (libipld.decode_dag_cbor, libipld.encode_dag_cbor, libipld.encode_cid)
    monkeypatch.setitem(sys.modules, "libipld", None)
    assert fast() is None


def claiming(around: bytes, size: int, levels: int) -> bytes:
    """Lists or maps within each other that claim to have as many items as the block has room for.

    Args:
        around: what there is of each before its item: a list or a map with one key, with the
            length in four bytes.
        size: of the block.
        levels: how many there are. After them there is no item, but bytes that begin none.
    """
    whole = b"\xa1aa"
    for _ in range(levels):
        left = size - len(whole) - len(around)
        claimed = left if around[0] == 0x9A else left // 2
        whole += around[:1] + claimed.to_bytes(4) + around[5:]
    return whole + b"\xff" * (size - len(whole))


LISTS, MAPS = b"\x9a" + bytes(4), b"\xba" + bytes(4) + b"aa"


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(claiming(LISTS, 2 << 20, 10), id="lists"),
        pytest.param(claiming(LISTS, 200_000, 99), id="deep-lists"),
        pytest.param(claiming(LISTS, 4096, 500), id="short-lists"),
        pytest.param(claiming(MAPS, 200_000, 40), id="maps"),
        pytest.param(claiming(MAPS, 4096, 500), id="short-maps"),
    ],
)
def test_items_that_are_only_claimed_take_no_memory(block: bytes) -> None:
    record(dagcbor.encode(POST))  # imports what decodes
    with traced() as peak:
        assert not isinstance(alike(block), dict)
        assert peak() < 3 * len(block) + 100_000


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


def test_dag_json_refuses_maps_that_would_come_back_as_a_link_or_bytes() -> None:
    refused: list[dict[str, object]] = [{"/": "x"}, {"/": "x", "a": 1}, {"/": {"bytes": "x"}}]
    for reserved in refused:
        with pytest.raises(ValueError, match="would be a link"):
            dag_json(dagcbor.encode({"in": [reserved]}))


def test_dag_json_takes_other_maps_with_a_slash() -> None:
    taken: list[dict[str, object]] = [{"/": 1}, {"!": 1, "/": "x"}, {"/": {"a": 1}}, {"x": '{"/":'}]
    for fine in taken:
        assert json.loads(dag_json(dagcbor.encode(fine))) == fine


# --- What can be a processor --------------------------------------------------------------------


async def process_async(block: bytes) -> int:
    return len(block)


class AsyncCallable:
    async def __call__(self, block: bytes) -> int:
        return len(block)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(process_async, id="async-function"),
        pytest.param(functools.partial(process_async), id="async-partial"),
        pytest.param(AsyncCallable(), id="async-callable"),
        pytest.param(3, id="number"),
        pytest.param(None, id="none"),
    ],
)
def test_what_cannot_be_a_processor_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a block processor must be"):
        DriverBuilder(block_processor=wrong)
    with pytest.raises(TypeError, match="a block processor must be"):
        DriverBuilder().with_block_processor(wrong)
    with pytest.raises(TypeError, match="a block processor must be"):
        Processor(wrong)
