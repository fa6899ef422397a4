"""`repo-stream export`: records as JSON lines, to standard output or a file; bad records."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repo_stream.testing import RawRecord, build_car, build_repo
from support import replaced
from support.cli import BOTH_WAYS, LIKE, RECORDS, Run, keys, lines, wrote


@BOTH_WAYS
def test_export_gives_every_record(run: Run, car: Path, limit: str) -> None:
    code, out, err = run("export", car, "--mem-limit-mb", limit)
    assert (code, err) == (0, wrote("4 records", car))
    assert [(line["key"], line["value"]) for line in lines(out)] == sorted(RECORDS.items())


# --- To a file ------------------------------------------------------------------------------------


def test_file_has_what_standard_output_would_have(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "records.jsonl"
    assert run("export", car, "-o", target) == (0, "", wrote("4 records", car, target))
    assert target.read_text() == run("export", car)[1]
    assert sorted(item.name for item in tmp_path.iterdir()) == [target.name, car.name]


def test_dash_is_standard_output(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("export", car, "-o", "-") == run("export", car)
    assert list(tmp_path.iterdir()) == [car]


def test_bad_repo_leaves_no_file(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    path = tmp_path / "bad.car"
    path.write_bytes(repo.to_car(omit=[repo.records[f"{LIKE}/1"]]))
    for form in ("jsonl", "parquet"):
        code, out, err = run("export", path, "-o", tmp_path / "records", "--format", form)
        assert (code, out, err.count("\n")) == (1, "", 1)
    assert [item.name for item in tmp_path.iterdir()] == ["bad.car"]


@pytest.mark.parametrize("named_as", ["itself", "a link", "another link", "standard input"])
def test_output_cannot_be_the_car(
    run: Run, car: Path, tmp_path: Path, named_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, target, source = car.read_bytes(), car, str(car)
    if "link" in named_as:
        target = tmp_path / "link"
        (target.symlink_to if named_as == "a link" else target.hardlink_to)(car)
    if named_as == "standard input":
        source = "-"
        monkeypatch.setattr(sys, "stdin", None)  # pytest's own
    with car.open("rb") as file, replaced(0, file.fileno()):
        code, out, err = run("export", source, "-o", target)
    assert (code, out, err.count("error: ")) == (2, "", 1)
    assert car.read_bytes() == content


def test_file_behind_a_link_is_written(run: Run, car: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "records.jsonl", tmp_path / "link"
    link.symlink_to(target)
    for _ in ("new", "there"):
        assert run("export", car, "-o", link) == (0, "", wrote("4 records", car, link))
        assert link.is_symlink()
        assert target.read_text() == run("export", car)[1]


def test_long_did_is_cut_in_the_report(run: Run, tmp_path: Path) -> None:
    car, target = tmp_path / "repo.car", tmp_path / "records.jsonl"
    did = f"did:web:{'a' * 2000}.example.com"
    car.write_bytes(build_car({"a.b.c/1": {"n": 1}}, did=did))
    code, _, err = run("export", car, "-o", target)
    assert (code, f" of {did[:27]}...{did[-30:]}, rev " in err) == (0, True)


def test_files_of_others_are_left_alone(run: Run, car: Path, tmp_path: Path) -> None:
    mine = tmp_path / "records.jsonl.part"
    mine.write_text("mine")
    assert run("export", car, "-q", "-o", tmp_path / "records.jsonl") == (0, "", "")
    assert mine.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_file_in_no_directory_gives_one_line(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "records.jsonl"
    expected = f"repo-stream: {target}: No such file or directory\n"
    assert run("export", car, "-o", target) == (1, "", expected)


# --- Bad records ----------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A repo with a record that is missing, two that are not valid, and two that are fine."""
    repo = build_repo(
        {
            "a.b.c/1": {"n": 1},
            "a.b.c/2": RawRecord(b"\xa1\x61n\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00"),
            "a.b.c/3": {"n": 3},
            "a.b.c/4": RawRecord(b"nothing"),
            "a.b.c/5": {"n": 5},
        }
    )
    path = tmp_path / "bad.car"
    path.write_bytes(repo.to_car(omit=[repo.records["a.b.c/3"]]))
    return path


@BOTH_WAYS
def test_skip_bad_leaves_bad_records_out_and_says_so(run: Run, bad: Path, limit: str) -> None:
    code, out, err = run("export", bad, "--skip-bad", "-q", "--mem-limit-mb", limit)
    assert keys(out) == ["a.b.c/1", "a.b.c/5"]
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(
        f"repo-stream: {bad}: 3 records were left out; the first: record 'a.b.c/2'"
    )
    assert "float" in err


def test_bad_record_ends_export_which_names_skip_bad(run: Run, bad: Path) -> None:
    code, _, err = run("export", bad)
    assert code == 1
    assert "'a.b.c/2'" in err
    assert "--skip-bad" in err
    assert "processor" not in err  # nobody at a shell gave one
    assert "--skip-bad" not in run("get", bad, "a.b.c/2")[2]  # there is nothing else to give
    assert "processor" not in run("verify", bad)[1]


def test_skip_bad_leaves_nothing_out_of_a_good_repo(run: Run, car: Path, tmp_path: Path) -> None:
    assert run("export", car, "--skip-bad") == run("export", car)
    target = tmp_path / "records.jsonl"
    assert run("export", car, "--skip-bad", "-q", "-o", target) == (0, "", "")
    assert target.exists()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_skip_bad_makes_a_file(run: Run, bad: Path, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / "records"
    code, out, _ = run("export", bad, "--skip-bad", "-o", target, "--format", form)
    assert (code, out) == (1, "")
    assert target.stat().st_size
