"""What is in the stream of `records`: against what the repos were made of."""

from __future__ import annotations

import json
import pkgutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from repo_stream import Cid, Gap, MissingBlock, MissingExtra, ProcessError, arrow, open_car
from repo_stream._face import public_names
from repo_stream.arrow import COLUMNS, batches, batching, records, row_processor
from repo_stream.arrow.arrays import Texts, Times, repeated
from repo_stream.ipld import datamodel
from repo_stream.process import atproto_json, dag_json
from repo_stream.testing import DID, REV, Link, RawRecord, build_car, build_repo, cid_of, encode

pyarrow: Any = pytest.importorskip("pyarrow")

POSTS = "app.bsky.feed.post"
OTHER_DID = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"
RECORDS: dict[str, object] = {
    "app.bsky.actor.profile/self": {"displayName": 'A "quoted" name \N{GRINNING FACE}', "n": 1},
    f"{POSTS}/3k2a": {"text": "\x00 \n", "createdAt": "2024-06-09T00:54:49.087Z"},
    f"{POSTS}/3k2b": {"createdAt": "yesterday", "embed": Link(cid_of(b"x")), "b": b"\x01"},
    f"{POSTS}/3k2c": {"createdAt": 7},
    f"{POSTS}.more/3k2c": {"createdAt": "1969-12-31T23:59:59Z"},
    "nocollection": {"text": "a key without a slash breaks the rules"},
}
REPO = build_repo(RECORDS)
CAR = REPO.to_car()
# What JSON in the form of the API cannot say: the map would be read as a link.
ODD = {f"{POSTS}/3k2a": {"x": {"$link": "no link"}}, f"{POSTS}/3k2b": {"text": "fine"}}


def rows(*arguments: Any, **keywords: Any) -> list[dict[str, Any]]:
    stream = records(*arguments, **keywords)
    table = pyarrow.Table.from_batches(stream.batches(), stream.schema)
    table.validate(full=True)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def expected(key: str, did: str = DID, rev: str = REV) -> dict[str, Any]:
    collection, slash, rkey = key.partition("/")
    times = {
        f"{POSTS}/3k2a": datetime(2024, 6, 9, 0, 54, 49, 87_000, UTC),
        f"{POSTS}.more/3k2c": datetime(1969, 12, 31, 23, 59, 59, 0, UTC),
    }
    return {
        "uri": f"at://{did}/{key}",
        "did": did,
        "collection": collection if slash else "",
        "rkey": rkey if slash else key,
        "cid": str(Cid(REPO.records[key])),
        "rev": rev,
        "created_at": times.get(key),
        "record": atproto_json(encode(RECORDS[key])),
    }


def test_a_row_says_what_the_repo_has() -> None:
    assert rows(CAR) == [expected(key) for key in sorted(RECORDS)]


def test_rows_of_several_sources_come_in_their_order_and_share_batches() -> None:
    other = build_car(RECORDS, did=OTHER_DID, rev="3k2222222222a")
    empty = build_car({})
    stream = records([empty, CAR, empty, other, empty])
    assert [batch.num_rows for batch in stream.batches()] == [2 * len(RECORDS)]
    assert rows([empty, CAR, empty, other, empty]) == [
        *(expected(key) for key in sorted(RECORDS)),
        *(expected(key, OTHER_DID, "3k2222222222a") for key in sorted(RECORDS)),
    ]


def test_types_are_the_plainest() -> None:
    types = {field.name: str(field.type) for field in records(CAR).schema}
    time = {"created_at": "timestamp[us, tz=UTC]"}
    assert types == dict.fromkeys(COLUMNS, "string") | time
    assert [field.name for field in records(CAR).schema if field.nullable] == ["created_at"]


@pytest.mark.parametrize(
    "columns",
    [["record"], ["rkey", "created_at"], ["cid", "uri"], ["rev"], [*reversed(COLUMNS)]],
    ids="-".join,
)
def test_columns_come_as_they_are_asked_for(columns: list[str]) -> None:
    found = rows([CAR, CAR], columns=iter(columns))
    assert [*found[0]] == columns
    assert found == 2 * [{name: expected(key)[name] for name in columns} for key in sorted(RECORDS)]


