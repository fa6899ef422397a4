"""`export --partial`, `ls --partial` and `inspect`: all that can be reached, and what is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from repo_stream import Cid
from repo_stream.testing import RawRecord, build_car, build_repo
from support.cli import BOTH_WAYS, Run, keys, lines
from support.damage import DAMAGED, flipped, lost_with, sections_of
from support.hostile import CASES

CAR = DAMAGED.to_car()
KEYS = [*DAMAGED.records]
NODE = next(cid for cid in DAMAGED.nodes if len(lost_with(DAMAGED, cid)) == 5)
RECORD = next(key for key in KEYS if key not in lost_with(DAMAGED, NODE))
LOST = sorted(lost_with(DAMAGED, NODE) | {RECORD})


def spoiled(car: bytes, cid: bytes) -> bytes:
    """The CAR with two bytes of a block changed, which is more than can be repaired."""
    at = car.index(DAMAGED.blocks[cid])
    return flipped(flipped(car, at), at + 10)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A CAR with a damaged node, a damaged record, and a byte of another record changed."""
    path = tmp_path / "bad.car"
    car = spoiled(spoiled(CAR, NODE), DAMAGED.records[RECORD])
    path.write_bytes(flipped(car, CAR.index(DAMAGED.blocks[DAMAGED.records[KEYS[-1]]]) + 4))
    return path


def read_report(path: Path) -> list[dict[str, Any]]:
    return lines(path.read_text())


@BOTH_WAYS
def test_export_writes_what_can_be_reached_and_reports_the_rest(
    run: Run, bad: Path, tmp_path: Path, limit: str
) -> None:
    report = tmp_path / "report.json"
    options = ["--partial", "--report", report, "--mem-limit-mb", limit, "-q"]
    code, out, err = run("export", bad, *options)
    assert code == 1
    assert keys(out) == [key for key in KEYS if key not in LOST]
    (found,) = read_report(report)
    assert {name: found[name] for name in ("car", "commit", "complete", "records")} == {
        "car": str(bad),
        "commit": str(Cid(DAMAGED.commit_cid)),
        "complete": False,
        "records": len(KEYS) - 6,
    }
    lost = found["lost"]
    assert (lost["records"], lost["subtrees"]) == (1, 1)
    record, subtree = sorted(lost["listed"], key=lambda each: each["key"] is None)
    assert (record["key"], record["cid"]) == (RECORD, str(Cid(DAMAGED.records[RECORD])))
    assert (subtree["key"], subtree["cid"]) == (None, str(Cid(NODE)))
    inside = [key for key in KEYS if subtree["after"] < key < subtree["before"]]
    assert inside == sorted(lost_with(DAMAGED, NODE))
    damage = found["damage"]
    assert (damage["places"], damage["repaired"]) == (3, 1)
    assert [each["error"] for each in damage["listed"]] == ["CidMismatch"] * 3
    starts = [start for start, body, _ in sections_of(CAR) if CAR[body:][:36] == NODE]
    assert [each["offset"] for each in damage["listed"] if each["cid"] == subtree["cid"]] == starts
    assert found["bad"] == {"records": 0, "listed": []}
    assert f"between {subtree['after']}" in err
    assert f"and {subtree['before']}" in err
    assert RECORD in err


