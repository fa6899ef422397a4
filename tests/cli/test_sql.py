"""`repo-stream sql`: what a query returns, in which forms, and how little of the CARs it reads."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module as import_
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repo_stream.cli import scanning
from repo_stream.cli.results import Shown
from repo_stream.testing import RawRecord, build_car, build_repo
from support import SAMPLE, replaced
from support.cli import DID, LIKE, POST, REV, Run, lines, small_car

duckdb: Any = pytest.importorskip("duckdb")
pyarrow: Any = pytest.importorskip("pyarrow")

COUNTS = "select collection, count(*) as n from records group by collection order by n desc"


@pytest.fixture
def ask(run: Run, car: Path) -> Callable[..., list[dict[str, Any]]]:
    """Ask for rows of the small repo, or of other CARs."""

    def ask(query: str, *cars: Path) -> list[dict[str, Any]]:
        code, out, err = run("sql", "--json", query, *(cars or [car]))
        assert (code, err) == (0, "")
        return lines(out)

    return ask


Ask = Callable[..., list[dict[str, Any]]]

# --- What can be asked ----------------------------------------------------------------------------


def test_records_are_a_table(ask: Ask, run: Run, car: Path) -> None:
    rows = ask("from records")
    exported = lines(run("export", car, "-q", "--json-form", "atproto")[1])
    assert [(row["uri"], row["cid"], row["record"]) for row in rows] == [
        (line["uri"], line["cid"], line["value"]) for line in exported
    ]
    assert {(row["did"], row["rev"]) for row in rows} == {(DID, REV)}


def test_a_collection_is_a_typed_table(ask: Ask) -> None:
    query = f"select rkey, text from \"{POST}\" where text > 'a' order by rkey desc"
    assert ask(query) == [
        {"rkey": "3jzfcijpj2z2c", "text": "c"},
        {"rkey": "3jzfcijpj2z2b", "text": "b"},
    ]
    assert ask(f'select n from "{LIKE}"') == [{"n": 1}]


def test_tables_can_be_read_repeatedly_and_together(ask: Ask) -> None:
    query = f"""
        select a.rkey from records a join records b using (cid) join "{POST}" c using (cid)
        order by all
    """
    assert [row["rkey"] for row in ask(query)] == [f"3jzfcijpj2z2{end}" for end in "abc"]


def test_statements_before_the_query_are_run(ask: Ask) -> None:
    query = "create table n as select count(*) as n from records; set threads = 1; from n"
    assert ask(query) == [{"n": 4}]
    assert ask("select 1 as n; from records; select 2 as n") == [{"n": 2}]


def test_statement_without_rows_shows_none(run: Run, car: Path, tmp_path: Path) -> None:
    assert run("sql", "set threads = 1", car) == (0, "", "")
    target = tmp_path / "x.csv"
    code, out, err = run("sql", "set threads = 1", car, "-o", target)
    assert (code, out) == (2, "")
    assert f"the last statement returns no rows, so {target} is not written" in err
    assert not target.exists()


def test_several_cars_are_one_table(ask: Ask, car: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.car"
    other.write_bytes(build_car({f"{LIKE}/1": {"n": 2}}, did="did:plc:other", rev=REV))
    assert ask("select did, count(*) as n from records group by did order by n", car, other) == [
        {"did": "did:plc:other", "n": 1},
        {"did": DID, "n": 4},
    ]
    assert ask(f'select n from "{LIKE}" order by n', car, other) == [{"n": 1}, {"n": 2}]


def test_standard_input_can_be_read_by_any_query(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # pytest's own
    reading, writing = os.pipe()
    os.write(writing, small_car())
    os.close(writing)
    with replaced(0, reading):
        query = "select count(*) as n from records a, records b"
        assert run("sql", "--json", query, "-") == (0, '{"n":16}\n', "")
    os.close(reading)


def test_one_disk_serves_several_readings(run: Run, tmp_path: Path) -> None:
    path, disk = tmp_path / "large.car.gz", tmp_path / "spill.db"
    path.write_bytes(gzip.compress(build_car({f"a.b.c/{n:04}": {"n": n} for n in range(5000)})))
    query = 'from (from records limit 3) a, (from records limit 3) b, "a.b.c" c'
    flags = ["--disk", disk, "--mem-limit-mb", "0.1"]
    code, out, err = run("sql", "--json", f"select count(*) as n {query}", path, *flags)
    assert (code, out, err) == (0, '{"n":45000}\n', "")
    assert disk.exists()


def test_accounts_are_downloaded_and_checked(run: Run, world: Any) -> None:
    world.add_account("alice.example.com", {f"{LIKE}/1": {"n": 7}})
    code, out, err = run("sql", "--json", f'select n from "{LIKE}"', "alice.example.com")
    assert (code, out, err) == (0, '{"n":7}\n', "")


# --- What is read ---------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A repo whose only record in each of three collections is there, is missing, is not valid."""
    records = {"a.b.good/1": {"n": 1}, "a.b.gone/1": {"n": 2}, "a.b.wrong/1": RawRecord(b"nothing")}
    repo = build_repo(records)
    path = tmp_path / "damaged.car"
    path.write_bytes(repo.to_car(omit=[repo.records["a.b.gone/1"]]))
    return path


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select count(*) as n from records", 3),
        ("select count(distinct collection) as n from records where rkey = '1'", 3),
        ("select record->'n' as n from records where collection = 'a.b.good'", 1),
        ('select n from "a.b.good"', 1),
    ],
    ids=["count", "keys", "collection", "typed"],
)
def test_no_record_is_read_that_is_not_needed(
    ask: Ask, damaged: Path, query: str, expected: int
) -> None:
    assert ask(query, damaged) == [{"n": expected}]


