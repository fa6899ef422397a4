"""Records as Python values, as DAG-JSON, and as the JSON of the API.

Two decoders return the same values. `dagcbor.decode` is strict and slow. `libipld` is twenty times
as fast, if it is installed, but accepts more than the data model of atproto has: floats, integers
of 65 bits, numbers in long forms, any nesting. It also returns both links and byte strings as
`bytes`.

The encoder of `libipld` makes it strict. It writes the canonical form alone, and writes all `bytes`
that are a CID as a link. So if it encodes the decoded record to the same block, the block was
canonical and contained no byte string that could be mistaken for a link. Anything else is decoded
again by `dagcbor`, which raises the error that says what is wrong.

**Hostile records.** `libipld` makes room for all items that a list or a map claims to have before
it reads the first of them, and goes as deep as Python's limit on recursion. So a record of 200 kB
could take seconds and gigabytes, and overflow the stack if that limit was raised. Short records
cannot do much. All others are looked at first (`_is_suspect`), and a suspect is left to `dagcbor`.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, cast

from repo_stream.ipld import dagcbor
from repo_stream.ipld.cid import ORDINARY_LENGTH, ORDINARY_PREFIX, Cid
from repo_stream.ipld.dagcbor import INTEGERS, MAX_NESTING
from repo_stream.ipld.errors import NestedTooDeep

__all__ = ["cid_texts", "decode_record", "to_atproto_json", "to_dag_json", "to_json_value"]


# How deep the fast decoder may go. `dagcbor` goes a little deeper and raises an error at its end.
_MAX_NESTING: Final = 100

# The longest block that is never a suspect, in bytes.
_SHORT: Final = 2048
# The greatest limit on recursion that is safe for longer ones: 10,000 levels fit into 8 MiB.
_SAFE_RECURSION: Final = 4096
# The heads of lists and maps whose length has two bytes or more; how many of them there may be, and
# how many items they may claim together. A list takes 8 bytes for each, and a map 25.
_LONG_HEADS: Final = b"\x99\x9a\x9b\xb9\xba\xbb"
_MOST_LONG: Final = 128
_MOST_CLAIMED: Final = 1 << 21
# In a block of so many bytes, two bytes of any text can be a length that it has room for.
_LARGE: Final = 1 << 15
_OTHER_BYTES: Final = bytes(byte for byte in range(256) if byte not in _LONG_HEADS)

_LEAST: Final = INTEGERS[0]
_GREATEST: Final = INTEGERS[-1]
_RAW_PREFIX: Final = b"\x01\x55\x12\x20"
_LINK_TAG: Final = b"\xd8\x2a"


class Fast(NamedTuple):
    """The functions of `libipld` that are used."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    encode_cid: Callable[[bytes], str]


@cache
def find_libipld() -> Fast | None:
    """Return the functions of `libipld`, or `None` if it is not installed.

    It is imported when the first record is decoded.
    """
    try:
        from libipld import (  # noqa: PLC0415 - an extra
            decode_dag_cbor,
            encode_cid,
            encode_dag_cbor,
        )
    except ImportError:
        return None
    return Fast(decode_dag_cbor, encode_dag_cbor, encode_cid)


def cid_texts(cids: Sequence[bytes]) -> list[str]:
    """Return the texts of raw CIDs, as `str` returns them for a `Cid`.

    With `libipld`, each takes a quarter of the time.
    """
    fast = find_libipld()
    if fast is None:
        return [str(Cid(cid)) for cid in cids]
    encode = fast.encode_cid
    return [
        encode(cid)
        if cid.startswith(ORDINARY_PREFIX) and len(cid) == ORDINARY_LENGTH
        else str(Cid(cid))
        for cid in cids
    ]  # fmt: skip - one case a line


def decode_record(block: bytes) -> dict[str, Any]:
    """Decode a record strictly, with `libipld` if it is installed.

    Raises:
        InvalidDagCbor: if it is not a map in canonical DAG-CBOR, or not of the data model.
        NestedTooDeep: if it is nested deeper than 128 levels.
    """
    fast = find_libipld()
    value = None if fast is None else _decode_fast(block, fast)
    return dagcbor.decode_map(block) if value is None else value


def _decode_fast(block: bytes, fast: Fast) -> dict[str, Any] | None:
    """Decode with `libipld`; return `None` if the result may not be right, or cost too much."""
    if len(block) > _SHORT and _is_suspect(block):
        return None
    try:
        value = fast.decode(block)
        if type(value) is not dict or fast.encode(value) != block:
            return None
    except (ValueError, RecursionError):
        return None
    record = cast("dict[str, Any]", value)
    return record if _convert_links(record, _MAX_NESTING, linked=_LINK_TAG in block) else None


def _is_suspect(block: bytes) -> bool:
    """Return whether `libipld` might take far more for a block than for others of its length."""
    if sys.getrecursionlimit() > _SAFE_RECURSION:
        return True
    size = len(block)
    long = len(block.translate(None, _OTHER_BYTES))
    if size < _LARGE and (long > _MOST_LONG or long * size > _MOST_CLAIMED):
        long = block.translate(_marks(size >> 8)).count(b"HL")
    return long > _MOST_LONG or long * size > _MOST_CLAIMED