def test_standard_error_stays_short_and_narrow(run: Run, tmp_path: Path) -> None:
    long = [f"com.example.a/{'k' * 400}{n:04}" for n in range(300)]
    repo = build_repo({key: {"n": n, "text": "y" * n} for n, key in enumerate(long)})
    car = repo.to_car(order="stream")
    torn = tmp_path / "torn.car"
    torn.write_bytes(car[: len(car) // 2])
    code, _out, err = run("ls", torn, "--partial", "-q")
    assert code == 1
    assert 0 < len(err.splitlines()) < 60
    assert max(map(len, err.splitlines())) <= 80


def test_ls_lists_the_keys_that_can_be_reached_and_says_between_which_others_are_lost(
    run: Run, bad: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    code, out, err = run("ls", "--partial", bad, "--report", report)
    assert code == 1
    listed = [line.split("\t")[0] for line in out.splitlines()]
    lost = lost_with(DAMAGED, NODE)
    assert listed == [key for key in KEYS if key not in lost]
    (found,) = read_report(report)
    ((after, before),) = [(each["after"], each["before"]) for each in found["lost"]["listed"]]
    assert {key for key in KEYS if (after or "") < key < (before or "~")} == lost
    assert f"between {after}" in err


def test_without_damage_nothing_is_said_and_the_report_is_complete(
    run: Run, car: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    for command in ("ls", "export"):
        plain = run(command, car, "-q")
        assert run(command, car, "-q", "--partial", "--report", report) == plain
        assert plain[0] == 0
        (found,) = read_report(report)
        assert found["complete"] is True
        assert found["records"] == 4
        assert found["lost"] == {"records": 0, "subtrees": 0, "listed": []}


def test_one_flipped_byte_is_repaired_and_said_and_nothing_is_lost(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "flipped.car"
    path.write_bytes(flipped(CAR, CAR.index(DAMAGED.blocks[NODE]) + 20))
    code, out, err = run("export", "--partial", path, "-q")
    assert (code, keys(out)) == (0, KEYS)
    assert "1 place is damaged, all repaired" in " ".join(err.split())
    assert run("export", path)[0] == 1


@pytest.mark.parametrize("first", [pytest.param(True, id="first"), pytest.param(False, id="last")])
def test_damage_by_which_nothing_is_lost_is_said_and_no_failure(
    run: Run, tmp_path: Path, *, first: bool
) -> None:
    """A record is damaged that is in the file twice, or that nobody asked for."""
    cid, header = DAMAGED.records[RECORD], sections_of(CAR)[0][2]
    start, _, end = next(each for each in sections_of(CAR) if CAR[each[1] :][:36] == cid)
    copy = spoiled(CAR, cid)[start:end]
    path, report = tmp_path / "twice.car", tmp_path / "report.json"
    path.write_bytes(CAR[:header] + copy + CAR[header:] if first else CAR + copy)
    code, out, err = run("export", path, "--partial", "--report", report, "-q")
    assert (code, keys(out)) == (0, KEYS)
    said = " ".join(err.split())
    assert "1 place is damaged; no record that was asked for is lost" in said
    (found,) = read_report(report)
    assert found["complete"] is True
    assert (found["damage"]["places"], found["damage"]["repaired"]) == (1, 0)
    # Keys alone do not say whether a record is lost, and inspect is about the file.
    assert run("ls", path, "--partial")[0] == 1
    assert run("inspect", path)[0] == 1


def test_what_is_damaged_is_lost_without_partial_as_ever(run: Run, bad: Path) -> None:
    code, out, err = run("export", bad)
    assert (code, out) == (1, "")
    assert "does not have the hash in its CID" in err


def test_a_truncated_download_gives_what_has_come(run: Run, tmp_path: Path) -> None:
    whole = DAMAGED.to_car(order="stream")
    torn = tmp_path / "torn.car"
    torn.write_bytes(whole[: len(whole) * 2 // 3])
    code, out, err = run("export", "--partial", torn, "-q")
    assert code == 1
    assert 0 < len(keys(out)) < len(KEYS)
    assert keys(out) == [key for key in KEYS if key in keys(out)]
    assert "the end" in err
    compressed = tmp_path / "torn.car.gz"
    compressed.write_bytes(gzip.compress(whole)[:-200])
    code, out, err = run("export", "--partial", compressed, "-q")
    assert code == 1
    assert 0 < len(keys(out)) < len(KEYS)
    assert "gzip" in err


def test_records_that_are_not_valid_are_left_out_and_reported(run: Run, tmp_path: Path) -> None:
    path, report = tmp_path / "repo.car", tmp_path / "report.json"
    bad = RawRecord(b"\xa1\x61n\xfb" + bytes(7))  # a float that is cut off
    path.write_bytes(build_car({"a.b.c/1": {"n": 1}, "a.b.c/2": bad, "a.b.c/3": {"n": 3}}))
    code, out, _err = run("export", "--partial", path, "--report", report, "-q")
    assert (code, keys(out)) == (1, ["a.b.c/1", "a.b.c/3"])
    (found,) = read_report(report)
    assert found["complete"] is False
    assert [each["key"] for each in found["bad"]["listed"]] == ["a.b.c/2"]


def test_a_node_that_breaks_a_rule_loses_what_is_below_it_alone(run: Run, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.error.__name__ == "WrongDepth" and case.before)
    path, report = tmp_path / "repo.car", tmp_path / "report.json"
    path.write_bytes(case.car())
    code, out, _err = run("ls", "--partial", path, "--report", report, "-q")
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [*case.before]
    (found,) = read_report(report)
    assert [(each["offset"], each["error"]) for each in found["damage"]["listed"]] == [
        (None, "WrongDepth")
    ]


def test_several_cars_have_a_line_each_in_the_report(
    run: Run, bad: Path, car: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    report.write_text("old\n")
    code, _out, _err = run("export", car, bad, car, "--partial", "--report", report, "-q")
    assert code == 1
    found = read_report(report)
    assert [each["car"] for each in found] == [str(car), str(bad), str(car)]
    assert [each["complete"] for each in found] == [True, False, True]


@pytest.mark.parametrize("command", ["ls", "export", "blobs"])
def test_a_car_that_cannot_be_read_has_a_line_in_the_report(
    run: Run, car: Path, tmp_path: Path, command: str
) -> None:
    report, text, nowhere = tmp_path / "report.json", tmp_path / "x.car", tmp_path / "none.car"
    text.write_text("Hello, this is not a CAR. " * 5)
    for cars in ([text], [nowhere], [text, nowhere, car]):
        report.write_text("old\n")
        assert run(command, *cars, "--partial", "--report", report, "-q")[0] == 1
        found = read_report(report)
        assert [each["car"] for each in found] == list(map(str, cars))
        assert [each["complete"] for each in found] == [each == car for each in cars]
        errors = {str(text): "NotACar", str(nowhere): "FileNotFoundError", str(car): None}
        for each in found:
            assert each.get("error") == errors[each["car"]]
            assert ("message" in each) == ("error" in each)


def test_a_report_that_cannot_be_written_is_refused_before_anything_is(
    run: Run, car: Path, tmp_path: Path
) -> None:
    code, out, err = run("ls", car, "--partial", "--report", tmp_path / "no folder" / "report")
    assert (code, out) == (1, "")
    assert "no folder" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--report", "x.json"], "--report goes with --partial", id="alone"),
        pytest.param(["--partial", "--report", "-"], "name one", id="standard output"),
        pytest.param(["--partial", "--report", "repo.car"], "the CAR itself", id="the CAR"),
        pytest.param(["--partial", "--report", "x", "-o", "./x"], "the same file", id="-o"),
        pytest.param(
            ["--partial", "--report", "x/y", "--to-folder", "./x"],
            "which is for records",
            id="--to-folder",
        ),
        pytest.param(
            ["--partial", "--report", "x/y", "--typed", "-o", "./x/"],
            "which is for records",
            id="-o with a slash",
        ),
    ],
)
def test_a_report_goes_nowhere_else(
    run: Run, car: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(car.parent)
    before = car.read_bytes()
    code, out, err = run("export", "repo.car", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert car.read_bytes() == before


@pytest.mark.parametrize("flag", ["--partial", "--skip-bad"])
def test_what_is_lost_is_not_removed_from_an_earlier_export(
    run: Run, bad: Path, tmp_path: Path, flag: str
) -> None:
    folder, whole = tmp_path / "folder", tmp_path / "whole.car"
    whole.write_bytes(CAR)
    assert run("export", whole, "--to-folder", folder)[0] == 0
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    bad.write_bytes(spoiled(CAR, DAMAGED.records[RECORD]))
    code, _out, err = run("export", bad, flag, "--to-folder", folder)
    assert code == 1
    assert "it has an earlier export" in err
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before
    new = tmp_path / "new"
    assert run("export", bad, flag, "--to-folder", new)[0] == 1
    assert len([*new.rglob("*.json")]) == len(before) - 1


# --- inspect --------------------------------------------------------------------------------------


@BOTH_WAYS
def test_inspect_shows_what_is_there_and_what_is_missing(
    run: Run, bad: Path, tmp_path: Path, limit: str
) -> None:
    code, out, err = run("inspect", bad, "--json", "--mem-limit-mb", limit)
    assert code == 1
    found = json.loads(out)
    assert found["records"] == len(KEYS) - 6
    assert found["complete"] is False
    assert (found["lost"]["records"], found["lost"]["subtrees"]) == (1, 1)
    assert RECORD in err
    code, out, _err = run("inspect", bad, "--mem-limit-mb", limit)
    assert code == 1
    assert "1 record and 1 subtree of records" in out
    assert "3 places are damaged, 1 repaired" in out
    missing = tmp_path / "missing.car"
    missing.write_bytes(DAMAGED.to_car(omit=[DAMAGED.records[RECORD]]))
    code, out, err = run("inspect", missing)
    assert code == 1
    assert "Lost" in out
    assert "Damage" not in out
    assert RECORD in err


def test_inspect_of_a_whole_repo_is_complete(run: Run, car: Path) -> None:
    code, out, err = run("inspect", car, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["complete"] is True


def test_inspect_counts_the_nodes_of_records_that_are_lost(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(CAR)
    whole = json.loads(run("inspect", path, "--json")[1])["tree"]
    assert whole["complete"] is True
    path.write_bytes(DAMAGED.to_car(omit=DAMAGED.records.values()))
    code, out, _err = run("inspect", path, "--json")
    assert code == 1
    assert json.loads(out)["tree"] == whole
    assert json.loads(out)["records"] == 0
    assert f" {len(DAMAGED.nodes)} nodes, " in run("inspect", path)[1]
    path.write_bytes(DAMAGED.to_car(omit=[NODE]))
    tree = json.loads(run("inspect", path, "--json")[1])["tree"]
    assert tree["complete"] is False
    assert tree["nodes"] < whole["nodes"]
    assert f"at least {len(tree['layers'])} levels, " in run("inspect", path)[1]