@pytest.mark.parametrize(
    "condition",
    [
        "collection = 'a.b.good' or rkey = '2'",
        "collection in ('a.b.good', 'a.b.gone')",
        "not collection = 'a.b.good'",
        "collection > 'a'",
    ],
)
def test_other_conditions_read_all_collections(run: Run, damaged: Path, condition: str) -> None:
    code, out, err = run("sql", f"select record from records where {condition}", damaged)
    assert (code, err.count("\n")) == (1, 1)
    assert "record 'a.b.gone/1'" in err
    assert "n" not in out.replace("record", "")  # no row


def test_filter_by_columns_that_are_not_shown(ask: Ask) -> None:
    query = "select rkey from records where created_at is null and record like '%n%' and cid > ''"
    assert [row["rkey"] for row in ask(query)] == ["1"]


def test_filter_by_what_is_nested(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "replies.car"
    replies = {f"{POST}/{n}": {"reply": {"root": {"n": n, "uri": f"at://{n}"}}} for n in range(9)}
    path.write_bytes(build_car({**replies, f"{POST}/9": {"text": "a"}}))
    query = f"select rkey from \"{POST}\" where reply.root.uri = 'at://3' and reply.root.n = 3"
    assert ask(query, path) == [{"rkey": "3"}]
    assert ask(f'select rkey from "{POST}" where reply is null', path) == [{"rkey": "9"}]


def test_duckdb_need_not_know_data_sets(
    ask: Ask, run: Run, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = f"""
        select rkey, text, created_at from "{POST}" join records using (rkey, created_at)
        where collection = '{POST}' and text > 'a' order by rkey
    """
    expected = ask(query)

    def without_data_sets(name: str) -> Any:
        return SimpleNamespace(Dataset=object) if name == "pyarrow.dataset" else import_(name)

    monkeypatch.setattr(scanning, "import_module", without_data_sets)
    assert ask(query) == expected
    code, _, err = run("sql", "select count(*) from records", damaged)
    assert code == 1
    assert "record 'a.b.gone/1'" in err  # all is read, whatever the query needs


def test_bad_records_can_be_left_out(run: Run, damaged: Path) -> None:
    query = "select a.record from records a join records b using (cid)"
    report = damaged.with_name("report")
    for flags, left_out in (
        (["--skip-bad"], "2 records were left out"),
        (["--partial", "--report", report], "1 record was left out"),
    ):
        code, out, err = run("sql", "--json", query, damaged, *flags)
        assert (code, lines(out)) == (1, [{"record": {"n": 1}}])
        assert left_out in err
        assert err.count("left out") == 1
    reported = json.loads(report.read_text())
    assert (reported["records"], reported["lost"]["records"]) == (1, 1)


def test_report_has_each_car_also_if_nothing_is_lost(run: Run, car: Path, tmp_path: Path) -> None:
    twice, report = tmp_path / "twice.car", tmp_path / "report"
    repo = build_repo({f"{POST}/1": {"text": "a"}})
    cid, block = repo.records[f"{POST}/1"], repo.blocks[repo.records[f"{POST}/1"]]
    section = bytes([len(cid) + len(block)]) + bytes(cid)
    twice.write_bytes(repo.to_car() + section + b"?" * len(block))
    query = "select count(a.record) as n from records a join records b using (uri)"
    code, out, err = run("sql", "--json", query, car, twice, "--partial", "--report", report)
    assert (code, lines(out)) == (0, [{"n": 5}])
    assert " ".join(err.split()).count("1 place is damaged; no record that was asked for") == 1
    reported = lines(report.read_text())
    assert [(each["car"], each["records"], each["damage"]["places"]) for each in reported] == [
        (str(car), 4, 0),
        (str(twice), 1, 1),
    ]


# --- What goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("selct 1", 'Parser Error: syntax error at or near "selct"'),
        ("select foo from records", 'column "foo" not found'),
        ("select record::int from records", "Conversion Error"),
        ("select * from run", "Table with name run does not exist"),  # no variable is a table
        ('from "a.b.none"', "there is no record in the collection a.b.none"),
        ("load httpfs; select 1", "httpfs"),
        ("from a.b.none", "'from \"a.b.none\"'"),
        (" ; -- ", "QUERY has no statement"),
        ("select date 'infinity' as day", "'day' has a time that is not of the years 1 to 9999"),
        ("select [date 'infinity'] as day", "cast it to text, day::varchar"),
    ],
    ids=[
        "syntax",
        "column",
        "value",
        "table",
        "collection",
        "extension",
        "no quotes",
        "empty",
        "no time",
        "no times",
    ],
)
def test_wrong_query_is_one_line(run: Run, car: Path, query: str, said: str) -> None:
    code, _, err = run("sql", query, car)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert "LINE 1" not in err


