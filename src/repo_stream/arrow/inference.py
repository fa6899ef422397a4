"""The shape of a collection, from its records.

Records of one collection share a lexicon, or should. What differs between them is brought together:
a map has all fields that were seen in any of them, in sorted order, so that the same records have
the same schema in any order. A union of a lexicon is a map with the fields of all its members, and
`$type` tells which of them it is.

Not all records are of one lexicon, and a stranger may write anything. These become JSON text:

- values of different kinds under one key, such as a number in one record and a text in another;
- what is always null, always an empty map, or always an empty list;
- a map with more than 128 different keys, which is a table in itself, or with a key of more than
  256 characters;
- what is nested deeper than 16 lists and maps, for Parquet's readers have limits, too;
- in lists, a field of a map that is null in some. Elsewhere such a field keeps its type, and the
  null, which is not the same as no field, is in the column `other`.

There is an end to the number of fields, too: 1,000, counted with all that is nested. What is seen
after that does not fit the schema, so it is in `other`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from repo_stream.arrow.shapes import FIXED, OTHER, Field, Kind, Shape, named, schema_of_fields
from repo_stream.ipld.cid import Cid

__all__ = ["Inferred"]

_MOST_FIELDS: Final = 1000
_MOST_IN_A_MAP: Final = 128
_LONGEST_KEY: Final = 256
_DEEPEST: Final = 16

# What was seen under one key, as bits.
_NULL: Final = 1
_LIST: Final = 2
_MAP: Final = 4
_TOO_MUCH: Final = 8
_NESTED: Final = _LIST | _MAP
_BITS: Final[Mapping[type[object], int]] = {
    NoneType: _NULL,
    list: _LIST,
    dict: _MAP,
    str: 16,
    int: 32,
    bool: 64,
    bytes: 128,
    Cid: 256,
}
_LEAVES: Final = {
    16: Shape(Kind.TEXT),
    32: Shape(Kind.INTEGER),
    64: Shape(Kind.BOOLEAN),
    128: Shape(Kind.BYTES),
    256: Shape(Kind.LINK),
}
_JSON: Final = Shape(Kind.JSON)


class _Seen:
    """What was seen under one key, or in the lists under it.

    Attributes:
        bits: the kinds of values.
        fields: what was seen in maps, by key.
        item: what was seen in lists.
    """

    __slots__ = ("bits", "fields", "item")

    def __init__(self) -> None:
        self.bits = 0
        self.fields: dict[str, _Seen] = {}
        self.item: _Seen | None = None

    def size(self) -> int:
        """Return how many fields and items are below it."""
        below = [*self.fields.values(), *([] if self.item is None else [self.item])]
        return sum(1 + each.size() for each in below)


class Inferred:
    """The shape of the records that were added.

    It takes some 2 us for a record with ten values, and memory for the shape alone, which is
    bounded.

    Example:
        >>> inferred = Inferred()
        >>> inferred.add({"text": "hi", "langs": ["en"]})
        >>> inferred.add({"text": "ho", "bridged": True})
        >>> [(field.name, field.shape.kind.value) for field in inferred.fields()]
        [('bridged', 'boolean'), ('langs', 'list'), ('text', 'text')]
    """

    def __init__(self) -> None:
        self._top = _Seen()
        self._room = _MOST_FIELDS

    @property
    def size(self) -> int:
        """How many fields there are, and items of lists, with all that is nested."""
        return _MOST_FIELDS - self._room

    def add(self, record: dict[str, Any]) -> None:
        """Add a decoded record."""
        self._add_map(self._top, record, 0)

    def fields(self) -> tuple[Field, ...]:
        """Return the fields of all records that were added."""
        return _fields(self._top, in_list=False, taken=(*FIXED, OTHER))

    def schema(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return the `pyarrow.Schema` for all records that were added.

        It has the columns `uri, did, rkey, cid, rev, created_at`, a column for each field of the
        records, and `other`.
        """
        return schema_of_fields(self.fields())

    def _add_map(self, seen: _Seen, record: dict[str, Any], depth: int) -> None:
        fields = seen.fields
        for key, value in record.items():
            field = fields.get(key)
            if field is None:
                field = self._new_field(seen, key, depth)
                if field is None:
                    if seen.bits & _TOO_MUCH:
                        return
                    continue
            bit = _BITS[value.__class__]
            field.bits |= bit
            if bit & _NESTED:
                self._add_nested(field, value, depth + 1)

    def _new_field(self, seen: _Seen, key: str, depth: int) -> _Seen | None:
        """Return a field for a key that is new; `None` if there are too many, or it is too long."""
        if len(key) > _LONGEST_KEY or len(seen.fields) == _MOST_IN_A_MAP:
            if depth:
                self._give_up(seen)
            return None
        if not self._room:
            return None
        self._room -= 1
        field = seen.fields[key] = _Seen()
        return field

    def _add_nested(self, seen: _Seen, value: Any, depth: int) -> None:  # noqa: ANN401 - dict or list
        kind = seen.bits & ~_NULL
        if kind not in {_LIST, _MAP} or depth > _DEEPEST:
            self._give_up(seen)
        elif kind == _MAP:
            self._add_map(seen, value, depth)
        elif value:
            self._add_list(seen, value, depth)

    def _add_list(self, seen: _Seen, items: list[Any], depth: int) -> None:
        item = seen.item
        if item is None:
            if not self._room:
                self._give_up(seen)
                return
            self._room -= 1
            item = seen.item = _Seen()
        for value in items:
            bit = _BITS[value.__class__]
            item.bits |= bit
            if bit & _NESTED:
                self._add_nested(item, value, depth + 1)

    def _give_up(self, seen: _Seen) -> None:
        """Forget what is below: it will be JSON text."""
        seen.bits |= _TOO_MUCH
        self._room += seen.size()
        seen.fields, seen.item = {}, None


def _fields(seen: _Seen, *, in_list: bool, taken: tuple[str, ...] = ()) -> tuple[Field, ...]:
    shapes = (
        (key, _shape_of_field(seen.fields[key], in_list=in_list)) for key in sorted(seen.fields)
    )
    return named(shapes, taken)


def _shape_of_field(seen: _Seen, *, in_list: bool) -> Shape:
    return _JSON if in_list and seen.bits & _NULL else _shape(seen, in_list=in_list)


def _shape(seen: _Seen, *, in_list: bool) -> Shape:
    match seen.bits & ~_NULL:
        case 4 if seen.fields:  # _MAP
            return Shape(Kind.MAP, fields=_fields(seen, in_list=in_list))
        case 2 if seen.item is not None:  # _LIST
            return Shape(Kind.LIST, item=_shape(seen.item, in_list=True))
        case kind:
            return _LEAVES.get(kind, _JSON)
