"""Several CARs on one command line: whose is whose, and a bad one that does not stop the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import build_car, build_repo
from support.cli import DID, LIKE, RECORDS, REV, Run, lines, wrote

OTHER = "did:plc:other"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A repo of another account, with one record under a key that the first has as well."""
    path = tmp_path / "other.car"
    path.write_bytes(build_car({f"{LIKE}/1": {"n": 2}}, did=OTHER, rev=REV))
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Something that is not a CAR."""
    path = tmp_path / "bad.car"
    path.write_bytes(b"<!DOCTYPE html>")
    return path


@pytest.fixture
def gappy(tmp_path: Path) -> Path:
    """A CAR of a third account, which lacks its last record."""
    repo = build_repo(RECORDS, did="did:plc:third", rev=REV)
    path = tmp_path / "gappy.car"
    path.write_bytes(repo.to_car(omit=[repo.records[max(RECORDS)]]))
    return path


def uris(did: str, keys: Any) -> list[str]:
    return [f"at://{did}/{key}" for key in sorted(keys)]


def test_ls_names_the_account_of_each_key(run: Run, car: Path, other: Path) -> None:
    code, out, err = run("ls", car, other)
    assert (code, err) == (0, "")
    shown = [line.split("\t")[0] for line in out.splitlines()]
    assert shown == uris(DID, RECORDS) + uris(OTHER, [f"{LIKE}/1"])
    listed = lines(run("ls", "--json", car, other)[1])
    assert [f"at://{line['did']}/{line['key']}" for line in listed] == shown
    assert [set(line) for line in listed] == [{"did", "key", "cid"}] * 5


@pytest.mark.parametrize("json_form", ["dag-json", "atproto"])
def test_export_names_the_account_of_each_record(
    run: Run, car: Path, other: Path, tmp_path: Path, json_form: str
) -> None:
    target = tmp_path / "records.jsonl"
    code, out, err = run("export", "--json-form", json_form, car, other, "-o", target)
    assert (code, out) == (0, "")
    assert err == wrote("4 records", car, target) + wrote("1 record", other, target).replace(
        DID, OTHER
    )
    exported = lines(target.read_text())
    written = [line.get("uri") or f"at://{line['did']}/{line['key']}" for line in exported]
    assert written == uris(DID, RECORDS) + uris(OTHER, [f"{LIKE}/1"])
    assert [line["value"] for line in exported] == [RECORDS[key] for key in sorted(RECORDS)] + [
        {"n": 2}
    ]


def test_parquet_names_the_account_of_each_record(
    run: Run, car: Path, other: Path, tmp_path: Path
) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "records.parquet"
    assert run("export", "-q", car, other, "-o", target) == (0, "", "")
    rows = parquet.read_table(target).to_pylist()
    assert [row["did"] for row in rows] == [DID] * 4 + [OTHER]
    assert [row["uri"] for row in rows] == uris(DID, RECORDS) + uris(OTHER, [f"{LIKE}/1"])


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_reports_name_their_cars(run: Run, car: Path, other: Path, command: str) -> None:
    code, out, err = run(command, car, other)
    assert (code, err) == (0, "")
    one, two = (run(command, path)[1] for path in (car, other))
    assert out == f"{car}:\n{one}\n{other}:\n{two}\n"
    reports = lines(run(command, "--json", car, other)[1])
    assert [report.pop("car") for report in reports] == [str(car), str(other)]
    assert reports == [json.loads(run(command, "--json", path)[1]) for path in (car, other)]


@pytest.mark.parametrize("command", ["ls", "export", "inspect"])
def test_bad_car_is_named_and_does_not_stop_the_others(
    run: Run, car: Path, other: Path, bad: Path, command: str
) -> None:
    nowhere = car.with_name("nowhere.car")
    code, out, err = run(command, "-q", car, bad, nowhere, other)
    assert code == 1
    assert out == run(command, "-q", car, other)[1]
    said = err.splitlines()
    assert said[0].startswith(f"repo-stream: {bad}: this is not a CAR file; ")
    assert said[1:] == [f"repo-stream: {nowhere}: No such file or directory"]


def test_verify_goes_on_after_a_bad_car(run: Run, car: Path, bad: Path) -> None:
    code, out, err = run("verify", "--json", bad, car)
    assert (code, err) == (1, "")
    assert [(report["car"], report["ok"]) for report in lines(out)] == [
        (str(bad), False),
        (str(car), True),
    ]


def test_records_before_an_error_are_written_and_counted(
    run: Run, car: Path, gappy: Path, tmp_path: Path
) -> None:
    target = tmp_path / "records.jsonl"
    code, out, err = run("export", gappy, car, "-o", target)
    assert (code, out) == (1, "")
    assert [line["did"] for line in lines(target.read_text())] == ["did:plc:third"] * 3 + [DID] * 4
    begin, failed, written = err.splitlines(keepends=True)
    assert begin == f"repo-stream: {gappy}: 3 records of it came before an error\n"
    assert failed.startswith(f"repo-stream: {gappy}: the block ")
    assert "--skip-bad" in failed
    assert written == wrote("4 records", car, target)


def test_there_is_no_file_if_all_cars_are_bad(
    run: Run, bad: Path, gappy: Path, tmp_path: Path
) -> None:
    target = tmp_path / "records.jsonl"
    code, out, err = run("export", gappy, bad, "-o", target)
    assert (code, out, err.count("\n")) == (1, "", 3)
    assert "wrote" not in err
    assert sorted(tmp_path.iterdir()) == sorted([bad, gappy])


def test_options_can_be_between_cars(run: Run, car: Path, other: Path) -> None:
    expected = run("ls", "--json", "-q", car, other, car)
    assert run("ls", car, "--json", other, "-q", car) == expected
    code, out, err = run("ls", car, "--json", other, "--wrong")
    assert (code, out) == (2, "")
    assert err.endswith(f"error: unrecognized arguments: {other} --wrong\n")
    code, out, err = run("get", car, f"{LIKE}/1", "--json", other)
    assert (code, out) == (2, "")
    assert err.endswith(f"error: unrecognized arguments: {other}\n")


def test_no_car_can_be_the_output(run: Run, car: Path, other: Path) -> None:
    content = other.read_bytes()
    code, out, err = run("export", car, other, "-o", other)
    assert (code, out) == (2, "")
    assert "would be overwritten" in err
    assert other.read_bytes() == content


@pytest.mark.parametrize("command", ["ls", "export", "inspect", "verify"])
def test_standard_input_is_read_once(run: Run, command: str) -> None:
    code, out, err = run(command, "-", "-")
    assert (code, out) == (2, "")
    assert "standard input can be read only once" in err
