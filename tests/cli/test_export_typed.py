"""`export --typed`: a file for each collection, with columns of the types that its records have."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import repo_stream
from repo_stream.cli import arrow_files, typed
from repo_stream.testing import RawRecord, build_car
from support import SAMPLE, replaced
from support.cli import DID, LIKE, POST, RECORDS, REV, Run, lines, small_car

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

FILES = {f"{POST}.parquet", f"{LIKE}.parquet"}
OTHER = "did:plc:other"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A repo of another account: a like with more than the first one has, and a follow."""
    path = tmp_path / "other.car"
    records = {f"{LIKE}/2": {"n": 2, "via": "x"}, "app.bsky.graph.follow/1": {"subject": DID}}
    path.write_bytes(build_car(records, did=OTHER, rev=REV))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return table


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_collection_is_a_file(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    code, out, err = run("export", SAMPLE, "--typed", "--to-folder", folder)
    assert (code, out) == (0, "")
    assert "wrote 500 records of did:plc:testrepotestrepotestrepo" in err
    assert err.endswith(f"to files in {folder}\n")
    exported = lines(run("export", SAMPLE, "-q")[1])
    names = {f"{line['key'].partition('/')[0]}.parquet" for line in exported}
    assert {path.name for path in folder.iterdir()} == {*names, "_repo.json"}
    found = {row["uri"]: row for name in names for row in rows(folder / name)}
    assert len(found) == len(exported) == 500
    for line in exported:
        row = found[f"at://did:plc:testrepotestrepotestrepo/{line['key']}"]
        assert row["cid"] == line["cid"]
        assert row["text" if POST in line["key"] else "rkey"] == line["value"].get(
            "text", line["key"].partition("/")[2]
        )


def test_one_collection_can_be_one_file(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    arguments = ["export", car, "--typed", "--collection", POST]
    code, out, err = run(*arguments, "-o", target)
    assert (code, out) == (0, "")
    assert err.endswith(f"to {target} (parquet)\n")
    assert [row["text"] for row in rows(target)] == ["a", "b", "c"]
    about = parquet.read_schema(target).metadata
    assert (about[b"repo_stream.did"], about[b"repo_stream.rev"]) == (DID.encode(), REV.encode())
    folder = tmp_path / "folder"
    for path in (f"{folder}/", folder):  # the second time, it is there
        assert run(*arguments, "-q", "-o", path) == (0, "", "")
        assert rows(folder / f"{POST}.parquet") == rows(target)


def test_several_cars_share_the_columns(
    run: Run, car: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    for most in (1 << 25, 0):
        monkeypatch.setattr(typed, "_MOST_COLLECTED", most)
        assert run("export", "-q", car, other, "--typed", "--to-folder", folder) == (0, "", "")
        likes = rows(folder / f"{LIKE}.parquet")
        assert [(row["did"], row["n"], row["via"]) for row in likes] == [
            (DID, 1, None),
            (OTHER, 2, "x"),
        ]
        assert len(rows(folder / f"{POST}.parquet")) == 3
        assert rows(folder / "app.bsky.graph.follow.parquet")[0]["subject"] == DID
    schema = parquet.read_schema(folder / f"{LIKE}.parquet")
    assert schema.metadata == {b"repo_stream.version": repo_stream.__version__.encode()}


def test_odd_collections_have_names_that_every_file_system_takes(run: Run, tmp_path: Path) -> None:
    path, folder = tmp_path / "odd.car", tmp_path / "folder"
    path.write_bytes(build_car({"../x/1": {}, "con/1": {}, "A.b/1": {}, "a.b/1": {}, "odd": {}}))
    assert run("export", "-q", path, "--typed", "--to-folder", folder) == (0, "", "")
    names = ["%2e%2e", "%41.b", "%63on", "_no-collection", "a.b"]
    assert sorted(content(folder)) == sorted([*(f"{name}.parquet" for name in names), "_repo.json"])


def test_standard_input_is_read_twice(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # pytest's own
    reading, writing = os.pipe()
    os.write(writing, small_car())
    os.close(writing)
    folder = tmp_path / "folder"
    with replaced(0, reading):
        code, out, err = run("export", "-", "--typed", "--to-folder", folder)
    os.close(reading)
    assert (code, out) == (0, "")
    assert err.startswith(f"wrote 4 records of {DID}, rev {REV}, from standard input to files in ")
    assert content(folder).keys() == {*FILES, "_repo.json"}


# --- All or nothing -------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A repo whose last record is not valid."""
    path = tmp_path / "bad.car"
    records = RECORDS | {"z.y.x/1": RawRecord(b"nothing"), "z.y.x/2": {"n": 1}}
    path.write_bytes(build_car(records, did=DID, rev=REV))
    return path


def test_bad_repo_leaves_no_folder(run: Run, bad: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    code, out, err = run("export", bad, "--typed", "--to-folder", folder)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "record 'z.y.x/1'" in err
    assert not folder.exists()


def test_bad_records_can_be_left_out(run: Run, bad: Path, tmp_path: Path) -> None:
    folder, report = tmp_path / "folder", tmp_path / "report"
    for flags in (["--skip-bad"], ["--partial", "--report", str(report)]):
        code, out, err = run("export", bad, "-q", "--typed", "--to-folder", folder, *flags)
        assert (code, out, err.count("\n")) == (1, "", 1)  # told once, though it is read twice
        assert "1 record was left out" in err
        assert [row["rkey"] for row in rows(folder / "z.y.x.parquet")] == ["2"]
        for path in folder.iterdir():
            path.unlink()
    assert json.loads(report.read_text())["bad"]["records"] == 1


def test_a_car_that_cannot_be_read_does_not_stop_the_others(
    run: Run, car: Path, bad: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    page = tmp_path / "page.html"
    page.write_bytes(b"<!DOCTYPE html>")
    code, out, err = run("export", page, bad, car, "--typed", "--to-folder", folder)
    assert (code, out) == (1, "")
    no_car, no_record, wrote = err.splitlines()
    assert no_car.startswith(f"repo-stream: {page}: this is not a CAR file; ")
    assert no_record.startswith(f"repo-stream: {bad}: record 'z.y.x/1'")
    assert wrote.startswith(f"wrote 4 records of {DID}")
    assert content(folder).keys() == {*FILES, "_repo.json"}


def test_folder_is_brought_up_to_date_or_left_alone(
    run: Run, car: Path, other: Path, bad: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    arguments = ["--typed", "--to-folder", folder]
    newer = tmp_path / "newer.car"
    newer.write_bytes(build_car({f"{LIKE}/9": {"n": 9}}, did=DID, rev=REV))
    assert run("export", "-q", car, *arguments) == (0, "", "")
    before = content(folder)
    for wrong, said in (
        ([other, *arguments], f"it has the records of {DID}, not of {OTHER}"),
        ([newer, *arguments, "--skip-bad"], "records that are lost now would be removed"),
        ([newer, *arguments, "--collection", LIKE], "not selected now would be removed"),
        ([newer, "--to-folder", folder], "it has an earlier export, as parquet"),
        ([bad, *arguments], "record 'z.y.x/1'"),
    ):
        code, _, err = run("export", "-q", *wrong)
        assert code == 1
        assert said in err
        assert content(folder) == before
    assert run("export", "-q", newer, *arguments) == (0, "", "")
    assert content(folder).keys() == {f"{LIKE}.parquet", "_repo.json"}
    assert [row["n"] for row in rows(folder / f"{LIKE}.parquet")] == [9]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("_MOST_COLLECTIONS", "there are more than 2 collections"),
        ("_MOST_FIELDS", "the records have more than 2 different fields"),
    ],
    ids=["collections", "fields"],
)
def test_too_many_collections_or_fields_are_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    monkeypatch.setattr(typed, limit, 2)
    path, folder = tmp_path / "many.car", tmp_path / "folder"
    path.write_bytes(build_car({f"a.b.c{n}/1": {"n": n} for n in range(3)}))
    code, out, err = run("export", path, "--typed", "--to-folder", folder)
    assert (code, out) == (1, "")
    assert err == f"repo-stream: {folder}: {said}; name some collections: --collection\n"
    assert not folder.exists()
    flags = ["--collection", "a.b.c0", "--collection", "a.b.c1", "-q"]
    assert run("export", path, "--typed", "--to-folder", folder, *flags) == (0, "", "")


def test_a_large_collection_has_several_row_groups(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_files, "_GROUP_ROWS", 5000)
    path, target = tmp_path / "large.car", tmp_path / "x.parquet"
    path.write_bytes(build_car({f"a.b.c/{n:05}": {"n": n} for n in range(9000)}))
    flags = ["--typed", "--collection", "a.b.c", "-o", target]
    assert run("export", path, "-q", *flags) == (0, "", "")
    assert parquet.ParquetFile(target).metadata.num_row_groups == 2
    assert [row["n"] for row in rows(target)] == list(range(9000))


# --- Usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param([], "--typed writes Parquet or Arrow", id="no file"),
        pytest.param(["-o", "x.csv"], "--typed writes Parquet or Arrow", id="csv"),
        pytest.param(["-o", "x.parquet"], "name a folder with --to-folder, or the one", id="all"),
        pytest.param(["-o", "x.parquet", "--collection", "a.b.*"], "the one", id="wildcard"),
        pytest.param(["-o", "x/", "--format", "csv"], "--to-folder writes Parquet", id="format"),
        pytest.param(["-o", "x/", "--columns", "uri"], "--columns does not go with", id="columns"),
        pytest.param(["-o", "x/", "--json-form", "atproto"], "--json-form does not", id="json"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    run: Run, car: Path, flags: list[str], said: str
) -> None:
    code, out, err = run("export", car, "--typed", *flags)
    assert (code, out) == (2, "")
    assert said in err