@cache
def _marks(highest: int) -> bytes:
    """Return the table that marks heads of long lists and maps, and what may follow one.

    Most texts that are not in English are full of such bytes. But a length comes after a head, and
    few bytes of a text begin one that the block has room for.

    Args:
        highest: the first byte of a length of two bytes that is as long as the block.
    """
    marks = bytearray(b"L" * (highest + 1) + b"-" * (255 - highest))
    for head in _LONG_HEADS:
        marks[head] = ord("H")
    return bytes(marks)


def _convert_links(parts: Any, room: int, *, linked: bool) -> bool:  # noqa: ANN401 - dict or list
    """Replace the bytes of each link by a `Cid`, in place; return whether the result is right.

    Args:
        parts: a map or a list, from `libipld`.
        room: how many levels of nesting may follow.
        linked: whether there may be links. All byte strings are expected to be links then.
    """
    whole: type[object] = parts.__class__
    items = parts.items() if whole is dict else enumerate(parts)
    for at, item in cast("Iterable[tuple[Any, Any]]", items):
        kind: type[object] = item.__class__
        if kind is str:
            continue
        if kind is int:
            if not _LEAST <= item <= _GREATEST:
                return False
        elif kind is dict or kind is list:
            if not room or not _convert_links(item, room - 1, linked=linked):
                return False
        elif kind is float:
            return False
        elif linked and kind is bytes:
            if len(item) != 36 or not item.startswith((ORDINARY_PREFIX, _RAW_PREFIX)):
                return False
            parts[at] = Cid(item)
    return True


def to_dag_json(record: dict[str, Any]) -> str:
    """Return a record as canonical DAG-JSON (https://ipld.io/specs/codecs/dag-json/spec/).

    Raises:
        ValueError: if the record contains a map that in DAG-JSON means a link or bytes.
    """
    text = _write_json(record)
    # Links and bytes look like that as well, but most records have neither.
    if '{"/":' in text:
        _refuse(record, _is_reserved_by_dag_json)
    return text


def to_atproto_json(record: dict[str, Any]) -> str:
    """Return a record as JSON in the form of the API.

    See https://atproto.com/specs/data-model#json-representation. Keys are sorted.

    Raises:
        ValueError: if the record contains a map that would mean a link or bytes there, or nothing.
    """
    text = _write_api_json(record)
    # Links and bytes look like that as well, but most records have neither.
    if '"$link":' in text or '"$bytes":' in text:
        _refuse(record, _is_reserved_by_api)
    return text


def to_json_value(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as values that `json.dumps` takes, in the form of the API.

    Raises:
        ValueError: if the record contains a map that would mean a link or bytes there, or nothing.
        NestedTooDeep: if it is nested deeper than 128 levels.
        TypeError: if it contains a value that the data model does not have.
    """
    return _json_map(record, MAX_NESTING)


def _json_map(part: Mapping[str, Any], room: int) -> dict[str, Any]:
    if reason := _is_reserved_by_api(part):
        raise ValueError(reason)
    return {
        name: value if value.__class__ is str else _json_value(value, room)
        for name, value in part.items()
    }


def _json_value(value: Any, room: int) -> Any:  # noqa: ANN401 - of any type of the data model
    kind: type[object] = value.__class__
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict or kind is list:
        if not room:
            raise NestedTooDeep(maximum=MAX_NESTING)
        if kind is dict:
            return _json_map(value, room - 1)
        return [_json_value(each, room - 1) for each in value]
    return _as_api_json(value)


def _as_dag_json(value: object) -> dict[str, object]:
    if isinstance(value, Cid):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return {"/": {"bytes": _base64(value)}}
    raise TypeError(_NO_SUCH_TYPE.format(type(value).__qualname__))


def _as_api_json(value: object) -> dict[str, object]:
    if isinstance(value, Cid):
        return {"$link": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": _base64(value)}
    raise TypeError(_NO_SUCH_TYPE.format(type(value).__qualname__))


_NO_SUCH_TYPE: Final = "the data model has no {}"


def _base64(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")


def _writer(as_json: Callable[[object], dict[str, object]]) -> Callable[[object], str]:
    return json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=as_json
    ).encode


_write_json: Final = _writer(_as_dag_json)
_write_api_json: Final = _writer(_as_api_json)


def _refuse(record: dict[str, Any], reserved: Callable[[dict[str, Any]], str | None]) -> None:
    """Check that no map in a record is reserved.

    Args:
        record: the record.
        reserved: returns what is wrong with a map, or `None`.

    Raises:
        ValueError: if one is.
    """
    waiting: list[Any] = [record]
    while waiting:
        item = waiting.pop()
        kind: type[object] = item.__class__
        if kind is dict:
            if reason := reserved(item):
                raise ValueError(reason)
            waiting.extend(item.values())
        elif kind is list:
            waiting.extend(item)


def _is_reserved_by_dag_json(item: dict[str, Any]) -> str | None:
    if "/" not in item or min(item) != "/":
        return None
    value = item["/"]
    kind: type[object] = value.__class__
    if kind is dict:
        reserved = "bytes" in value and min(value) == "bytes" and isinstance(value["bytes"], str)
    else:
        reserved = kind is str
    return 'a map with the key "/" would be a link or bytes in DAG-JSON' if reserved else None


def _is_reserved_by_api(item: Mapping[str, Any]) -> str | None:
    for key in ("$link", "$bytes"):
        if key in item:
            what = "a link" if key == "$link" else "bytes"
            return f'a map with the key "{key}" would be {what} in the JSON of the API'
    return None