def test_query_comes_before_the_cars(run: Run, car: Path) -> None:
    code, out, err = run("sql", car, "from records")
    assert (code, out) == (2, "")
    assert f"QUERY comes before CAR, and {car} is a file" in err


def test_bad_car_fails_the_query_and_is_named(run: Run, car: Path, tmp_path: Path) -> None:
    bad, nowhere = tmp_path / "bad.car", tmp_path / "nowhere.car"
    bad.write_bytes(car.read_bytes()[:-1])
    for path, said in ((bad, "the CAR ends inside a section"), (nowhere, "No such file")):
        target = tmp_path / "x.csv"
        code, out, err = run("sql", "from records", car, path, "-o", target)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"repo-stream: {path}: {said}")
        assert not target.exists()


def test_without_duckdb_the_extra_is_named(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("duckdb", "pyarrow"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, package, None)
            code, out, err = run("sql", "select 1", car)
        assert (code, out) == (2, "")
        assert f"needs the package '{package}'" in err
        assert "atproto-repo-stream[sql]" in err


# --- Forms ----------------------------------------------------------------------------------------

KINDS = """
    select 1.50::decimal(9, 2) as a, sum(1) as b, 'nan'::float as c, true as d, null as e,
        {'x': [1, 2]} as f, '\\x01\\xff'::blob as g, date '2024-01-02' as h,
        timestamptz '2024-01-02 03:04:05.5+00' as i, '{"k": [1]}'::json as j, '=1+1' as k, 7 as k
    from records
"""
VALUES = {
    "a": 1.5,
    "b": 4,
    "c": None,
    "d": True,
    "e": None,
    "f": {"x": [1, 2]},
    "g": {"$bytes": "Af8"},
    "h": "2024-01-02",
    "i": "2024-01-02T03:04:05.500Z",
    "j": {"k": [1]},
    "k": "=1+1",
    "k_1": 7,
}


def test_json_has_every_kind_of_value(ask: Ask) -> None:
    assert ask(KINDS) == [VALUES]


def test_durations_can_be_read(run: Run, car: Path) -> None:
    query = """
        select interval '14 months -3 days 1 hour 0.5 seconds' as a, interval '-90 minutes' as b,
            [interval '0 days', interval '1 month 1 day'] as c,
            timestamp '2024-01-03' - timestamp '2024-01-01' as d
    """
    (row,) = csv.DictReader(io.StringIO(run("sql", "--csv", query, car)[1]))
    assert row == {
        "a": "14 months -3 days 01:00:00.500000",
        "b": "-01:30:00",
        "c": '["00:00:00", "1 month 1 day"]',
        "d": "2 days",
    }


@pytest.mark.parametrize("target", ["standard output", "x.csv", "x.csv.gz"])
def test_csv_has_every_kind_of_value(run: Run, car: Path, tmp_path: Path, target: str) -> None:
    path = tmp_path / target
    flags = ["--csv"] if target == "standard output" else ["-o", path]
    code, out, err = run("sql", KINDS, car, *flags)
    if path.exists():
        assert err == f"wrote 1 row to {path}\n"
        out = (gzip.decompress if "gz" in target else bytes)(path.read_bytes()).decode()
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(out))
    assert row == {
        name: json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in VALUES.items()
    } | {"a": "1.50", "c": "nan", "d": "true", "e": "", "j": '{"k": [1]}'}


