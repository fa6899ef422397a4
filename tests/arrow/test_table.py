"""Typed columns of one collection, read by the real libraries."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from repo_stream import Cid, InvalidDagCbor, ProcessError, open_car
from repo_stream.arrow import Inferred, records, table, typed_batches, typed_processor
from repo_stream.testing import DID, REV, Link, RawRecord, build_car, cid_of
from support.typed_rows import read_json, record_of

pyarrow: Any = pytest.importorskip("pyarrow")

POSTS = "app.bsky.feed.post"
PICTURE = cid_of(b"a picture", codec=0x55)
BLOB = {"$type": "blob", "ref": Link(PICTURE), "mimeType": "image/jpeg", "size": 9}
IMAGES = {
    "$type": "app.bsky.embed.images",
    "images": [{"alt": "a cat", "image": BLOB, "aspectRatio": {"width": 4, "height": 3}}],
}
EXTERNAL = {
    "$type": "app.bsky.embed.external",
    "external": {"uri": "https://example.com", "title": "Example", "description": ""},
}
PARENT = {
    "uri": f"at://{DID}/{POSTS}/3k2a",
    "cid": "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq",
}
LINK = {"$type": "app.bsky.richtext.facet#link", "uri": "https://example.com"}
TAG = {"$type": "app.bsky.richtext.facet#tag", "tag": "cats"}


def post(text: str, **more: object) -> dict[str, object]:
    return {"$type": POSTS, "text": text, "createdAt": "2024-06-09T00:54:49.087Z", **more}


RECORDS: dict[str, object] = {
    f"{POSTS}/3k2a": post("a cat", langs=["en", "de"], embed=IMAGES),
    f"{POSTS}/3k2b": post(
        "see",
        langs=["en"],
        embed=EXTERNAL,
        facets=[
            {"index": {"byteStart": 0, "byteEnd": 3}, "features": [LINK, TAG]},
        ],
    ),
    f"{POSTS}/3k2c": post("yes", reply={"root": PARENT, "parent": PARENT}, tags=[]),
    f"{POSTS}/3k2d": {**post("odd", langs="en"), "createdAt": "yesterday", "reply": None},
    "app.bsky.feed.like/3k2e": {"$type": "app.bsky.feed.like", "subject": PARENT},
    "app.bsky.actor.profile/self": {"$type": "app.bsky.actor.profile", "avatar": BLOB},
}  # fmt: skip - a record a line
CAR = build_car(RECORDS)
BAD_CAR = build_car({**RECORDS, f"{POSTS}/3k2f": RawRecord(b"\xa1\x61a\xf9\x00\x00")})
POSTS_CAR = build_car({key: value for key, value in RECORDS.items() if key < f"{POSTS}/3k2d"})


def decoded(value: Any) -> Any:
    """A record as it is read."""
    if isinstance(value, Link):
        return Cid(value.cid)
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return list(map(decoded, cast("list[Any]", value)))  # type: ignore[redundant-cast] # not for pyright
    return value


def test_rows_say_which_records_they_are() -> None:
    rows = pyarrow.table(table(CAR, collection=POSTS)).to_pylist()
    assert [row["rkey"] for row in rows] == ["3k2a", "3k2b", "3k2c", "3k2d"]
    assert {
        key: str(value)
        for key, value in rows[0].items()
        if value is not None
        and key
        in {
            "uri",
            "did",
            "rkey",
            "rev",
            "created_at",
            "createdAt",
            "other",
        }
    } == {
        "uri": f"at://{DID}/{POSTS}/3k2a",
        "did": DID,
        "rkey": "3k2a",
        "rev": REV,
        "created_at": "2024-06-09 00:54:49.087000+00:00",
        "createdAt": "2024-06-09T00:54:49.087Z",
    }  # fmt: skip - one line is enough
    assert rows[3]["created_at"] is None
    assert rows[3]["createdAt"] == "yesterday"


def test_every_record_comes_back_from_its_row() -> None:
    for collection in {key.partition("/")[0] for key in RECORDS}:
        made = pyarrow.table(table(CAR, collection=collection))
        assert {
            f"{collection}/{row['rkey']}": record_of(row, made.schema) for row in made.to_pylist()
        } == {key: decoded(value) for key, value in RECORDS.items() if key.startswith(collection)}


def test_rows_are_those_of_records() -> None:
    columns = ["uri", "did", "rkey", "cid", "rev", "created_at"]
    sample = Path(__file__).parent.parent / "cars" / "sample.car"
    for collection in {row["collection"] for row in pyarrow.table(records(sample)).to_pylist()}:
        plain = pyarrow.table(records(sample, collections=[collection]))
        typed = pyarrow.table(table(sample, collection=collection))
        assert typed.select(columns).equals(plain.select(columns))
        assert [record_of(row, typed.schema) for row in typed.to_pylist()] == [
            read_json(text) for text in plain["record"].to_pylist()
        ]


def test_duckdb_selects_what_is_nested() -> None:
    duckdb: Any = pytest.importorskip("duckdb")
    posts = table(POSTS_CAR, collection=POSTS)
    assert posts.schema.names[-1] == "other"
    query = duckdb.sql("""
        select rkey, embed.images[1].alt, embed.external.uri, reply.parent.uri
        from posts order by rkey
    """)
    assert query.fetchall() == [
        ("3k2a", "a cat", None, None),
        ("3k2b", None, "https://example.com", None),
        ("3k2c", None, None, PARENT["uri"]),
    ]
    assert duckdb.sql("select rkey, unnest(langs) from posts order by all").fetchall() == [
        ("3k2a", "de"),
        ("3k2a", "en"),
        ("3k2b", "en"),
    ]  # fmt: skip - one line is enough
    assert duckdb.sql("select count(*) from posts where created_at > '2024-01-01'").fetchall() == [
        (3,)
    ]


def test_polars_and_pandas_read_it() -> None:
    polars: Any = pytest.importorskip("polars")
    pandas: Any = pytest.importorskip("pandas")
    posts = table(POSTS_CAR, collection=POSTS)
    frame = polars.DataFrame(posts)
    assert frame["embed"].struct.field("$type").to_list() == [
        IMAGES["$type"],
        EXTERNAL["$type"],
        None,
    ]  # fmt: skip - one line is enough
    assert frame.explode("langs")["langs"].to_list() == ["en", "de", "en", None]
    assert pandas.DataFrame.from_arrow(posts)["text"].to_list() == ["a cat", "see", "yes"]


def test_parquet_keeps_rows_and_what_they_mean(tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    made = pyarrow.table(table(CAR, collection=POSTS))
    parquet.write_table(made, tmp_path / "posts.parquet")
    read = parquet.read_table(tmp_path / "posts.parquet")
    assert read.equals(made)
    assert [record_of(row, read.schema) for row in read.to_pylist()] == [
        decoded(value) for key, value in RECORDS.items() if key.startswith(POSTS)
    ]


def test_mixed_values_are_text_and_nulls_are_in_other() -> None:
    rows = (
        pyarrow.table(table(CAR, collection=POSTS)).select(["langs", "tags", "other"]).to_pylist()
    )
    assert rows == [
        {"langs": '["en","de"]', "tags": None, "other": None},
        {"langs": '["en"]', "tags": None, "other": None},
        {"langs": None, "tags": "[]", "other": None},
        {"langs": '"en"', "tags": None, "other": '{"reply":null}'},
    ]


# --- The schema -----------------------------------------------------------------------------------


def test_shards_have_the_schema_that_is_given() -> None:
    schema = table(POSTS_CAR, collection=POSTS).schema
    again = table(CAR, collection=POSTS, schema=schema)
    assert again.schema.equals(schema, check_metadata=True)
    made = pyarrow.table(again)
    assert made.schema.equals(schema)
    assert made["langs"].to_pylist() == [["en", "de"], ["en"], None, None]
    assert made["other"].to_pylist() == [None, None, None, '{"langs":"en","reply":null}']
    assert [record_of(row, schema) for row in made.to_pylist()] == [
        decoded(value) for key, value in RECORDS.items() if key.startswith(POSTS)
    ]


def test_a_schema_of_ones_own_has_the_columns_that_are_wanted() -> None:
    schema = pyarrow.schema([("text", pyarrow.string()), ("bridgy", pyarrow.bool_())])
    posts = table(POSTS_CAR, collection=POSTS, schema=schema)
    assert posts.schema.names == [
        "uri",
        "did",
        "rkey",
        "cid",
        "rev",
        "created_at",
        "text",
        "bridgy",
        "other",
    ]  # fmt: skip - one line is enough
    [first, *_] = pyarrow.table(posts).to_pylist()
    assert (first["text"], first["bridgy"]) == ("a cat", None)
    assert decoded(RECORDS[f"{POSTS}/3k2a"]) == record_of(first, posts.schema)


def test_a_sample_is_enough_for_a_schema() -> None:
    posts = table(CAR, collection=POSTS, sample=1)
    assert {"text", "embed"} < set(posts.schema.names)
    assert "reply" not in posts.schema.names
    assert pyarrow.table(posts).num_rows == 4


def test_a_collection_that_is_not_there_has_the_common_columns() -> None:
    made = pyarrow.table(table(CAR, collection="app.bsky.graph.follow"))
    assert made.num_rows == 0
    assert made.schema.names == [
        "uri",
        "did",
        "rkey",
        "cid",
        "rev",
        "created_at",
        "other",
    ]  # fmt: skip - one line is enough


def test_the_schema_is_found_once_and_what_changes_after_that_is_in_other(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(POSTS_CAR)
    posts = table(path, collection=POSTS)
    schema = posts.schema
    path.write_bytes(CAR)
    made = pyarrow.table(posts)
    assert made.schema.equals(schema)
    assert made["other"].to_pylist()[-1] == '{"langs":"en","reply":null}'


@pytest.mark.parametrize("collection", ["app.bsky.*", "post", "app.bsky.feed.post/3k2a", "", None])
def test_it_is_one_collection(collection: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="collection"):
        table(CAR, collection=collection)


def test_readers_at_once_share_one_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[object] = []
    schema = Inferred.schema

    def counted(self: Inferred) -> object:
        passes.append(self)
        return schema(self)

    monkeypatch.setattr(Inferred, "schema", counted)
    posts = table(CAR, collection=POSTS)
    assert repr(posts) == f"<Table of {POSTS} in sources[0]>"
    assert posts.collection == POSTS
    assert not passes
    with ThreadPoolExecutor(4) as threads:
        tables = list(threads.map(pyarrow.table, [posts] * 4))
    assert [made.num_rows for made in tables] == [4] * 4
    assert len(passes) == 1


async def test_programs_with_a_loop_have_the_same_batches() -> None:
    inferred = Inferred()
    async with open_car(
        BAD_CAR, block_processor=typed_processor(), collections=[POSTS], on_error="skip"
    ) as repo:
        async for _, (found, *_) in repo:
            inferred.add(found)
    bad: list[str] = []
    async with open_car(
        BAD_CAR, block_processor=typed_processor(), collections=[POSTS], on_error="yield"
    ) as repo:
        found_batches = typed_batches(
            repo, inferred.schema(), batch_rows=3, on_problem=lambda key, _, __: bad.append(key)
        )
        batches = [batch async for batch in found_batches]
    assert [batch.num_rows for batch in batches] == [3, 1]
    assert bad == [f"{POSTS}/3k2f"]
    assert pyarrow.Table.from_batches(batches).equals(pyarrow.table(table(CAR, collection=POSTS)))


# --- Errors ---------------------------------------------------------------------------------------


def test_a_bad_record_is_an_error_of_the_schema_or_left_out() -> None:
    with pytest.raises(ProcessError, match="3k2f") as caught:
        _ = table(BAD_CAR, collection=POSTS).schema
    assert isinstance(caught.value.__cause__, InvalidDagCbor)
    posts = table(BAD_CAR, collection=POSTS, on_error="report")
    assert pyarrow.table(posts).num_rows == 4
    [problem] = pyarrow.table(posts.problems).to_pylist()
    assert problem["key"] == f"{POSTS}/3k2f"


def test_an_error_of_the_first_pass_arrives_whole() -> None:
    duckdb: Any = pytest.importorskip("duckdb")
    posts = table(["missing.car"], collection=POSTS)
    with pytest.raises(FileNotFoundError) as caught:
        _ = posts.schema
    text = f"FileNotFoundError: {caught.value} (in missing.car)"
    with pytest.raises(pyarrow.ArrowInvalid, match=re.escape(text)) as through_arrow:
        pyarrow.table(posts)
    assert isinstance(through_arrow.value.__cause__, FileNotFoundError)
    with pytest.raises(duckdb.Error, match=re.escape(text)):
        duckdb.sql("select * from posts")
