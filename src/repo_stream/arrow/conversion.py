"""Records to Arrow arrays by given fields, and what does not fit.

It goes column by column: the values of one key in all records are a list, whose types are checked
at once, and which becomes an array at once. So a record takes some 200 ns for each of its fields,
and no function of Python's is called for a value, but for links and JSON.

What does not fit is looked for only if the types, or the number of keys in all maps, say that there
is something. It is called *rest* here: of each value at fault, by its index. The rest of a map is
the map of what does not fit in it, so that the fields that fit keep their places. The rest of a
list is the whole list: in its place there is a null. Explicit nulls do not fit, for in Arrow a null
means that there is no such field; in a list, where every item is there, it means null.

A long list of nearly empty maps does not fit, either, unless they are in lists of their own. In
Arrow each of its items takes a cell for every field that any of them may have, so a record of 2 MiB
could take gigabytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from types import NoneType
from typing import Any, Final, TypeAlias, cast

from repo_stream.arrow.arrays import (
    boolean_array,
    integer_array,
    list_array,
    nullable_bytes,
    nullable_text,
    spread,
)
from repo_stream.arrow.columns import pyarrow
from repo_stream.arrow.shapes import Field, Kind, Shape, arrow_field, arrow_type
from repo_stream.ipld.cid import Cid
from repo_stream.ipld.datamodel import to_atproto_json

__all__ = ["arrays_of", "json_text"]

# By index: what of a value does not fit.
_Rest: TypeAlias = dict[int, Any]
# An Arrow array of all values, and what does not fit in it.
_Array: TypeAlias = tuple[Any, _Rest]

_MISSING: Final = object()

# How many cells a list may take, and how many more for each value in it.
_CELLS: Final = 4096
_CELLS_A_VALUE: Final = 16

_TYPES: Final[Mapping[Kind, type[object]]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.BOOLEAN: bool,
    Kind.BYTES: bytes,
    Kind.LINK: Cid,
    Kind.LIST: list,
    Kind.MAP: dict,
}


def arrays_of(
    fields: Sequence[Field], records: Sequence[dict[str, Any]]
) -> tuple[list[Any], list[str | None]]:
    """Convert records.

    Args:
        fields: the fields that have a column.
        records: decoded records.

    Returns:
        An array for each field, and for each record the JSON text of what does not fit; `None` if
        all does.
    """
    arrays, rest = _columns(fields, records)
    texts: list[str | None] = [None] * len(records)
    for index, value in rest.items():
        texts[index] = json_text(value)
    return arrays, texts


def _columns(fields: Sequence[Field], maps: Sequence[dict[str, Any]]) -> tuple[list[Any], _Rest]:
    arrays: list[Any] = []
    rest: _Rest = {}
    taken = 0
    for key, _, shape in fields:
        # Of JSON, null is a value like any other.
        nothing = _MISSING if shape.kind is Kind.JSON else None
        array, misfits = _array(shape, [each.get(key, nothing) for each in maps])
        arrays.append(array)
        taken += len(array) - array.null_count
        for index, value in misfits.items():
            rest.setdefault(index, {})[key] = value
    if taken != sum(map(len, maps)):
        _add_unknown(fields, maps, rest)
    return arrays, rest


def _add_unknown(fields: Sequence[Field], maps: Sequence[dict[str, Any]], rest: _Rest) -> None:
    """Add to the rest what no field is for, and explicit nulls."""
    known = {field.key: field.shape.kind for field in fields}
    for index, each in enumerate(maps):
        for key, value in each.items():
            if key not in known or (value is None and known[key] is not Kind.JSON):
                rest.setdefault(index, {})[key] = value


def _array(shape: Shape, values: list[Any]) -> _Array:
    """Convert values of one shape; `None` is no value, and so is `_MISSING` of JSON."""
    if shape.kind is Kind.JSON:
        texts = [None if value is _MISSING else json_text(value) for value in values]
        return nullable_text(texts), {}
    wanted = _TYPES[shape.kind]
    rest: _Rest = {}
    if not {wanted, NoneType}.issuperset(map(type, values)):
        rest = {
            index: value
            for index, value in enumerate(values)
            if value is not None and type(value) is not wanted
        }
        values = [None if index in rest else value for index, value in enumerate(values)]
    if shape.kind is Kind.MAP:
        array, misfits = _structs(shape, values)
    elif shape.item is not None:
        array, misfits = _lists(shape, shape.item, values)
    else:
        return _leaves(shape.kind, values), rest
    return array, rest | misfits


def _leaves(kind: Kind, values: list[Any]) -> Any:  # noqa: ANN401 - pyarrow has no types
    match kind:
        case Kind.INTEGER:
            return integer_array(values)
        case Kind.BOOLEAN:
            return boolean_array(values)
        case Kind.BYTES:
            return nullable_bytes(values)
        case Kind.LINK:
            return nullable_text([None if value is None else str(value) for value in values])
        case _:
            return nullable_text(values)


def _structs(shape: Shape, values: list[dict[str, Any] | None]) -> _Array:
    maps = [value for value in values if value is not None]
    arrays, rest = _columns(shape.fields, maps)
    array = pyarrow().StructArray.from_arrays(arrays, fields=list(map(arrow_field, shape.fields)))
    if len(maps) == len(values):
        return array, rest
    places = [index for index, value in enumerate(values) if value is not None]
    sources = iter(range(len(maps)))
    array = spread(array, [None if value is None else next(sources) for value in values])
    return array, {places[index]: value for index, value in rest.items()}


def _lists(shape: Shape, item: Shape, values: list[list[Any] | None]) -> _Array:
    width = _width_of(item)
    sparse = {
        index: value for index, value in enumerate(values) if value and _is_sparse(value, width)
    }
    if sparse:
        fitting = [None if index in sparse else value for index, value in enumerate(values)]
        array, rest = _lists(shape, item, fitting)
        return array, rest | sparse
    items, item_rest = _array(item, list(chain.from_iterable(filter(None, values))))
    if item_rest:
        ends = list(accumulate(len(value) if value else 0 for value in values))
        at_fault = {bisect_right(ends, index) for index in item_rest}
        fitting = [None if index in at_fault else value for index, value in enumerate(values)]
        return _lists(shape, item, fitting)[0], {index: values[index] for index in at_fault}
    return list_array(arrow_type(shape), values, items), {}


def _width_of(shape: Shape) -> int:
    """Return how many cells a value takes, of which some may be null."""
    return sum(_width_of(field.shape) for field in shape.fields) or 1


def _is_sparse(values: list[Any], width: int) -> bool:
    """Return whether the items of a list would take many more cells than they have values."""
    cells = len(values) * width - _CELLS
    return cells > 0 and cells > _CELLS_A_VALUE * _count(values)


def _count(value: Any) -> int:  # noqa: ANN401 - any value of the data model
    """Return how many values there are in a value, but for maps and lists."""
    if isinstance(value, dict):
        items: Iterable[Any] = cast("dict[str, Any]", value).values()
    elif isinstance(value, list):
        items = cast("list[Any]", value)  # type: ignore[redundant-cast] # not for pyright
    else:
        return 1
    return sum([_count(item) for item in items])


# --- JSON -----------------------------------------------------------------------------------------

_ESCAPE: Final = "$map"
_RESERVED: Final = frozenset({"$link", "$bytes", _ESCAPE})


def json_text(value: Any) -> str:  # noqa: ANN401 - any value of the data model
    """Return a value as JSON in the form of the API, from which it can be read back.

    That form reserves the keys `$link` and `$bytes`. No lexicon has them, but a stranger's map may.
    Such a map is written as `{"$map": [[key, value], ...]}`, and so is one with the key `$map`.
    """
    try:
        text = to_atproto_json(value)
    except ValueError:
        return to_atproto_json(_escaped(value))
    return to_atproto_json(_escaped(value)) if f'"{_ESCAPE}":' in text else text


def _escaped(value: Any) -> Any:  # noqa: ANN401 - any value of the data model
    if isinstance(value, list):
        return list(map(_escaped, cast("list[Any]", value)))  # type: ignore[redundant-cast] # not for pyright
    if not isinstance(value, dict):
        return value
    items = {key: _escaped(item) for key, item in cast("dict[str, Any]", value).items()}
    return items if _RESERVED.isdisjoint(items) else {_ESCAPE: list(map(list, items.items()))}
