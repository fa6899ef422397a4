"""`repo-stream verify` of damaged CARs: every check that can still be made is made."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from repo_stream import Cid
from repo_stream.car import damage as repairs
from repo_stream.testing import (
    REV,
    BuiltRepo,
    Link,
    RawRecord,
    build_repo,
    car_header,
    cid_of,
    encode,
    section,
    write_car,
)
from support import replaced
from support.cli import BOTH_WAYS, DID, POST, Run
from support.keys import did_key, signer

PRIVATE = ec.derive_private_key(1, ec.SECP256K1())
KEY = did_key(PRIVATE)
RECORDS = {f"{POST}/3jzfcijpj2{n:03}": {"text": f"number {n}"} for n in range(40)}
REPO = build_repo(RECORDS, did=DID, sign=signer(PRIVATE))
CAR = REPO.to_car()


def report_on(run: Run, path: Path, *flags: str) -> dict[str, Any]:
    """The JSON of `verify`, whose exit code agrees with it, and which complains of nothing."""
    code, out, err = run("verify", path, "--json", "--key", KEY, *flags)
    report: dict[str, Any] = json.loads(out)
    assert err == ""
    assert code == (0 if report["ok"] else 1)
    assert report["ok"] == ("failed" not in by_status(report))
    return report


def by_status(report: dict[str, Any]) -> dict[str, set[str]]:
    """The names of the checks with each status."""
    found: dict[str, set[str]] = {}
    for check in report["checks"]:
        found.setdefault(check["status"], set()).add(check["name"])
    return found


def failed(report: dict[str, Any]) -> set[str]:
    return by_status(report).get("failed", set())


def check_in(report: dict[str, Any], name: str) -> dict[str, Any]:
    check: dict[str, Any]
    (check,) = (each for each in report["checks"] if each["name"] == name)
    return check


def without(repo: BuiltRepo, *cids: bytes) -> bytes:
    return repo.to_car(omit=cids)


def forged(car: bytes, cid: bytes, repo: BuiltRepo = REPO) -> bytes:
    """The CAR with two bytes of a block changed, so that it cannot be repaired."""
    block = repo.blocks[cid]
    return car.replace(block, block[:-2] + bytes(255 - byte for byte in block[-2:]))


# --- What is still checked ------------------------------------------------------------------------


@BOTH_WAYS
def test_checks_after_a_failed_one_are_made(run: Run, tmp_path: Path, limit: str) -> None:
    path = tmp_path / "bad.car"
    first, second, *_, last = REPO.records.values()
    lower = REPO.nodes[-1]
    commit = REPO.commit_cid
    cases: dict[str, tuple[bytes, set[str]]] = {
        "missing record": (without(REPO, first), {"records"}),
        "missing node": (without(REPO, lower), {"tree", "records"}),
        "missing root": (without(REPO, REPO.nodes[0]), {"tree", "records"}),
        "damaged record": (forged(CAR, last), {"blocks", "records"}),
        "damaged node": (forged(CAR, lower), {"blocks", "tree", "records"}),
        "damaged and missing": (
            forged(without(REPO, second), last),
            {"blocks", "records"},
        ),
        "half a section": (CAR + section(first, REPO.blocks[first])[:-3], {"car"}),
        "truncated to a half": (CAR[: len(CAR) // 2], {"car", "tree", "records"}),
    }
    assert commit not in (first, lower)
    for name, (car, expected) in cases.items():
        path.write_bytes(car)
        report = report_on(run, path, "--mem-limit-mb", limit)
        assert (name, failed(report)) == (name, expected)
        assert "skipped" not in by_status(report), name
        assert report["did"] == DID


def test_records_past_a_missing_node_are_checked(run: Run, tmp_path: Path) -> None:
    values = {**RECORDS, f"{POST}/4": RawRecord(b"\xa1\x61n\x18\x01")}
    repo = build_repo(values, did=DID, sign=signer(PRIVATE))
    path = tmp_path / "bad.car"
    path.write_bytes(without(repo, repo.nodes[1]))  # on the way to the first key
    report = report_on(run, path)
    (problem,) = report["problems"]
    assert (problem["key"], problem["error"]) == (f"{POST}/4", "ProcessError")
    assert report["bad_records"] == 1
    assert 1 < report["records"] < len(values)
    records = check_in(report, "records")
    assert records["note"].endswith("are bad; how many there are below a lost node is not known")
    assert not records["complete"]
    tree = check_in(report, "tree")
    assert (tree["count"], tree["error"]) == (1, "MissingBlock")
    assert "the keys between the beginning and" in tree["message"]


def test_a_broken_rule_does_not_end_the_walk(run: Run, tmp_path: Path) -> None:
    """A key at the wrong depth costs the subtree of its node, and no other."""
    wrong = build_repo({"a.b.c/1": {}, "a.b.c/2": {}})
    assert len(wrong.nodes) == 1
    root = REPO.nodes[0]
    path = tmp_path / "bad.car"
    other = encode({"e": [], "l": None})
    block = REPO.blocks[root].replace(REPO.nodes[1], cid_of(other))
    commit = REPO.blocks[REPO.commit_cid].replace(root, cid_of(block))
    path.write_bytes(
        write_car(
            [cid_of(commit)],
            [(cid_of(each), each) for each in (commit, block, other)] + [*REPO.blocks.items()],
        )
    )
    report = report_on(run, path)
    assert failed(report) == {"signature", "tree", "records"}
    assert check_in(report, "tree")["error"] == "EmptyNode"
    assert 0 < report["records"] < len(RECORDS)


def test_faults_are_counted_and_the_first_are_shown(run: Run, tmp_path: Path) -> None:
    cids = [*REPO.records.values()]
    car = CAR
    for cid in cids[:30]:
        car = forged(car, cid)
    path = tmp_path / "bad.car"
    path.write_bytes(car)
    report = report_on(run, path)
    blocks = check_in(report, "blocks")
    assert (blocks["count"], blocks["complete"], len(blocks["faults"])) == (30, True, 20)
    assert {fault["error"] for fault in blocks["faults"]} == {"CidMismatch"}
    assert (blocks["error"], blocks["message"]) == (*blocks["faults"][0].values(),)
    assert (report["bad_records"], report["records"]) == (30, 40)
    assert [problem["key"] for problem in report["problems"]] == [*REPO.records][:20]
    assert "is damaged" in report["problems"][0]["message"]
    out = run("verify", path)[1]
    assert "30 faults:" in out
    assert "- and 27 more" in out
    assert "30 of 40 are bad" in out
    assert max(map(len, out.splitlines())) <= 80


def test_records_beyond_the_damage_that_is_listed_are_not_called_missing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairs, "_MOST_HASHED", 0)  # they are beyond repair
    repo = build_repo({f"com.example.a/{n:04}": {"n": n, "x": "y" * 20} for n in range(1050)})
    car = bytearray(repo.to_car(order="shuffled"))
    for cid in repo.records.values():
        at = car.index(repo.blocks[cid])
        car[at : at + 2] = b"\xff\xff"
    path = tmp_path / "bad.car"
    path.write_bytes(car)
    report = json.loads(run("verify", path, "--json")[1])
    assert report["bad_records"] == 1050
    assert not [each for each in report["problems"] if "not in the CAR" in each["message"]]


def test_what_was_repaired_for_the_other_checks_is_said(run: Run, tmp_path: Path) -> None:
    report = report_on_file(run, CAR.replace(b"number 3", b"number_3", 1), tmp_path)
    assert failed(report) == {"blocks"}
    message = check_in(report, "blocks")["message"]
    assert message.endswith("; it was repaired for the other checks")
    assert (report["records"], report["bad_records"]) == (40, 0)
    report = report_on_file(run, forged(CAR, REPO.nodes[1]), tmp_path)
    assert "repaired" not in check_in(report, "blocks")["message"]


def test_more_damage_than_is_listed_is_said_to_be_more(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.car"
    bad = b"".join(section(cid_of(b"%d" % n), b"no") for n in range(1100))
    path.write_bytes(CAR + bad)
    report = report_on(run, path)
    assert failed(report) == {"blocks"}
    assert not check_in(report, "blocks")["complete"]
    assert "at least 1,000 faults:" in run("verify", path)[1]


def test_compressed_file_is_checked_past_the_end_of_its_data(run: Run, tmp_path: Path) -> None:
    packed = gzip.compress(CAR)
    assert report_on_file(run, packed, tmp_path)["ok"]
    wrong_checksum = packed[:-5] + bytes((packed[-5] ^ 1,)) + packed[-4:]
    for bad in (wrong_checksum, packed[:-5]):
        report = report_on_file(run, bad, tmp_path)
        assert failed(report) == {"car"}
        assert check_in(report, "car")["error"] == "BadCompression"
        assert by_status(report)["ok"] == {"blocks", "commit", "signature", "tree", "records"}


# --- Without a commit, and without a CAR ----------------------------------------------------------


def bad_commit() -> bytes:
    bad = encode({"version": 3})
    others = [item for item in REPO.blocks.items() if item[0] != REPO.commit_cid]
    return write_car([cid_of(bad)], [(cid_of(bad), bad), *others])


WITHOUT_COMMIT = {
    "bad commit": (bad_commit(), {"commit"}),
    "missing commit": (without(REPO, REPO.commit_cid), {"commit"}),
    "bad commit and block": (forged(bad_commit(), REPO.nodes[0]), {"commit", "blocks"}),
    "bad commit, truncated": (bad_commit()[:-1], {"commit", "car"}),
    "nothing new": (car_header([REPO.commit_cid]), {"commit"}),
}


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("case", WITHOUT_COMMIT)
def test_blocks_are_checked_without_a_commit(
    *, run: Run, tmp_path: Path, case: str, piped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    car, expected = WITHOUT_COMMIT[case]
    report = report_on_piped(run, car, monkeypatch) if piped else report_on_file(run, car, tmp_path)
    assert failed(report) == expected
    assert by_status(report)["skipped"] == {"signature", "tree", "records"}
    for name in ("signature", "tree", "records"):
        assert check_in(report, name)["note"].startswith("no valid commit says")
    assert report["did"] is report["rev"] is report["commit"] is None


def with_commit(**changes: object) -> bytes:
    """The CAR with another commit, which comes after some blocks."""
    fields = {"data": Link(REPO.nodes[0]), "did": DID, "rev": REV, "prev": None, "version": 3}
    commit = encode({**fields, "sig": bytes(64), **changes})
    others = [item for item in REPO.blocks.items() if item[0] != REPO.commit_cid]
    return write_car([cid_of(commit)], [*others[:3], (cid_of(commit), commit), *others[3:]])


BELOW = {
    "rev": (with_commit(rev="no TID"), set[str]()),
    "version": (with_commit(version=2), set[str]()),
    "more fields": (with_commit(more=1), set[str]()),
    "damaged record": (
        forged(with_commit(rev="no TID"), next(iter(REPO.records.values()))),
        {"blocks", "records"},
    ),
    "damaged node": (forged(with_commit(did=1), REPO.nodes[1]), {"blocks", "tree", "records"}),
    "missing node": (
        with_commit(sig=1).replace(section(REPO.nodes[1], REPO.blocks[REPO.nodes[1]]), b""),
        {"tree", "records"},
    ),
    "truncated": (with_commit(prev=1)[:-1], {"car"}),
}


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("case", BELOW)
def test_tree_below_an_invalid_commit_is_checked(
    *, run: Run, tmp_path: Path, case: str, piped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    car, others = BELOW[case]
    report = report_on_piped(run, car, monkeypatch) if piped else report_on_file(run, car, tmp_path)
    assert failed(report) - {"tree", "records"} == {"commit"} | others - {"tree", "records"}
    if case != "truncated":  # which may be a node or a record
        assert failed(report) == {"commit"} | others
    assert by_status(report)["skipped"] == {"signature"}
    assert check_in(report, "signature")["note"].startswith("no valid commit says")
    assert report["did"] is report["rev"] is report["commit"] is None
    if not others:
        assert (report["records"], report["bad_records"]) == (len(RECORDS), 0)


def test_tree_below_an_invalid_commit_is_within_the_limits_that_its_file_is_within(
    run: Run, tmp_path: Path
) -> None:
    car = with_commit(did="")
    path = tmp_path / "a.car"
    path.write_bytes(car)
    exact = [f"blocks={len(REPO.blocks)}", f"car_bytes={len(car)}", "header_bytes=58"]
    report = report_on(run, path, *[word for limit in exact for word in ("--limit", limit)])
    assert failed(report) == {"commit"}
    report = report_on(run, path, "--limit", "node_entries=1")
    assert failed(report) == {"commit", "tree", "records"}
    assert failed(report_on(run, path, "--mem-limit-mb", "0")) == {"commit"}
    report = report_on(run, path, "--limit", f"blocks={len(REPO.blocks) - 1}")
    assert failed(report) == {"commit", "car"}
    assert by_status(report)["skipped"] == {"signature", "blocks", "tree", "records"}


def test_records_below_an_invalid_commit_are_checked(run: Run, tmp_path: Path) -> None:
    values = {**RECORDS, f"{POST}/4": RawRecord(b"\xa1\x61n\x18\x01")}
    repo = build_repo(values, did="did:", sign=signer(PRIVATE))
    report = report_on_file(run, repo.to_car(), tmp_path)
    assert failed(report) == {"commit", "records"}
    assert [problem["key"] for problem in report["problems"]] == [f"{POST}/4"]
    assert (report["records"], report["bad_records"]) == (len(values), 1)


@pytest.mark.parametrize("car", [forged(CAR, REPO.nodes[1]), CAR[:-1], CAR, b"nonsense", b""])
def test_pipe_is_reported_on_like_a_file(
    run: Run, tmp_path: Path, car: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_on_piped(run, car, monkeypatch) == report_on_file(run, car, tmp_path)


def report_on_file(run: Run, car: bytes, directory: Path) -> dict[str, Any]:
    path = directory / "a.car"
    path.write_bytes(car)
    return report_on(run, path)


def report_on_piped(run: Run, car: bytes, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "stdin", None)  # pytest's own
    reading, writing = os.pipe()
    assert os.write(writing, car) == len(car)
    os.close(writing)
    with replaced(0, reading):
        report = report_on(run, Path("-"))
    os.close(reading)
    return report


@pytest.mark.parametrize("data", [b"", b"nonsense", b"<html>", b"\x1f\x8bnonsense"])
def test_what_is_no_car_fails_and_the_rest_is_skipped(
    run: Run, tmp_path: Path, data: bytes
) -> None:
    report = report_on_file(run, data, tmp_path)
    assert failed(report) == {"car"}
    assert by_status(report).keys() == {"failed", "skipped"}
    notes = [check["note"] for check in report["checks"] if check["status"] == "skipped"]
    assert notes == ["the file could not be read"] * 5


def test_a_limit_ends_what_needs_the_whole_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.car"
    path.write_bytes(CAR)
    report = report_on(run, path, "--limit", f"car_bytes={len(CAR) - 1}")
    assert by_status(report) == {
        "ok": {"commit", "signature"},
        "failed": {"car"},
        "skipped": {"blocks", "tree", "records"},
    }
    assert check_in(report, "tree")["note"] == "the file could not be read to its end"


# --- Of whom it is --------------------------------------------------------------------------------


def test_repo_of_another_account_fails_and_both_are_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.car"
    path.write_bytes(CAR)
    assert report_on(run, path, "--did", DID)["ok"]
    report = report_on(run, path, "--did", "did:web:example.com")
    assert failed(report) == {"commit"}
    commit = check_in(report, "commit")
    assert commit["error"] == "OtherAccount"
    assert commit["message"] == f"this is the repo of {DID}, not of did:web:example.com"
    assert by_status(report)["ok"] == {"car", "blocks", "signature", "tree", "records"}
    code, out, _ = run("verify", path, "--did", "did:web:example.com")
    assert code == 1
    assert commit["message"] in " ".join(out.split())


@pytest.mark.parametrize("did", ["alice.example.com", "at://did:plc:a", "did:", ""])
def test_did_that_is_none_is_wrong_usage(run: Run, tmp_path: Path, did: str) -> None:
    path = tmp_path / "a.car"
    path.write_bytes(CAR)
    code, out, err = run("verify", path, "--did", did)
    assert (code, out) == (2, "")
    assert "not a DID, such as did:plc:..." in err


# --- The shape of the JSON ------------------------------------------------------------------------


def test_json_has_the_documented_keys(run: Run, tmp_path: Path) -> None:
    for car in (CAR, forged(CAR, REPO.nodes[1]), b"nonsense"):
        report = report_on_file(run, car, tmp_path)
        assert [*report] == [
            *("ok", "did", "rev", "commit", "records", "bad_records", "problems", "checks")
        ]
        names = [check["name"] for check in report["checks"]]
        assert names == ["car", "blocks", "commit", "signature", "tree", "records"]
        for check in report["checks"]:
            assert [*check] == [
                *("name", "what", "status", "note", "error", "message"),
                *("count", "complete", "faults"),
            ]
            assert (check["error"] is None) == (check["status"] != "failed")
            assert (check["count"] == 0) == (check["faults"] == []) == (check["error"] is None)
        assert report["commit"] in (str(Cid(REPO.commit_cid)), None)
