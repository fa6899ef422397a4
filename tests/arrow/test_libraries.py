"""The real libraries read the stream without adapters, and their errors have our messages whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from repo_stream.arrow import Records, records
from repo_stream.errors import RepoStreamError
from repo_stream.testing import build_car

pyarrow: Any = pytest.importorskip("pyarrow")
duckdb: Any = pytest.importorskip("duckdb")
polars: Any = pytest.importorskip("polars")
pandas: Any = pytest.importorskip("pandas")
parquet: Any = pytest.importorskip("pyarrow.parquet")

POSTS, LIKES = "app.bsky.feed.post", "app.bsky.feed.like"
TIME = "2024-06-09T00:54:49.087Z"
CAR = build_car(
    {
        **{f"{LIKES}/{n:05}": {"n": n} for n in range(7)},
        **{f"{POSTS}/{n:05}": {"n": n, "createdAt": TIME} for n in range(5)},
    }
)


def stream() -> Records:
    return records([CAR])


def in_duckdb(found: Any) -> Any:
    """By a replacement scan: the name of a variable in the SQL."""
    with duckdb.connect() as connection:
        return connection.sql("from found").fetchall()


def in_duckdb_registered(found: Any) -> Any:
    with duckdb.connect() as connection:
        connection.register("t", found)
        return connection.sql("from t").fetchall()


def in_polars(found: Any) -> Any:
    return polars.DataFrame(found).rows()


def in_polars_from_arrow(found: Any) -> Any:
    """Of anything that is not pyarrow's own, Polars makes a series of structs."""
    return polars.from_arrow(found).struct.unnest().rows()


def in_polars_lazily(found: Any) -> Any:
    """Batch by batch, without holding all of it; for one `collect`."""
    return polars.scan_arrow_c_stream(found).collect().rows()


def in_pandas(found: Any) -> Any:
    return [*pandas.DataFrame.from_arrow(found).itertuples(index=False)]


def in_pyarrow(found: Any) -> Any:
    return pyarrow.table(found).to_pylist()


def in_pyarrow_reader(found: Any) -> Any:
    return pyarrow.RecordBatchReader.from_stream(found).read_all().to_pylist()


READERS: list[Callable[[Any], Any]] = [
    in_duckdb,
    in_duckdb_registered,
    in_polars,
    in_polars_from_arrow,
    in_polars_lazily,
    in_pandas,
    in_pyarrow,
    in_pyarrow_reader,
]  # fmt: skip - a line or two
each_library = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__[3:])


@each_library
def test_it_is_read_again_and_again(read: Callable[[Any], Any]) -> None:
    found = stream()
    assert len(read(found)) == len(read(found)) == 12
    assert len(read(found.problems)) == 0


@each_library
def test_a_message_arrives_whole(
    read: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = 'it\'s "odd" {0} %s \\x00 \N{GRINNING FACE} \x01\n\x00 \udcff; ' + 2000 * "and so on, "

    class Odd(RepoStreamError):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise Odd(f"{said}END")

    found = stream()
    monkeypatch.setattr("repo_stream.arrow.scanning.open_car", refuse)
    with pytest.raises(Exception, match="END") as raised:
        read(found)
    written = said.replace("\0", "\\x00").replace("\udcff", "\\udcff")
    assert f": Odd: {written}END (in sources[0])" in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_duckdb_counts_and_reads_times_and_json() -> None:
    query = """
        select collection, count(*), max(created_at)::timestamp, sum((record->>'n')::int)
        from r where rkey < '00004' group by all order by all
    """
    time = datetime.fromisoformat(TIME).replace(tzinfo=None)
    with duckdb.connect() as connection:
        connection.register("r", records(CAR))
        for _ in range(2):
            assert connection.sql(query).fetchall() == [(LIKES, 4, None, 6), (POSTS, 4, time, 6)]


def test_duckdb_joins_a_stream_with_itself() -> None:
    found = records([CAR, CAR], columns=["rkey", "collection"])
    with duckdb.connect() as connection:
        connection.register("r", found)
        query = "select count(*) from r a join r b using (collection, rkey)"
        assert connection.sql(query).fetchall() == [(48,)]


def test_duckdb_writes_parquet(tmp_path: Path) -> None:
    found = stream()
    path = tmp_path / "r.parquet"
    with duckdb.connect() as connection:
        connection.sql("from found").write_parquet(str(path))
    assert parquet.read_table(path).to_pylist() == pyarrow.table(found).to_pylist()


def test_polars_knows_the_types() -> None:
    frame = polars.DataFrame(stream())
    assert frame.schema["created_at"] == polars.Datetime("us", "UTC")
    assert {kind for name, kind in frame.schema.items() if name != "created_at"} == {polars.String}
    by_collection = dict(frame.group_by("collection").len().iter_rows())
    assert by_collection == {LIKES: 7, POSTS: 5}


def test_pandas_knows_the_types() -> None:
    frame = pandas.DataFrame.from_arrow(stream())
    assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"
    assert frame.groupby("collection").size().to_dict() == {LIKES: 7, POSTS: 5}
    assert frame["created_at"].max() == datetime(2024, 6, 9, 0, 54, 49, 87_000, UTC)


def test_pyarrow_writes_parquet_a_batch_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    found = stream()
    with parquet.ParquetWriter(path, found.schema) as writer:
        for batch in found.batches():
            writer.write_batch(batch)
    assert parquet.read_table(path).to_pylist() == pyarrow.table(found).to_pylist()


def test_pyarrow_gets_another_representation_if_it_asks() -> None:
    found = records(CAR, columns=["rkey", "created_at"])
    wanted = pyarrow.schema(
        [("rkey", pyarrow.large_string()), ("created_at", pyarrow.timestamp("us", "UTC"))]
    )
    reader = pyarrow.RecordBatchReader.from_stream(found, schema=wanted)
    assert reader.schema.types == wanted.types
    assert reader.read_all().num_rows == 12