def test_parquet_keeps_types(run: Run, car: Path, tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "x.parquet"
    assert run("sql", KINDS, car, "-q", "-o", target) == (0, "", "")
    table = parquet.read_table(target)
    assert table.column_names == list(VALUES)
    assert [str(table.schema.field(name).type) for name in "adgi"] == [
        "decimal128(9, 2)",
        "bool",
        "binary",
        "timestamp[us, tz=UTC]",
    ]


def test_type_that_parquet_lacks_is_named(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    code, out, err = run("sql", "select interval '1 day' as a", car, "-o", target)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"repo-stream: {target}: Parquet lacks the type of a column: " in err
    assert "month_day_nano_interval; cast it to text, as in name::varchar" in err
    assert list(tmp_path.iterdir()) == [car]


def test_name_and_form_have_to_agree(run: Run, car: Path, tmp_path: Path) -> None:
    for flags, said in (
        (["--json", "-o", "x.csv"], "-o names a .csv file, but --json is given"),
        (["--csv", "-o", "x.parquet"], "-o names a .parquet file, but --csv is given"),
        (["--csv", "--json"], "not allowed with argument"),
        (["-o", car], "would be overwritten"),
    ):
        code, out, err = run("sql", "from records", car, *flags)
        assert (code, out) == (2, "")
        assert said in err


# --- As a table -----------------------------------------------------------------------------------


def test_table_is_aligned(run: Run) -> None:
    assert run("sql", COUNTS, SAMPLE) == (
        0,
        """\
collection                n
---------------------------
app.bsky.feed.like      295
app.bsky.feed.post      134
app.bsky.graph.follow    70
app.bsky.actor.profile    1
""",
        "",
    )


def shown(rows: list[dict[str, Any]], width: int | None) -> list[str]:
    written: list[str] = []
    table = Shown(written.append, list(rows[0]), width)
    for batch in pyarrow.Table.from_pylist(rows).to_batches(max_chunksize=700):
        table.write(batch)
    table.finish()
    return "".join(written).splitlines()


def test_table_fits_a_terminal() -> None:
    rows = [{"key": f"{POST}/3jzfcijpj2z2a", "text": "so many words " * 9, "n": 1}]
    assert shown(rows, 59) == [
        "key                          text                         n",
        "-" * 59,
        "app.bsky.fee...jzfcijpj2z2a  so many words so many wo...  1",
        "(1 row)",
    ]
    assert max(map(len, shown(rows, None))) > 120  # nothing is cut if nobody looks


def test_wide_characters_take_two_columns() -> None:
    head, _, one, two, _ = shown([{"a": "日本", "b": 1}, {"a": "é\u0301🎉", "b": 1}], 80)
    assert (head, one, two) == ("a     b", "日本  1", "é\u0301🎉   1")
    assert shown([{"a": "日本" * 20, "b": 1}], 21)[2] == "日本日本...本日本   1"


def test_rows_that_do_not_fit_have_a_line_a_column() -> None:
    row = {f"column{n}": "x" * 40 for n in range(8)}
    lines = shown([row, row], 80)
    assert lines[:2] == [f"column0  {'x' * 40}", f"column1  {'x' * 40}"]
    assert lines[8] == ""
    assert lines[-1] == "(2 rows)"


def test_long_names_of_columns_leave_room_for_values() -> None:
    row = {"n" * 300: "x" * 500, **{f"m{n}": "so many words " * 9 for n in range(8)}}
    for width in (20, 80):
        lines = shown([row], width)
        assert [len(line) for line in lines[:2]] == [width] * 2
        assert lines[0].endswith("xx")
        assert lines[1].endswith("...")


def test_long_table_keeps_its_widths() -> None:
    rows = [{"n": n, "text": "short"} for n in range(2000)] + [{"n": 2000, "text": "long" * 50}]
    lines = shown(rows, 40)
    assert len(lines) == 2 + len(rows) + 1
    assert max(map(len, lines)) <= 40
    assert lines[-1] == "(2,001 rows)"


def test_large_rows_do_not_wait_for_others() -> None:
    written: list[str] = []
    table = Shown(written.append, ["a"], 80)
    for _ in range(2):
        table.write(pyarrow.RecordBatch.from_pylist([{"a": "x" * 700_000}]))
    assert written[0].startswith("a\n---")
    assert written[1].count("xxx...xxx") == 2


def test_terminal_gets_no_control_characters(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({"a.b.c/1": {"text": "\x1b[2J\n\u202e"}}))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    query = "select record->>'text' as \"\x1b\", record from records"
    for flags in ([], ["--json"], ["--csv"]):
        code, out, _ = run("sql", query, path, *flags)
        assert code == 0
        assert out.replace("\r", "").replace("\n", "").isprintable()


def test_explain_draws_its_picture(run: Run, car: Path) -> None:
    code, out, _ = run("sql", "explain select count(*) from records", car)
    assert code == 0
    assert out.count("\n") > 5
    assert "\\n" not in out