def test_select_leaves_columns_out() -> None:
    stream = records(CAR, columns=["cid", "rkey", "uri"])
    narrow = stream.select("uri", "cid")
    assert (stream.columns, narrow.columns) == (("cid", "rkey", "uri"), ("uri", "cid"))
    assert [batch.column_names for batch in narrow.batches()] == [["uri", "cid"]]
    with pytest.raises(ValueError, match="'record' was left out; there are cid, rkey, uri"):
        stream.select("record")
    with pytest.raises(ValueError, match="there is no column 'text'"):
        stream.select("text")


@pytest.mark.parametrize(
    ("columns", "error", "says"),
    [
        ("uri", TypeError, r"columns must be a list of names, such as \['uri'\]"),
        (7, TypeError, "columns must be a list of names, not 7"),
        ([], ValueError, "columns is empty; the columns are uri, did, collection"),
        (["uri", "key"], ValueError, "there is no column 'key'; the columns are uri, did"),
        (["uri", "cid", "uri"], ValueError, "columns has 'uri' twice"),
    ],
    ids=["text", "number", "none", "unknown", "twice"],
)
def test_columns_that_make_no_sense_are_refused(
    columns: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        records(CAR, columns=columns)


def test_json_is_in_the_form_that_is_asked_for() -> None:
    link = f"{POSTS}/3k2b"
    found = rows(CAR, columns=["record"], prefix=link, json_form="dag-json")
    assert found == [{"record": dag_json(encode(RECORDS[link]))}]
    with pytest.raises(ValueError, match=r"json_form must be .*, not 'json'"):
        records(CAR, json_form="json")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # wrong


def test_only_the_collections_that_are_asked_for_are_read() -> None:
    stream = records([CAR, CAR], collections=iter([POSTS]), columns=["rkey"])
    for _ in range(2):
        found = [name for batch in stream.batches() for name in batch["rkey"].to_pylist()]
        assert found == 2 * ["3k2a", "3k2b", "3k2c"]


@pytest.mark.parametrize("columns", [["uri", "cid", "rev"], ["rkey"]], ids="-".join)
def test_without_record_and_created_at_no_record_is_read(columns: list[str]) -> None:
    car = REPO.to_car(omit=REPO.records.values())
    assert len(rows(car, columns=columns, on_error="raise")) == len(RECORDS)
    with pytest.raises(MissingBlock):
        rows(car, columns=[*columns, "created_at"])


@pytest.mark.usefixtures("without_libipld")
def test_without_libipld_it_is_the_same() -> None:
    assert rows(CAR) == [expected(key) for key in sorted(RECORDS)]


@pytest.fixture
def without_libipld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodel, "find_libipld", lambda: None)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"atproto-repo-stream\[arrow\]"):
        records(CAR)


# --- Batches --------------------------------------------------------------------------------------


def test_a_batch_has_no_more_rows_than_asked_for() -> None:
    many = build_car({f"{POSTS}/{n:05}": {"n": n} for n in range(300)})
    sizes = [batch.num_rows for batch in records([many, many], batch_rows=100).batches()]
    assert sum(sizes) == 600
    assert max(sizes) <= 100
    for keyword in ("batch_rows", "batch_bytes"):
        with pytest.raises(ValueError, match=f"{keyword} must be at least 1, not 0"):
            rows(CAR, **{keyword: 0})


def test_a_batch_ends_with_as_much_text_as_asked_for() -> None:
    large = build_car({f"{POSTS}/{n:05}": {"text": "x" * 50_000} for n in range(40)})
    sizes = [batch["record"].nbytes for batch in records(large, batch_bytes=200_000).batches()]
    assert sum(sizes) > 40 * 50_000
    assert max(sizes) < 260_000


