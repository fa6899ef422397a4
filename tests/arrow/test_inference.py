"""The shape of a collection: which records have typed columns, and what becomes text."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from repo_stream import Cid
from repo_stream.arrow.inference import Inferred
from repo_stream.arrow.shapes import Field, Kind, Shape, arrow_field, fields_of

pyarrow: Any = pytest.importorskip("pyarrow")

CID = Cid.of(b"\xa0")


def inferred(*records: dict[str, Any]) -> tuple[Field, ...]:
    found = Inferred()
    for record in records:
        found.add(record)
    return found.fields()


def described(shape: Shape) -> object:
    match shape.kind:
        case Kind.MAP:
            return {field.key: described(field.shape) for field in shape.fields}
        case Kind.LIST if shape.item is not None:
            return [described(shape.item)]
        case kind:
            return kind.value


def described_fields(*records: dict[str, Any]) -> dict[str, object]:
    return {field.key: described(field.shape) for field in inferred(*records)}


CASES: dict[str, tuple[list[Any], object]] = {
    "text": (["a", "b"], "text"),
    "integers": ([1, -(2**63)], "integer"),
    "booleans": ([True, False], "boolean"),
    "bytes": ([b"a"], "bytes"),
    "links": ([CID], "link"),
    "a number and a boolean": ([1, True], "json"),
    "a text and a link": (["a", CID], "json"),
    "bytes and a link": ([b"a", CID], "json"),
    "a text and a map": (["a", {"b": 1}], "json"),
    "a text and null": (["a", None], "text"),
    "null alone": ([None], "json"),
    "empty lists": ([[], []], "json"),
    "an empty list and a full one": ([[], [1]], ["integer"]),
    "a list with null": ([[1, None]], ["integer"]),
    "a list of null": ([[None]], ["json"]),
    "a list of mixed kinds": ([[1, "a"]], ["json"]),
    "lists of lists": ([[[1]], [[2], []]], [["integer"]]),
    "empty maps": ([{}, {}], "json"),
    "an empty map and a full one": ([{}, {"b": 1}], {"b": "integer"}),
    "maps with different fields": ([{"b": 1}, {"a": "c"}], {"a": "text", "b": "integer"}),
    "a field that is null in a map": ([{"b": 1}, {"b": None}], {"b": "integer"}),
    "the same in a list": ([[{"b": 1}, {"b": None}]], [{"b": "json"}]),
    "a union": (
        [{"$type": "x#a", "images": [CID]}, {"$type": "x#b", "uri": "c"}],
        {"$type": "text", "images": ["link"], "uri": "text"},
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_shape_is_inferred(name: str) -> None:
    values, shape = CASES[name]
    assert described_fields(*[{"a": value} for value in values]) == {"a": shape}
    assert described_fields(*[{"a": value} for value in values[::-1]]) == {"a": shape}


def test_fields_are_sorted() -> None:
    assert [field.key for field in inferred({"b": 1}, {"$type": "x", "c": 1, "a": 1})] == [
        "$type",
        "a",
        "b",
        "c",
    ]  # fmt: skip - one line is enough


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a", "A"], ["A", "a_2"]),
        (["a", "A", "a_2"], ["A", "a_2", "a_2_2"]),
        (["uri", "Other", "createdAt"], ["Other_2", "createdAt", "uri_2"]),
        (["", "a.b"], ["unnamed", "a.b"]),
        (["a\0b", "a\nb"], ["a_b", "a_b_2"]),
    ],
)
def test_names_can_be_told_apart(keys: list[str], names: list[str]) -> None:
    fields = inferred(dict.fromkeys(keys, 1))
    assert [field.name for field in fields] == names
    assert [field.key for field in fields] == sorted(keys)
    assert fields_of(map(arrow_field, fields)) == fields


def test_names_are_told_apart_in_maps_as_well_where_no_column_is_in_the_way() -> None:
    [field] = inferred({"a": {"uri": 1, "b": 1, "B": 1}})
    assert [(each.key, each.name) for each in field.shape.fields] == [
        ("B", "B"),
        ("b", "b_2"),
        ("uri", "uri"),
    ]  # fmt: skip - one line is enough


# --- Hostile records ------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_what_is_nested_too_deep_is_text() -> None:
    [field] = inferred({"a": nested(100)})
    shape, levels = field.shape, 0
    while shape.kind is not Kind.JSON:
        shape = shape.item or shape.fields[0].shape
        levels += 1
    assert levels == 16


def test_a_map_that_is_a_table_is_text() -> None:
    assert described_fields({"a": {f"did:plc:{number}": 1 for number in range(129)}}) == {
        "a": "json"
    }
    assert described_fields(*[{"a": {str(number): 1}} for number in range(129)]) == {"a": "json"}
    assert described_fields({"a": {"k" * 257: 1, "b": 1}, "c": 1}) == {"a": "json", "c": "integer"}


def test_a_record_has_so_many_columns_and_no_more() -> None:
    fields = inferred({str(number): number for number in range(1000)}, {"k" * 257: 1})
    assert [field.key for field in fields] == sorted(map(str, range(128)))


def test_a_schema_has_an_end_and_takes_no_memory_beyond_it() -> None:
    inferred_now = Inferred()
    tracemalloc.start()
    try:
        for number in range(50_000):
            inferred_now.add({f"{number % 100}": {f"{number // 100}": [{f"{number}": "x"}]}})
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000
    assert sum(map(size, inferred_now.fields())) <= inferred_now.size <= 1000


def size(field: Field) -> int:
    return 1 + size_of(field.shape)


def size_of(shape: Shape) -> int:
    return sum(map(size, shape.fields)) + (0 if shape.item is None else 1 + size_of(shape.item))


def test_room_that_a_map_gives_up_is_used_by_others() -> None:
    table = {f"{number}": [number] for number in range(128)}  # 257 fields with the map
    records = [{f"a{number}": table, f"b{number}": {"c": 1}} for number in range(64)]
    fields = inferred(*records)
    assert sum(map(size, fields)) <= 1000
    wide = [{f"a{number}": {"one more": 1}} for number in range(64)]
    fields = inferred(*records, *wide, *records)
    assert {described(field.shape) == {"c": "integer"} for field in fields[64:]} == {True}
    assert {field.shape.kind for field in fields[:64]} == {Kind.JSON}


def test_a_list_for_whose_items_there_is_no_room_is_text() -> None:
    empty: dict[str, list[int]] = {str(key): [] for key in range(124)}
    full = {f"m{number}": empty for number in range(8)}
    fields = inferred(full, {"m0": {"0": [1]}}, {"m0": {"0": [2]}})
    assert sum(map(size, fields)) == 1000
    assert {each.shape.kind for field in fields for each in field.shape.fields} == {Kind.JSON}


# --- Schemas that a caller gives ------------------------------------------------------------------


def test_a_schema_of_another_maker_means_the_same() -> None:
    schema = pyarrow.schema(
        [
            ("uri", pyarrow.string()),
            ("text", pyarrow.large_string()),
            ("view", pyarrow.string_view()),
            ("size", pyarrow.int32()),
            ("data", pyarrow.large_binary()),
            ("won", pyarrow.bool_()),
            ("langs", pyarrow.large_list(pyarrow.string())),
            ("reply", pyarrow.struct([("uri", pyarrow.string())])),
        ]
    )
    assert {field.key: described(field.shape) for field in fields_of(schema)} == {
        "text": "text",
        "view": "text",
        "size": "integer",
        "data": "bytes",
        "won": "boolean",
        "langs": ["text"],
        "reply": {"uri": "text"},
    }


@pytest.mark.parametrize("type_", ["float64", "null", "date32"])
def test_a_type_that_no_value_has_is_refused_with_its_place(type_: str) -> None:
    column = pyarrow.struct([("b", pyarrow.list_(getattr(pyarrow, type_)()))])
    with pytest.raises(ValueError, match=r"the column a\.b\[\] has the type .*, which no value"):
        fields_of(pyarrow.schema([("a", column)]))
    with pytest.raises(ValueError, match="the column a has the type struct"):
        fields_of(pyarrow.schema([("a", pyarrow.struct([]))]))


def test_a_field_that_a_schema_has_twice_is_refused() -> None:
    text = pyarrow.string()
    again = pyarrow.field("b", text, metadata={"repo_stream.key": "a"})
    for columns in ([("a", text), ("a", text)], [("a", text), again]):
        with pytest.raises(ValueError, match="two columns are for the field a"):
            fields_of(pyarrow.schema(columns))
        with pytest.raises(ValueError, match=r"two columns are for the field x\.a"):
            fields_of(pyarrow.schema([("x", pyarrow.struct(columns))]))
