"""Typed columns of records: nothing of a record is lost, whatever it is and whatever the schema."""

from __future__ import annotations

import io
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import given, settings, strategies as st

from repo_stream import Cid
from repo_stream.arrow.conversion import arrays_of
from repo_stream.arrow.inference import Inferred
from repo_stream.arrow.shapes import FIXED, OTHER, Field, arrow_field, fields_of
from support.strategies import EXAMPLES, FACTOR, SCALARS
from support.typed_rows import read_json, record_of
from support.values import shape

Record: TypeAlias = dict[str, Any]

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

CID = Cid.of(b"\xa0")
OLD_CID = Cid.parse("QmNX6Tffavsya4xgBi2VJQnSuqy9GsxongxZZ9uZBqp16d")

# Few keys, so that records have the same ones: ordinary ones, and those that are hard for somebody.
ORDINARY = st.sampled_from(["a", "b", "x", "a.b", "$type", "createdAt"])
HARD = st.sampled_from(
    ["", "A", "a_2", "\0", "x\0y", "$link", "$bytes", "$map", "uri", "other", "/"]
)
KEYS = ORDINARY | HARD
VALUES = st.recursive(
    SCALARS | st.sampled_from([CID, OLD_CID]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
RECORDS: st.SearchStrategy[list[Record]] = st.lists(
    st.dictionaries(KEYS, VALUES, max_size=4), max_size=5
)
SOME = settings(EXAMPLES, max_examples=30 * FACTOR)


def inferred(records: list[Record]) -> tuple[Field, ...]:
    found = Inferred()
    for record in records:
        found.add(record)
    return found.fields()


def table(fields: tuple[Field, ...], records: list[Record]) -> Any:
    arrays, others = arrays_of(fields, records)
    schema = pyarrow.schema([*map(arrow_field, fields), (OTHER, pyarrow.string())])
    others = pyarrow.array(others, pyarrow.string())
    return pyarrow.Table.from_arrays([*arrays, others], schema=schema)


def rebuilt(made: Any) -> list[Record]:
    return [record_of(row, made.schema) for row in made.to_pylist()]


def exact(records: list[Record]) -> list[object]:
    return [shape(in_order(record)) for record in records]


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        items = sorted(cast("Record", value).items())
        return {key: in_order(item) for key, item in items}
    if isinstance(value, list):
        return list(map(in_order, cast("list[Any]", value)))  # type: ignore[redundant-cast] # not for pyright
    return value


@SOME
@given(st.data())
def test_any_record_is_rebuilt_from_its_row_by_any_schema(data: st.DataObject) -> None:
    records = data.draw(RECORDS)
    fields = inferred(records[:3] + data.draw(RECORDS))
    made = table(fields, records)
    made.validate(full=True)
    assert exact(rebuilt(made)) == exact(records)
    assert fields_of(made.schema) == fields
    names = {name.casefold() for name in made.schema.names}
    assert len(names) == len(fields) + 1
    assert names.isdisjoint(FIXED)


@SOME
@given(RECORDS)
def test_all_but_explicit_nulls_fits_the_schema_inferred_from_it(records: list[Record]) -> None:
    for text in table(inferred(records), records)[OTHER].to_pylist():
        assert text is None or only_nulls(read_json(text))
    assert inferred(records) == inferred(records[::-1])


def only_nulls(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(only_nulls, cast("Record", value).values()))
    return value is None


@SOME
@given(RECORDS)
def test_rows_and_what_they_mean_come_back_from_parquet(records: list[Record]) -> None:
    made = table(inferred(records), records)
    file = io.BytesIO()
    parquet.write_table(made, file)
    read = parquet.read_table(file)
    assert read.schema.equals(made.schema)
    assert exact(rebuilt(read)) == exact(records)


def test_whatever_strangers_call_their_fields_arrives() -> None:
    duckdb: Any = pytest.importorskip("duckdb")
    polars: Any = pytest.importorskip("polars")
    names = ["a", "A", "a.b", "a_2", "", "\0", "x\0y", 'a"b', "/", "uri", "é", "É", "\N{SNOWMAN}"]
    flat = dict(zip(names, range(len(names)), strict=True))
    records: list[Record] = [{**flat, "nested": [flat, {}]}, {"nested": []}]
    made = table(inferred(records), records)
    rows = made.to_pylist()
    assert duckdb.from_arrow(made).to_arrow_table().to_pylist() == rows
    assert polars.DataFrame(made).to_dicts() == rows
    assert exact(rebuilt(made)) == exact(records)


def test_lists_of_nearly_empty_maps_are_text() -> None:
    """Each of their items would take a cell for every field of other records."""
    wide: Record = {"a": [{f"f{n}": {f"g{m}": n for m in range(10)} for n in range(40)}] * 2}
    sparse: Record = {"a": [{}] * 5000, "b": 1}
    filled: Record = {"a": [{f"f{n}": {"g1": n} for n in range(30)}] * 500}
    fields = inferred([wide, sparse, filled])
    assert table(fields, [sparse] * 3).nbytes < 100_000
    records = [sparse, wide, filled, sparse]
    made = table(fields, records)
    assert [row["a"] is None for row in made.to_pylist()] == [True, False, False, True]
    assert exact(rebuilt(made)) == exact(records)


FITS: Record = {"text": "hi", "size": 1, "tags": [{"tag": "a"}], "embed": {"link": CID, "alt": "b"}}


@pytest.mark.parametrize(
    ("change", "columns", "other"),
    [
        ({}, {}, None),
        ({"size": True}, {"size": None}, '{"size":true}'),
        ({"text": None}, {"text": None}, '{"text":null}'),
        ({"new": b"a"}, {}, '{"new":{"$bytes":"YQ"}}'),
        (
            {"embed": {"alt": "b", "new": 1}},
            {"embed": {"link": None, "alt": "b"}},
            '{"embed":{"new":1}}',
        ),
        ({"embed": [1]}, {"embed": None}, '{"embed":[1]}'),
        ({"tags": [{"tag": "a", "b": 1}, {}]}, {"tags": None}, '{"tags":[{"b":1,"tag":"a"},{}]}'),
        ({"tags": [None, {"tag": "b"}]}, {"tags": [None, {"tag": "b"}]}, None),
        ({"size": {"$link": 1}}, {"size": None}, '{"size":{"$map":[["$link",1]]}}'),
        ({"size": {"$map": []}}, {"size": None}, '{"size":{"$map":[["$map",[]]]}}'),
    ],
    ids=range(10),
)
def test_what_does_not_fit_is_in_other_at_its_place(
    change: Record, columns: Record, other: str | None
) -> None:
    fields = inferred([FITS])
    [expected] = table(fields, [FITS]).to_pylist()
    made = table(fields, [FITS, {**FITS, **change}, FITS])
    assert made.to_pylist() == [expected, expected | columns | {"other": other}, expected]
