"""`export` as Parquet and Arrow: what the files have, and that every option holds for them."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import repo_stream
from repo_stream.cli import arrow_files, main
from repo_stream.testing import RawRecord, build_car, build_repo
from support import SAMPLE
from support.cli import DID, LIKE, POST, RECORDS, REV, Run, lines, small_car

pyarrow: Any = pytest.importorskip("pyarrow")
ipc: Any = pytest.importorskip("pyarrow.ipc")
parquet: Any = pytest.importorskip("pyarrow.parquet")

COLUMNS = ["uri", "did", "collection", "rkey", "cid", "rev", "created_at", "record"]
KINDS = pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])


def read(path: Path) -> Any:
    """The table in a file, which is what its name says."""
    if path.suffix == ".parquet":
        return parquet.read_table(path)
    with pyarrow.memory_map(str(path)) as file:
        return (ipc.open_file if path.suffix == ".arrow" else ipc.open_stream)(file).read_all()


@KINDS
def test_columns_have_what_json_lines_have(run: Run, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"x.{kind}"
    assert run("export", SAMPLE, "-q", "-o", target) == (0, "", "")
    table = read(target)
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    expected = lines(run("export", SAMPLE, "-q", "--json-form", "atproto")[1])
    of_lines = ("uri", "collection", "rkey", "cid")
    assert [{name: row[name] for name in of_lines} for row in rows] == [
        {name: line[name] for name in of_lines} for line in expected
    ]
    assert [json.loads(row["record"]) for row in rows] == [line["value"] for line in expected]
    times = [line["value"].get("createdAt") for line in expected]
    assert [row["created_at"] for row in rows] == [
        None if time is None else datetime.fromisoformat(time).astimezone(UTC) for time in times
    ]
    dids, revs = ({row[name] for row in rows} for name in ("did", "rev"))
    assert (len(dids), len(revs)) == (1, 1)


@KINDS
def test_file_says_what_made_it_and_of_which_repo(
    run: Run, car: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / f"x.{kind}"
    version = {b"repo_stream.version": repo_stream.__version__.encode()}
    run("export", car, "-q", "-o", target)
    about = read(target).schema.metadata
    assert about == version | {
        b"repo_stream.did": DID.encode(),
        b"repo_stream.rev": REV.encode(),
        b"repo_stream.commit": about[b"repo_stream.commit"],
    }
    run("export", car, car, "-q", "-o", target)
    assert read(target).schema.metadata == version


def test_parquet_has_row_groups_statistics_and_zstd(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = tmp_path / "repo.car", tmp_path / "x.parquet"
    path.write_bytes(build_car({f"{POST}/{n:05}": {"n": n} for n in range(9000)}))
    monkeypatch.setattr(arrow_files, "_GROUP_ROWS", 5000)  # one batch has 8,192
    assert run("export", path, "-q", "-o", target) == (0, "", "")
    about = parquet.ParquetFile(target).metadata
    groups = [about.row_group(at) for at in range(about.num_row_groups)]
    assert sum(group.num_rows for group in groups) == 9000
    assert len(groups) == 2
    assert {group.column(at).compression for group in groups for at in range(8)} == {"ZSTD"}
    assert groups[1].column(3).statistics.max == "08999"
    assert groups[0].column(7).statistics is None  # of no use for JSON


@KINDS
def test_repo_without_records_has_the_columns(run: Run, tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "repo.car", tmp_path / f"x.{kind}"
    path.write_bytes(build_car({}))
    assert run("export", path, "-q", "-o", target) == (0, "", "")
    assert (read(target).column_names, read(target).num_rows) == (COLUMNS, 0)


def test_form_of_the_json_can_be_chosen(run: Run, tmp_path: Path) -> None:
    path, target = tmp_path / "repo.car", tmp_path / "x.parquet"
    path.write_bytes(build_car({"a.b.c/1": {"raw": b"\xfb"}}))
    for flags, expected in (
        ([], {"$bytes": "+w"}),
        (["--json-form", "dag-json"], {"/": {"bytes": "+w"}}),
    ):
        assert run("export", path, "-q", "-o", target, *flags) == (0, "", "")
        assert json.loads(read(target)["record"][0].as_py()) == {"raw": expected}


# --- Options --------------------------------------------------------------------------------------


def test_columns_without_records_read_none(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    path, target = tmp_path / "gappy.car", tmp_path / "x.parquet"
    path.write_bytes(repo.to_car(omit=repo.records.values()))
    assert run("export", path, "-q", "-o", target)[0] == 1
    code, out, err = run("export", path, "-q", "-o", target, "--columns", "rkey, collection")
    assert (code, out, err) == (0, "", "")
    keys = [f"{row['collection']}/{row['rkey']}" for row in read(target).to_pylist()]
    assert (read(target).column_names, keys) == (["rkey", "collection"], sorted(RECORDS))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(["--format", "parquet", "--columns", "uri,text"], "no column 'text'", id="no"),
        pytest.param(["--format", "arrow", "--columns", "uri,uri"], "'uri' twice", id="twice"),
        pytest.param(["--columns", "uri"], "--columns is for Parquet and Arrow", id="jsonl"),
        pytest.param(["--columns", "uri", "--to-folder", "x"], "--columns is for", id="folder"),
    ],
)
def test_columns_that_there_are_not_are_wrong_usage(
    run: Run, car: Path, flags: list[str], said: str
) -> None:
    code, out, err = run("export", car, *flags)
    assert (code, out) == (2, "")
    assert said in err


BAD = {f"a.b.c/{n}": {"n": n} for n in (1, 3)} | {
    "a.b.c/2": RawRecord(b"nothing"),
    "a.b.d/4": {"n": 4},
    "x.y.z/5": {"n": 5},
}


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--skip-bad"], id="skip bad"),
        pytest.param(["--skip-bad", "--columns", "uri"], id="keys"),
        pytest.param(["--partial", "--report", "REPORT"], id="partial"),
        pytest.param(["--skip-bad", "--collection", "a.b.*"], id="collection"),
        pytest.param(["--range", "a.b.d", "x.y.z/5"], id="range"),
        pytest.param(["--collection", "a.b.d", "--collection", "nothing.at.all"], id="no match"),
    ],
)
def test_options_hold_as_for_json_lines(run: Run, tmp_path: Path, flags: list[str]) -> None:
    repo = build_repo(BAD, did=DID, rev=REV)
    path, target = tmp_path / "bad.car", tmp_path / "x.parquet"
    path.write_bytes(repo.to_car(omit=[repo.records["a.b.c/3"]]))
    report = tmp_path / "report"
    flags = [str(report) if flag == "REPORT" else flag for flag in flags]
    of_json = [flag for flag in flags if flag not in {"--columns", "uri"}]
    expected = run("export", path, *of_json)
    reported = report.read_text() if report.exists() else ""
    code, out, err = run("export", path, "-o", target, *flags)
    uris = [f"at://{DID}/{line['key']}" for line in lines(expected[1])]
    if "--columns" in flags:
        uris = [f"at://{DID}/{key}" for key in sorted(BAD)]  # which records are bad is not seen
        assert (code, err.count("\n")) == (0, 1)
    else:
        told = expected[2].replace("standard output (jsonl)", f"{target} (parquet)")
        assert (code, out, err) == (expected[0], "", told)
    assert read(target)["uri"].to_pylist() == uris
    assert (report.read_text() if report.exists() else "") == reported


# --- Standard output ------------------------------------------------------------------------------


def test_standard_output_is_a_stream(car: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    polars: Any = pytest.importorskip("polars")
    assert main(["export", "-q", str(car), "--format", "arrow"]) == 0
    out = capsysbinary.readouterr().out
    assert ipc.open_stream(out).read_all()["rkey"].to_pylist() == [
        key.partition("/")[2] for key in sorted(RECORDS)
    ]
    assert polars.read_ipc_stream(out)["collection"].to_list() == [LIKE, *[POST] * 3]


def test_stream_that_ends_by_an_error_is_not_taken_for_complete(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    polars: Any = pytest.importorskip("polars")
    path = tmp_path / "bad.car"
    path.write_bytes(small_car()[:-1])
    assert main(["export", str(path), "--format", "arrow"]) == 1
    out = capsysbinary.readouterr().out
    with pytest.raises(pyarrow.ArrowInvalid):
        ipc.open_stream(out).read_all()
    with pytest.raises(OSError, match="fill whole buffer"):
        polars.read_ipc_stream(io.BytesIO(out))


def test_without_pyarrow_the_extra_is_named(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path, flags, extra in (
        (car, ["--format", "parquet"], "parquet"),
        ("nowhere.car", ["--format", "arrow"], "arrow"),  # said before anything is read
        ("nowhere.car", ["-o", car.with_name("x.parquet")], "parquet"),
    ):
        code, out, err = run("export", path, *flags)
        assert (code, out) == (2, "")
        assert f"atproto-repo-stream[{extra}]" in err
