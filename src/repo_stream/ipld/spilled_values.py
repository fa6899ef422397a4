"""Results of block processors, as CBOR, on their way to the disk and back.

They have to come back equal. Plain CBOR would turn tuples into lists and forget some other types,
so those have tags of their own. Nothing of it is ever outside of a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from repo_stream.ipld.cid import Cid
from repo_stream.ipld.dagcbor import CID_TAG, MAX_NESTING, decode_link, encode_link

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

__all__ = ["SCALARS", "dump_value", "library_scalars", "load_value"]


_TIME_TAG: Final = 0
# From the range of tags that anybody may register.
_TUPLE_TAG: Final = 27001
_FROZENSET_TAG: Final = 27002
_DECIMAL_TAG: Final = 27003

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
#: The types that hold no other values and need no import; see also `library_scalars`.
SCALARS: Final = frozenset({*_PLAIN, complex, Cid})
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset})


@cache
def library_scalars() -> frozenset[type]:
    """Return the types from the standard library that hold no other values.

    To import them takes 6 ms, and most programs never need them.
    """
    from datetime import date, datetime  # noqa: PLC0415 - as the docstring says
    from decimal import Decimal  # noqa: PLC0415 - as the docstring says
    from fractions import Fraction  # noqa: PLC0415 - as the docstring says
    from uuid import UUID  # noqa: PLC0415 - as the docstring says

    return frozenset({date, datetime, Decimal, Fraction, UUID})


# --- Writing ------------------------------------------------------------------------------------


def dump_value(value: object) -> bytes:
    """Encode a processor's result so that `load_value` returns an equal one.

    It may consist of `None`, `bool`, `int`, `float`, `complex`, `str`, `bytes`, `Cid`, `date`,
    `datetime` with a time zone, `Decimal`, `Fraction`, `UUID`, `list`, `tuple`, `dict`, `set` and
    `frozenset`.

    Raises:
        TypeError: if there is a value of another type in it; the message names the type.
        ValueError: if a value cannot be written as CBOR, such as a `datetime` without a time zone.
    """
    kind = type(value)
    if kind not in SCALARS:
        _require_spillable(value)
    try:
        # With encoders of its own, cbor2 takes three times as long to begin.
        if kind in _PLAIN:
            return cbor2.dumps(value)
        return cbor2.dumps(value, encoders=_encoders())
    except cbor2.CBOREncodeError as error:
        raise ValueError(f"a {kind.__name__} cannot be written as CBOR: {error}") from error


def _require_spillable(value: object, nesting: int = MAX_NESTING) -> None:
    kind = type(value)
    if kind in library_scalars():
        return
    if not nesting:
        # cbor2 would recurse until the stack overflows and the process dies.
        raise ValueError(f"a value is nested more than {MAX_NESTING} deep, or contains itself")
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


@cache
def _encoders() -> Mapping[type, Any]:
    from datetime import datetime  # noqa: PLC0415 - as for `library_scalars`
    from decimal import Decimal  # noqa: PLC0415 - as for `library_scalars`

    return {
        Cid: encode_link,
        tuple: _encode_tuple,
        frozenset: _encode_frozenset,  # cbor2 would read one back as a set
        Decimal: _encode_decimal,  # cbor2 makes floats of those that are not finite
        datetime: _encode_datetime,  # cbor2 writes an offset of one second as "Z:01"
    }


def _encode_tuple(encoder: cbor2.CBOREncoder, value: tuple[object, ...]) -> None:
    encoder.encode_semantic(_TUPLE_TAG, list(value))


def _encode_frozenset(encoder: cbor2.CBOREncoder, value: frozenset[object]) -> None:
    encoder.encode_semantic(_FROZENSET_TAG, list(value))


def _encode_decimal(encoder: cbor2.CBOREncoder, value: Decimal) -> None:
    encoder.encode_semantic(_DECIMAL_TAG, str(value))


def _encode_datetime(encoder: cbor2.CBOREncoder, value: datetime) -> None:
    if value.utcoffset() is None:
        message = "a naive datetime, one without a time zone, cannot be stored"
        raise cbor2.CBOREncodeValueError(message)
    encoder.encode_semantic(_TIME_TAG, value.isoformat())


# --- Reading ------------------------------------------------------------------------------------


def load_value(data: bytes) -> Any:  # noqa: ANN401 - whatever `dump_value` was given
    """Decode what `dump_value` wrote.

    Raises:
        ValueError: if the bytes are anything else.
    """
    try:
        return cbor2.loads(data, semantic_decoders=_DECODERS)
    except cbor2.CBORError as error:
        raise ValueError(f"a stored value cannot be read back: {error}") from error


def _decode_decimal(value: str, _immutable: bool) -> Decimal:
    from decimal import Decimal  # noqa: PLC0415 - as for `library_scalars`

    return Decimal(value)


_DECODERS: Final[Mapping[int, Callable[[Any, bool], Any]]] = {
    CID_TAG: decode_link,
    _TUPLE_TAG: lambda value, _immutable: tuple(value),
    _FROZENSET_TAG: lambda value, _immutable: frozenset(value),
    _DECIMAL_TAG: _decode_decimal,
}
