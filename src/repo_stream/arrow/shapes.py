"""What the records of a collection look like, and the Arrow types for that.

A shape is one of eight kinds. Six are those of the data model: text, integers, booleans, bytes,
lists and maps; a map is a struct, with a field for each key that was seen. Two are text that stands
for something else, which the metadata of its Arrow field says:

- `repo_stream.form = link`: a link, as the text of its CID.
- `repo_stream.form = json`: any value as JSON in the form of the API, for values of mixed kinds.

Names are those of the record, if Arrow, Parquet and DuckDB can tell them apart. DuckDB does not
tell `a` from `A`, and a name ends at a zero byte for Arrow. If a field has another name than in the
record, its metadata has the real one: `repo_stream.key`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from repo_stream.arrow.columns import COLUMNS, pyarrow, schema_of

__all__ = [
    "FIXED",
    "OTHER",
    "Field",
    "Kind",
    "Shape",
    "arrow_field",
    "arrow_type",
    "fields_of",
    "named",
    "schema_of_fields",
]

#: The columns before those of the record, and the one after them for what does not fit.
FIXED: Final = tuple(name for name in COLUMNS if name not in {"collection", "record"})
OTHER: Final = "other"

_FORM: Final = b"repo_stream.form"
_KEY: Final = b"repo_stream.key"
_UNNAMED: Final = "unnamed"


class Kind(Enum):
    """The kinds of values; see the module."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    BYTES = "bytes"
    LINK = "link"
    LIST = "list"
    MAP = "map"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Shape:
    """What values look like.

    Attributes:
        kind: their kind.
        item: what is in them, if they are lists.
        fields: the fields that they may have, if they are maps.
    """

    kind: Kind
    item: Shape | None = None
    fields: tuple[Field, ...] = ()


class Field(NamedTuple):
    """A field of a map.

    Attributes:
        key: its key in the record.
        name: its name in Arrow.
        shape: what its values look like.
    """

    key: str
    name: str
    shape: Shape


def named(shapes: Iterable[tuple[str, Shape]], taken: Sequence[str] = ()) -> tuple[Field, ...]:
    """Return fields with names that can be told apart, whatever a stranger called them.

    Args:
        shapes: keys and shapes.
        taken: names that are in use.
    """
    used = {name.casefold() for name in taken}
    fields: list[Field] = []
    for key, shape in shapes:
        name = _free_name(key, used)
        used.add(name.casefold())
        fields.append(Field(key, name, shape))
    return tuple(fields)


def _free_name(key: str, used: set[str]) -> str:
    wanted = "".join(letter if letter.isprintable() else "_" for letter in key) or _UNNAMED
    name, number = wanted, 2
    while name.casefold() in used:
        name, number = f"{wanted}_{number}", number + 1
    return name


# --- To Arrow -------------------------------------------------------------------------------------


def schema_of_fields(fields: Iterable[Field]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the `pyarrow.Schema` of typed columns: `FIXED`, those of the record, and `OTHER`."""
    arrow = pyarrow()
    other = arrow.field(OTHER, arrow.string(), metadata={_FORM: Kind.JSON.value})
    return arrow.schema([*schema_of(FIXED), *map(arrow_field, fields), other])


def arrow_field(field: Field) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the Arrow field for a field of a record."""
    metadata = _form_of(field.shape)
    if field.name != field.key:
        metadata[_KEY] = field.key.encode()
    return pyarrow().field(field.name, arrow_type(field.shape), metadata=metadata or None)


def arrow_type(shape: Shape) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the Arrow type for values of a shape."""
    arrow = pyarrow()
    match shape.kind:
        case Kind.INTEGER:
            return arrow.int64()
        case Kind.BOOLEAN:
            return arrow.bool_()
        case Kind.BYTES:
            return arrow.binary()
        case Kind.LIST if shape.item is not None:
            metadata = _form_of(shape.item) or None
            item = arrow_type(shape.item)
            return arrow.list_(arrow.field("item", item, metadata=metadata))
        case Kind.MAP:
            return arrow.struct([arrow_field(field) for field in shape.fields])
        case _:
            return arrow.string()


def _form_of(shape: Shape) -> dict[bytes, bytes]:
    return {_FORM: shape.kind.value.encode()} if shape.kind in {Kind.LINK, Kind.JSON} else {}


# --- From Arrow -----------------------------------------------------------------------------------


def fields_of(schema: Any) -> tuple[Field, ...]:  # noqa: ANN401 - pyarrow has no types
    """Return the fields of records that a schema has: all but `FIXED` and `OTHER`.

    Raises:
        ValueError: if a column has a type that no value of a record has, or if two columns are for
            the same field.
    """
    columns = [field for field in schema if field.name not in {*FIXED, OTHER}]
    return tuple(_fields(columns, ""))


def _fields(columns: Iterable[Any], where: str) -> Iterator[Field]:
    keys: set[str] = set()
    for field in columns:
        name: str = field.name
        key = _metadata(field).get(_KEY, name.encode()).decode()
        if key in keys:
            raise ValueError(f"two columns are for the field {where}{key}")
        keys.add(key)
        yield Field(key, name, _shape_of(field, f"{where}{name}"))


def _shape_of(field: Any, where: str) -> Shape:  # noqa: ANN401 - pyarrow has no types
    kinds, kind = pyarrow().types, field.type
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        form = _metadata(field).get(_FORM, b"").decode()
        return Shape(Kind(form) if form in {"link", "json"} else Kind.TEXT)
    if kinds.is_integer(kind):
        return Shape(Kind.INTEGER)
    if kinds.is_boolean(kind):
        return Shape(Kind.BOOLEAN)
    if kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind):
        return Shape(Kind.BYTES)
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return Shape(Kind.LIST, item=_shape_of(kind.value_field, f"{where}[]"))
    if kinds.is_struct(kind) and len(kind):
        return Shape(Kind.MAP, fields=tuple(_fields(kind, f"{where}.")))
    raise ValueError(
        f"the column {where} has the type {kind}, which no value of a record has: "
        "choose string, int64, bool, binary, list or struct"
    )


def _metadata(field: Any) -> dict[bytes, bytes]:  # noqa: ANN401 - pyarrow has no types
    return field.metadata or {}
