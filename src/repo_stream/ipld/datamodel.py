"""A record's values: the same from two decoders, of which one is twenty times as fast.

`dagcbor.decode` is strict and slow. `libipld`, where it is installed, is fast and takes more than
the data model of atproto allows: floats, long forms, any nesting. And it gives links and byte
strings alike as `bytes`. What makes it strict is its encoder, which writes the one canonical form
and takes all bytes that are a CID for a link: where it gives the block back, the block was
canonical, and held no byte string that could pass for a link. Everything it stumbles over goes to
`dagcbor`, which decides, and says what is wrong.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final, NamedTuple, cast

from repo_stream.ipld import dagcbor
from repo_stream.ipld.cid import ORDINARY_PREFIX, Cid

__all__ = ["decode_record", "to_dag_json"]


# How deep the fast way follows; `dagcbor` goes a little deeper, and says where it ends.
_MAX_NESTING: Final = 100

_RAW_PREFIX: Final = b"\x01\x55\x12\x20"
_LINK_TAG: Final = b"\xd8\x2a"


class Fast(NamedTuple):
    """The two functions of `libipld` that are used."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


@cache
def find_libipld() -> Fast | None:
    """Import `libipld`, when the first record is decoded, where there is one."""
    try:
        from libipld import (  # noqa: PLC0415 - an extra
            decode_dag_cbor,
            encode_dag_cbor,
        )
    except ImportError:
        return None
    return Fast(decode_dag_cbor, encode_dag_cbor)


def decode_record(block: bytes) -> dict[str, Any]:
    """Decode a record strictly, by `libipld` where it is installed.

    Raises:
        InvalidDagCbor: where it is not a map of canonical DAG-CBOR, or not of the data model.
    """
    fast = find_libipld()
    value = None if fast is None else _decode_fast(block, fast)
    return dagcbor.decode_map(block) if value is None else value


def _decode_fast(block: bytes, fast: Fast) -> dict[str, Any] | None:
    """Decode by `libipld` what is beyond doubt; give `None` for the rest."""
    try:
        value = fast.decode(block)
        if type(value) is not dict or fast.encode(value) != block:
            return None
    except (ValueError, RecursionError):
        return None
    record = cast("dict[str, Any]", value)
    return record if _settle(record, _MAX_NESTING, linked=_LINK_TAG in block) else None


def _settle(parts: Any, room: int, *, linked: bool) -> bool:  # noqa: ANN401 - a dict or a list
    """Make a `Cid` of each link; say whether all that was found is beyond doubt."""
    whole: type[object] = parts.__class__
    places = parts.items() if whole is dict else enumerate(parts)
    for place, item in cast("Iterable[tuple[Any, Any]]", places):
        kind: type[object] = item.__class__
        if kind is str or kind is int:
            continue
        if kind is dict or kind is list:
            if not room or not _settle(item, room - 1, linked=linked):
                return False
        elif kind is float:
            return False
        elif linked and kind is bytes:
            if len(item) != 36 or not item.startswith((ORDINARY_PREFIX, _RAW_PREFIX)):
                return False
            parts[place] = Cid(item)
    return True


def to_dag_json(record: dict[str, Any]) -> str:
    """Write a record as canonical DAG-JSON.

    Raises:
        ValueError: where it holds a map that DAG-JSON would take for a link or for bytes.
    """
    text = _write_json(record)
    # Links and bytes look like that as well, and most records have neither.
    if '{"/":' in text:
        _refuse_reserved(record)
    return text


def _as_json(value: object) -> dict[str, object]:
    if isinstance(value, Cid):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return {"/": {"bytes": b64encode(value).decode().rstrip("=")}}
    raise TypeError(f"a {type(value).__qualname__} is not of the data model")


_write_json: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=_as_json
).encode


def _refuse_reserved(record: dict[str, Any]) -> None:
    waiting: list[Any] = [record]
    while waiting:
        item = waiting.pop()
        kind: type[object] = item.__class__
        if kind is dict:
            if "/" in item and min(item) == "/" and _is_reserved(item["/"]):
                raise ValueError('a map with the key "/" would be a link or bytes in DAG-JSON')
            waiting.extend(item.values())
        elif kind is list:
            waiting.extend(item)


def _is_reserved(value: Any) -> bool:  # noqa: ANN401 - of any type of the data model
    kind: type[object] = value.__class__
    if kind is dict:
        return "bytes" in value and min(value) == "bytes" and isinstance(value["bytes"], str)
    return kind is str
