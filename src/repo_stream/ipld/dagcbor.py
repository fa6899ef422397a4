"""Strict DAG-CBOR: the form of CAR headers, commits and records.

`cbor2` is more liberal than DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/): it accepts
bytes after the end, unsorted keys, long forms of short numbers, and all tags. So a block is
decoded, its types are checked, and it is encoded again: it is canonical only if the bytes are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import cbor2

from repo_stream.ipld.cid import Cid, digest_length, read_cid
from repo_stream.ipld.errors import InvalidCid, InvalidDagCbor, NestedTooDeep

__all__ = [
    "CID_TAG",
    "INTEGERS",
    "MAX_NESTING",
    "decode",
    "decode_link",
    "decode_map",
    "encode",
    "encode_link",
]


#: The tag of links, the only one that DAG-CBOR has.
CID_TAG: Final = 42
#: How deep values may be nested.
MAX_NESTING: Final = 128
#: The integers of the atproto data model: those of 64 bits with a sign.
INTEGERS: Final = range(-(1 << 63), 1 << 63)


# --- Decoding -----------------------------------------------------------------------------------


def decode(data: bytes, *, wide: bool = False) -> object:
    """Decode one block of canonical DAG-CBOR, with links as `Cid`.

    The data model of atproto (https://atproto.com/specs/data-model) has no floats, and integers of
    64 bits with a sign, so anything else is refused. Links may have any CID, CIDv0 among them, but
    a digest of another length than its hash function makes is none.

    Args:
        data: the block.
        wide: accept all integers of DAG-CBOR, as in what is not a record.

    Raises:
        InvalidDagCbor: if the bytes are anything else, or anything follows after the block.
        NestedTooDeep: if values are nested deeper than `MAX_NESTING`.
    """
    value, fault = _load(data)
    # Raised here, and not where cbor2's errors are caught: their tracebacks would keep the block in
    # memory, and some of them contain a part of it.
    if fault is not None:
        raise fault
    _require_data_model(value, wide=wide)
    if encode(value) != data:
        raise InvalidDagCbor("not in canonical form, or followed by other bytes")
    return value


def decode_map(data: bytes, *, wide: bool = False) -> dict[str, object]:
    """Do what `decode` does, for a block that has to be a map.

    Raises:
        InvalidDagCbor: if it is not canonical DAG-CBOR, or not a map.
        NestedTooDeep: as `decode`.
    """
    value = decode(data, wide=wide)
    if not isinstance(value, dict):
        raise InvalidDagCbor("not a map")
    return cast("dict[str, object]", value)


def _load(data: bytes) -> tuple[object, InvalidDagCbor | NestedTooDeep | None]:
    """Return what cbor2 reads, and what is wrong with it."""
    try:
        value = cbor2.loads(
            data,
            max_depth=MAX_NESTING,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_TAG_DECODERS,
            tag_hook=_refuse_unknown_tag,
        )
    except cbor2.CBORError as error:
        reason = str(_innermost(error))
        if reason.startswith(_DEPTH_EXCEEDED):
            return None, NestedTooDeep(maximum=MAX_NESTING)
    except (ValueError, OverflowError, MemoryError) as error:
        reason = str(error)
    else:
        return value, None
    if len(reason) > _LONGEST_REASON:  # it may contain a key
        reason = f"{reason[:_LONGEST_REASON]}..."
    return None, InvalidDagCbor(f"not DAG-CBOR: {reason}")


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _decode_whole_link(value: Any, _immutable: bool = False) -> Cid:  # noqa: ANN401 - cbor2's hook
    """Do what `decode_link` does, and refuse a digest that its hash function cannot have made."""
    cid = decode_link(value)
    expected = digest_length(cid.hash_function)
    if expected is not None and len(cid.digest) != expected:
        has = f"a digest of {len(cid.digest)} bytes instead of {expected}"
        raise InvalidCid(f"a link has {has} for hash function {cid.hash_function:#x}")
    return cid


def decode_link(value: Any, _immutable: bool = False) -> Cid:  # noqa: ANN401 - cbor2's hook
    """Return the CID in the content of tag 42.

    Raises:
        InvalidCid: if it is not a byte string of a zero and a CID.
    """
    if not isinstance(value, bytes) or value[:1] != b"\0":
        raise InvalidCid("a link is not a byte string that starts with zero")
    if read_cid(value, 1, len(value)) != len(value):
        raise InvalidCid("a link has bytes after its CID")
    return Cid(value[1:])


def _refuse_tag(_value: Any, _immutable: bool = False) -> object:  # noqa: ANN401 - cbor2's hook
    raise InvalidDagCbor("a tag other than 42 (link) is used")


def _refuse_unknown_tag(tag: cbor2.CBORTag, _immutable: bool) -> object:
    return _refuse_tag(tag)


# cbor2 decodes these tags by itself and calls `tag_hook` for all others. The tests try them all.
_TAGS_OF_CBOR2: Final = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100),
    *(256, 258, 260, 261, 1004, 43000, 55799),
)
_TAG_DECODERS: Final[Mapping[int, Any]] = {
    **dict.fromkeys(_TAGS_OF_CBOR2, _refuse_tag),
    CID_TAG: _decode_whole_link,
}
# What cbor2 says of too deep nesting. It has no type of its own for that.
_DEPTH_EXCEEDED: Final = "maximum container nesting depth"
# How many characters of what cbor2 says are repeated.
_LONGEST_REASON: Final = 200

_SCALARS_OF_DATA_MODEL: Final = frozenset({type(None), bool, int, str, bytes, Cid})


def _require_data_model(value: object, *, wide: bool) -> None:
    """Check that a value has only types of the data model in it.

    Raises:
        InvalidDagCbor: if it has not.
    """
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        kind: type[object] = item.__class__
        if kind is dict:
            if not all(type(key) is str for key in item):
                raise InvalidDagCbor("not of the atproto data model: a map key is not text")
            waiting.extend(item.values())
        elif kind is list:
            waiting.extend(item)
        elif kind not in _SCALARS_OF_DATA_MODEL:
            raise InvalidDagCbor(f"not of the atproto data model, which has no {kind.__name__}")
        elif kind is int and not wide and item not in INTEGERS:
            raise InvalidDagCbor(
                "not of the atproto data model, whose integers have 64 bits with a sign"
            )


# --- Encoding -----------------------------------------------------------------------------------


def encode(value: object) -> bytes:
    """Encode a value of the data model as canonical DAG-CBOR.

    Raises:
        InvalidDagCbor: if the value cannot be written as DAG-CBOR.
    """
    try:
        return cbor2.dumps(value, canonical=True, encoders=_ENCODERS)
    except (cbor2.CBOREncodeError, ValueError) as error:
        raise InvalidDagCbor(f"cannot be written as DAG-CBOR: {error}") from error


def encode_link(encoder: cbor2.CBOREncoder, cid: Cid) -> None:
    """Write a CID as a link, for cbor2."""
    encoder.encode_semantic(CID_TAG, b"\0" + bytes(cid))


_ENCODERS: Final[Mapping[type, Any]] = {Cid: encode_link}
