"""CBOR, in both kinds that the library speaks; nothing else here calls `cbor2`.

*Strict DAG-CBOR* is what a CAR header and a commit are written in. `cbor2` is more liberal than
that (it takes trailing bytes, unsorted keys, long forms of short numbers, and every tag), so a
block is decoded, its types are checked, and then it is encoded again: only the same bytes are
canonical.

*Spilled values* are results of a block processor on their way through the disk store. They need to
come back equal, tuples included, which CBOR alone would turn into lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from repo_stream.ipld.cid import Cid, read_cid
from repo_stream.ipld.errors import InvalidCid, InvalidDagCbor

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

__all__ = ["decode", "decode_map", "dump_value", "encode", "load_value"]


_TIME_TAG = 0
_CID_TAG = 42
# From the range that the registry leaves to whoever comes first; it never leaves the disk store.
_TUPLE_TAG = 27001
_FROZENSET_TAG = 27002
_DECIMAL_TAG = 27003

_MAX_NESTING = 128


# --- Strict DAG-CBOR ----------------------------------------------------------------------------


def decode(data: bytes) -> object:
    """Decode one block of canonical DAG-CBOR, links as `Cid`.

    Floats are refused: the data model of atproto has none.

    Raises:
        InvalidDagCbor: where the bytes are anything else, trailing bytes included.
    """
    try:
        value = cbor2.loads(
            data,
            max_depth=_MAX_NESTING,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_STRICT_TAGS,
            tag_hook=_refuse_tag,
        )
    except cbor2.CBORError as error:
        raise InvalidDagCbor(f"not DAG-CBOR: {_innermost(error)}") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise InvalidDagCbor(f"not DAG-CBOR: {error}") from error
    _require_data_model(value)
    if encode(value) != data:
        raise InvalidDagCbor("not in canonical form, or followed by other bytes")
    return value


def decode_map(data: bytes) -> dict[str, object]:
    """Do what `decode` does, for a block that has to be a map.

    Raises:
        InvalidDagCbor: where it is not one.
    """
    value = decode(data)
    if not isinstance(value, dict):
        raise InvalidDagCbor("not a map")
    return cast("dict[str, object]", value)


def encode(value: object) -> bytes:
    """Encode a value of the data model as canonical DAG-CBOR.

    Raises:
        InvalidDagCbor: where the value has no such form.
    """
    try:
        return cbor2.dumps(value, canonical=True, encoders=_STRICT_ENCODERS)
    except (cbor2.CBOREncodeError, ValueError) as error:
        raise InvalidDagCbor(f"cannot be written as DAG-CBOR: {error}") from error


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _link(value: Any, _immutable: bool = False) -> Cid:  # noqa: ANN401 - cbor2's hook
    if not isinstance(value, bytes) or value[:1] != b"\0":
        raise InvalidCid("a link is not a byte string that starts with zero")
    if read_cid(value, 1, len(value)) != len(value):
        raise InvalidCid("a link has bytes after its CID")
    return Cid(value[1:])


def _refuse(_value: Any, _immutable: bool = False) -> object:  # noqa: ANN401 - cbor2's hook
    raise InvalidDagCbor("a tag other than 42 (link) is used")


def _refuse_tag(_tag: cbor2.CBORTag, _immutable: bool) -> object:
    raise InvalidDagCbor("a tag other than 42 (link) is used")


# cbor2 decodes these by itself, so that `tag_hook` never sees them; the tests try all the others.
_TAGS_OF_CBOR2: Final = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100),
    *(256, 258, 260, 261, 1004, 43000, 55799),
)
_STRICT_TAGS: Final[Mapping[int, Any]] = {
    **dict.fromkeys(_TAGS_OF_CBOR2, _refuse),
    _CID_TAG: _link,
}


def _encode_link(encoder: cbor2.CBOREncoder, cid: Cid) -> None:
    encoder.encode_semantic(_CID_TAG, b"\0" + bytes(cid))


def _encode_tuple(encoder: cbor2.CBOREncoder, value: tuple[object, ...]) -> None:
    encoder.encode_semantic(_TUPLE_TAG, list(value))


def _encode_frozenset(encoder: cbor2.CBOREncoder, value: frozenset[object]) -> None:
    encoder.encode_semantic(_FROZENSET_TAG, list(value))


def _encode_decimal(encoder: cbor2.CBOREncoder, value: Decimal) -> None:
    encoder.encode_semantic(_DECIMAL_TAG, str(value))


def _encode_datetime(encoder: cbor2.CBOREncoder, value: datetime) -> None:
    if value.utcoffset() is None:
        raise cbor2.CBOREncodeValueError("a naive datetime, one without a time zone, has no form")
    encoder.encode_semantic(_TIME_TAG, value.isoformat())


_STRICT_ENCODERS: Final[Mapping[type, Any]] = {Cid: _encode_link}

_DATA_MODEL: Final = frozenset({type(None), bool, int, str, bytes, Cid})


def _require_data_model(value: object) -> None:
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        kind: type[object] = item.__class__
        if kind is dict:
            if not all(type(key) is str for key in item):
                raise InvalidDagCbor("not of the atproto data model: a map key is no text")
            waiting.extend(item.values())
        elif kind is list:
            waiting.extend(item)
        elif kind not in _DATA_MODEL:
            raise InvalidDagCbor(f"not of the atproto data model, which has no {kind.__name__}")


# --- Spilled values -----------------------------------------------------------------------------

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
SCALARS: Final = frozenset({*_PLAIN, complex, Cid})
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset})


@cache
def library_scalars() -> frozenset[type]:
    """Give the scalars that have to be imported, which takes 6 ms that most programs never need."""
    from datetime import date, datetime  # noqa: PLC0415 - says why
    from decimal import Decimal  # noqa: PLC0415
    from fractions import Fraction  # noqa: PLC0415
    from uuid import UUID  # noqa: PLC0415

    return frozenset({date, datetime, Decimal, Fraction, UUID})


@cache
def _spill_encoders() -> Mapping[type, Any]:
    from datetime import datetime  # noqa: PLC0415 - as above
    from decimal import Decimal  # noqa: PLC0415

    return {
        Cid: _encode_link,
        tuple: _encode_tuple,
        frozenset: _encode_frozenset,  # cbor2 reads one back as a set
        Decimal: _encode_decimal,  # cbor2 makes floats of those that are not finite
        datetime: _encode_datetime,  # cbor2 writes an offset of one second as "Z:01"
    }


def _decode_decimal(value: str, _immutable: bool) -> Decimal:
    from decimal import Decimal  # noqa: PLC0415 - as above

    return Decimal(value)


_SPILL_TAGS: Final[Mapping[int, Callable[[Any, bool], Any]]] = {
    _CID_TAG: _link,
    _TUPLE_TAG: lambda value, _immutable: tuple(value),
    _FROZENSET_TAG: lambda value, _immutable: frozenset(value),
    _DECIMAL_TAG: _decode_decimal,
}


def dump_value(value: object) -> bytes:
    """Encode a processor's result for the disk store, so that it comes back equal.

    It can be built from `None`, `bool`, `int`, `float`, `complex`, `str`, `bytes`, `Cid`, `date`,
    `datetime` with a time zone, `Decimal`, `Fraction`, `UUID`, `list`, `tuple`, `dict`, `set` and
    `frozenset`.

    Raises:
        TypeError: where another type is in it; the message names the type.
        ValueError: where a value has no form in CBOR, such as a `datetime` without time zone.
    """
    kind = type(value)
    if kind not in SCALARS:
        _require_spillable(value)
    try:
        # With encoders of its own it takes thrice as long to begin.
        if kind in _PLAIN:
            return cbor2.dumps(value)
        return cbor2.dumps(value, encoders=_spill_encoders())
    except cbor2.CBOREncodeError as error:
        raise ValueError(f"a {kind.__name__} cannot be written as CBOR: {error}") from error


def load_value(data: bytes) -> Any:  # noqa: ANN401 - whatever `dump_value` was given
    """Decode what `dump_value` wrote.

    Raises:
        ValueError: where the bytes are anything else.
    """
    try:
        return cbor2.loads(data, semantic_decoders=_SPILL_TAGS)
    except cbor2.CBORError as error:
        raise ValueError(f"a stored value cannot be read back: {error}") from error


def _require_spillable(value: object, nesting: int = _MAX_NESTING) -> None:
    kind = type(value)
    if kind in library_scalars():
        return
    if not nesting:
        # cbor2 would follow it until the stack overflows, and the process with it.
        raise ValueError(f"a value is nested over {_MAX_NESTING} deep, or holds itself")
    parts: Iterable[object]
    if kind is dict:
        items = cast("dict[object, object]", value)
        parts = [*items, *items.values()]
    elif kind in _SEQUENCES:
        parts = cast("Iterable[object]", value)
    else:
        raise TypeError(f"a {kind.__qualname__} would not come back as one from CBOR")
    if SCALARS.issuperset(map(type, parts)):
        return
    for part in parts:
        if type(part) not in SCALARS:
            _require_spillable(part, nesting - 1)