@pytest.mark.parametrize("column", ["uri", "did", "rkey", "record"])
def test_a_batch_ends_before_a_column_has_more_text_than_arrow_can_have(
    column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MOST_TEXT", 10_000)
    car = build_car({f"{POSTS}/{n:0500}": {"text": "x" * 500} for n in range(3000)})
    taken = records(car, columns=[column], batch_rows=10**9, batch_bytes=10**9)
    assert sum(batch.num_rows for batch in taken.batches()) == 3000
    assert max(batch[column].nbytes for batch in taken.batches()) < 1_000_000


def test_large_records_come_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{POSTS}/{n:05}" for n in range(100)]
    sizes = [10] * 50 + [300_000] * 50
    car = build_car(
        {key: {"text": "x" * size} for key, size in zip(keys, sizes, strict=True)}, order="stream"
    )
    taken: list[int] = []

    async def look() -> None:
        async with open_car(car, block_processor=row_processor()) as repo:
            following: Any = repo.next_columns

            async def counted(n: int, **keywords: Any) -> Any:
                taken.append(n)
                return await following(n, **keywords)

            monkeypatch.setattr(repo, "next_columns", counted)
            async for _ in batches(repo, batch_bytes=10**9):
                pass

    anyio.run(look)
    assert taken[:4] == [4, 8, 16, 32]
    assert set(taken[5:-1]) == {1}


# --- Records that cannot be read ------------------------------------------------------------------


def test_a_record_that_json_cannot_express_is_a_problem() -> None:
    car = build_car(ODD)
    with pytest.raises(ProcessError, match="3k2a") as raised:
        rows(car)
    assert 'a map with the key "$link" would be a link' in str(raised.value.__cause__)
    assert [row["rkey"] for row in rows(car, on_error="skip")] == ["3k2b"]
    assert [row["rkey"] for row in rows(car, json_form="dag-json")] == ["3k2a", "3k2b"]
    assert [row["rkey"] for row in rows(car, columns=["rkey", "created_at"])] == ["3k2a", "3k2b"]


def test_bad_records_are_left_out_and_reported() -> None:
    everything: dict[str, object] = {
        f"{POSTS}/{n:03}": RawRecord(b"\xa1\x00\x00") if n % 3 == 1 else {"n": n} for n in range(90)
    }
    repo = build_repo(everything)
    missing = repo.records[f"{POSTS}/000"]
    stream = records(["nope.car", repo.to_car(omit=[missing])], on_error="report")
    found = [name for batch in stream.batches() for name in batch["rkey"].to_pylist()]
    assert found == [f"{n:03}" for n in range(1, 90) if n % 3 != 1]
    problems = [*stream.problems]
    assert stream.problems.count == len(problems) == len(stream.problems) == 32
    source, *of_records = problems
    assert (source.source, source.key, source.error) == ("nope.car", None, "FileNotFoundError")
    assert {problem[:2] for problem in of_records} == {("sources[1]", DID)}
    assert [problem.key for problem in of_records[:2]] == [f"{POSTS}/000", f"{POSTS}/001"]
    assert [problem.cid for problem in of_records[:1]] == [str(Cid(missing))]
    assert [problem.error for problem in of_records[:2]] == ["MissingBlock", "ProcessError"]
    table = pyarrow.table(stream.problems)
    assert [tuple(row.values()) for row in table.to_pylist()] == [tuple(each) for each in problems]


@pytest.mark.parametrize("columns", [["uri", "cid"], ["uri", "record"]], ids=["keys", "records"])
async def test_gaps_have_no_rows(columns: list[str]) -> None:
    everything: dict[str, object] = {f"{POSTS}/{n:03}": {"n": n} for n in range(300)}
    repo = build_repo(everything)
    missing = repo.records[f"{POSTS}/000"]
    processor = row_processor(columns)
    slice_of_it = repo.to_car(omit=[repo.nodes[-1], missing])
    async with open_car(slice_of_it, gaps=True, block_processor=processor) as car:
        uris = [uri for batch in [b async for b in batches(car, columns)] for uri in batch["uri"]]
    async with open_car(slice_of_it, gaps=True) as car:
        there = [key async for key, value in car if not isinstance(value, Gap)]
    if "record" not in columns:
        there.insert(0, f"{POSTS}/000")  # whether its block is there is not looked at
    assert 200 < len(there) < 300
    assert [str(uri) for uri in uris] == [f"at://{DID}/{key}" for key in there]


async def test_a_bad_record_is_raised_after_the_rows_before_it_if_nobody_is_to_be_told() -> None:
    bad = RawRecord(b"\xa1\x00\x00")
    car = build_car({f"{POSTS}/{n}": bad if n == 2 else {} for n in range(4)})
    async with open_car(car, block_processor=row_processor(), on_error="yield") as repo:
        found = batches(repo)
        assert (await anext(found)).num_rows == 2
        with pytest.raises(ProcessError, match=f"{POSTS}/2"):
            await anext(found)


def test_skipped_problems_are_counted_and_not_listed() -> None:
    stream = records([b"no CAR", build_car(ODD)], on_error="skip")
    assert stream.problems.count == 0
    assert sum(batch.num_rows for batch in stream.batches()) == 1
    assert (stream.problems.count, [*stream.problems]) == (2, [])
    assert pyarrow.table(stream.problems).num_rows == 0
    assert repr(stream.problems) == "<2 problems>"


@pytest.mark.parametrize("on_error", ["skip", "report"])
def test_what_comes_before_the_error_of_a_source_is_kept(on_error: Any, tmp_path: Path) -> None:
    repo = build_repo({f"{POSTS}/{n:05}": {"n": n} for n in range(2000)})
    whole = repo.to_car(order="stream")
    path = tmp_path / "cut.car"
    path.write_bytes(whole[: len(whole) // 2])
    stream = records([path, CAR], on_error=on_error, columns=["rkey"])
    found = [name for batch in stream.batches() for name in batch["rkey"].to_pylist()]
    kept = len(found) - len(RECORDS)
    assert 500 < kept < 1500
    assert found[:kept] == [f"{n:05}" for n in range(kept)]
    assert stream.problems.count == 1
    if on_error == "report":
        (problem,) = stream.problems
        assert problem[:4] == (str(path), DID, None, None)
        assert problem.error == "TruncatedCar"


def test_what_comes_before_an_error_is_yielded_before_it_is_raised() -> None:
    found: list[str] = []
    with pytest.raises(FileNotFoundError, match=r"nope\.car") as raised:
        found.extend(
            name
            for batch in records([CAR, "nope.car", CAR]).batches()
            for name in batch["rkey"].to_pylist()
        )
    assert len(found) == len(RECORDS)
    assert raised.value.__notes__ == ["in nope.car"]


def test_a_shortage_of_the_system_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_files_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("repo_stream.car.source._open", no_files_left)
    with pytest.raises(OSError, match="Too many open files"):
        rows(__file__, on_error="skip")


def test_how_errors_are_handled_is_checked() -> None:
    with pytest.raises(ValueError, match="on_error must be one of 'raise', 'skip', 'report', not"):
        records(CAR, on_error="yield")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # wrong


def test_json_of_a_record_is_json() -> None:
    (row,) = rows(CAR, prefix=f"{POSTS}/3k2a")
    assert json.loads(row["record"]) == RECORDS[f"{POSTS}/3k2a"]


def test_no_public_name_is_that_of_a_module() -> None:
    """Whoever imports the module would find it in the place of the function."""
    modules = {module.name for module in pkgutil.iter_modules(arrow.__path__)}
    assert not modules & {*public_names("repo_stream.arrow")}


# --- Arrays ---------------------------------------------------------------------------------------


def grown(column: Any, values: list[Any]) -> Any:
    """An array of values that were added in two parts."""
    column.extend(values[:7])
    column.extend(values[7:])
    found = column.array()
    found.validate(full=True)
    return found


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=40))
def test_an_array_of_texts_is_that_of_pyarrow(texts: list[str]) -> None:
    assert grown(Texts(), texts).equals(pyarrow.array(texts, pyarrow.string()))
    for text in texts[:3]:
        assert repeated(text, len(texts)).equals(pyarrow.array([text] * len(texts)))


@given(st.lists(st.none() | st.integers(-(2**62), 2**62), max_size=40))
def test_an_array_of_times_is_that_of_pyarrow(micros: list[int | None]) -> None:
    found = grown(Times(), micros)
    assert found.equals(pyarrow.array(micros, pyarrow.timestamp("us", tz="UTC")))
