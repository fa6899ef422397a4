"""`repo-stream verify`: every check as one report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from repo_stream.testing import RawRecord, build_car, build_repo, cid_of, write_car
from support.cli import RECORDS, Run
from support.keys import did_key, signer

CURVES = {"k256": ec.SECP256K1(), "p256": ec.SECP256R1()}


def statuses(out: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(out)["checks"]}


def test_report_has_every_check(run: Run, car: Path) -> None:
    code, out, err = run("verify", car)
    assert (code, err) == (0, "")
    assert out.count("\nok ") == 5
    assert "no signature was checked" in out
    assert max(map(len, out.splitlines())) <= 80
    assert statuses(run("verify", car, "--json")[1]) == {
        "car": "ok",
        "blocks": "ok",
        "commit": "ok",
        "signature": "skipped",
        "tree": "ok",
        "records": "ok",
    }


# --- What is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        pytest.param(build_car(RECORDS)[:-1], ["car", "tree", "records"], id="truncated"),
        pytest.param(b"nonsense", ["car"], id="no CAR"),
        pytest.param(
            build_car(RECORDS).replace(b"\x64text\x61a", b"\x64text\x61x"),
            ["blocks"],
            id="forged, and repaired for the other checks",
        ),
        pytest.param(
            build_car({"a/b": RawRecord(b"\xa1\x61n\x18\x01")}), ["records"], id="not canonical"
        ),
    ],
)
def test_report_says_which_check_failed(
    run: Run, tmp_path: Path, data: bytes, failed: list[str]
) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    assert [name for name, status in statuses(out).items() if status == "failed"] == failed
    code, out, _ = run("verify", path)
    assert code == 1
    assert "The repo is not valid." in out


@pytest.mark.parametrize("fault", ["missing", "bad"])
def test_nothing_is_claimed_of_a_tree_that_no_commit_names(
    run: Run, tmp_path: Path, fault: str
) -> None:
    repo = build_repo(RECORDS)
    bad = b"\xa0"
    root = repo.commit_cid if fault == "missing" else cid_of(bad)
    others = [item for item in repo.blocks.items() if item[0] != repo.commit_cid]
    path = tmp_path / "bad.car"
    path.write_bytes(write_car([root], others if fault == "missing" else [(root, bad), *others]))
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    assert statuses(out) == {
        "car": "ok",
        "blocks": "ok",
        "commit": "failed",
        "signature": "skipped",
        "tree": "skipped",
        "records": "skipped",
    }


def test_car_with_nothing_new_fails_for_want_of_a_commit(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nothing.car"
    path.write_bytes(write_car([build_repo(RECORDS).commit_cid], []))
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    [commit] = [check for check in json.loads(out)["checks"] if check["name"] == "commit"]
    assert (commit["status"], commit["error"]) == ("failed", "NothingNew")
    assert "nothing has changed since the rev" in commit["message"]
    assert statuses(out)["car"] == statuses(out)["blocks"] == "ok"
    assert statuses(out)["tree"] == statuses(out)["records"] == "skipped"


def test_bad_records_are_counted_and_the_first_20_named(run: Run, tmp_path: Path) -> None:
    not_canonical = RawRecord(b"\xa1\x61n\x18\x01")
    bad = {f"a.b.c/{number:02}\x1b": not_canonical for number in range(30)}
    path = tmp_path / "bad.car"
    path.write_bytes(build_car({**RECORDS, **bad}))
    code, out, _ = run("verify", path, "--json")
    report = json.loads(out)
    assert (code, report["records"], report["bad_records"]) == (1, 34, 30)
    assert [problem["key"] for problem in report["problems"]] == sorted(bad)[:20]
    assert statuses(out)["tree"] == "ok"
    code, out, _ = run("verify", path)
    assert code == 1
    assert "30 of 34 are bad" in out
    assert "and 10 more" in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.replace("\n", "").isprintable()


def test_a_record_that_cannot_be_checked_is_bad_and_any_other_such_block_is_counted(
    run: Run, tmp_path: Path
) -> None:
    blake3 = b"\x01\x71\x1e\x20" + bytes(31)
    path = tmp_path / "odd.car"
    repo = build_repo({**RECORDS, "a.b.c/odd": RawRecord(b"\xa0", cid=blake3 + b"\1")})
    path.write_bytes(repo.to_car(extra_blocks=[(blake3 + b"\2", b"\xa0")]))
    code, out, _ = run("verify", path, "--json")
    report = json.loads(out)
    assert code == 1
    assert statuses(out)["records"] == "failed"
    assert statuses(out)["blocks"] == statuses(out)["tree"] == "ok"
    assert [problem["key"] for problem in report["problems"]] == ["a.b.c/odd"]
    _, out, _ = run("verify", path)
    words = " ".join(out.split())
    assert "but for 2 whose hash function is not known" in words
    assert "of record 'a.b.c/odd' cannot be checked" in words
    path.write_bytes(build_car(RECORDS, extra_blocks=[(blake3 + b"\2", b"\xa0")]))
    code, out, _ = run("verify", path)
    assert code == 0
    assert "but for 1 whose hash function is not known" in " ".join(out.split())


# --- The signature --------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["k256", "p256"])
@pytest.mark.parametrize("whose", ["its own", "another"])
def test_signature_holds_with_the_key_of_its_account_only(
    run: Run, tmp_path: Path, curve: str, whose: str
) -> None:
    private, other = (ec.generate_private_key(CURVES[curve]) for _ in range(2))
    path = tmp_path / "signed.car"
    path.write_bytes(build_car(RECORDS, sign=signer(private)))
    key = did_key(private if whose == "its own" else other)
    code, out, err = run("verify", path, "--key", key)
    found = run("verify", path, "--key", key, "--json")[1]
    report, status = json.loads(found), statuses(found)
    assert err == ""
    assert status.pop("signature") == ("ok" if whose == "its own" else "failed")
    assert set(status.values()) == {"ok"}
    assert max(map(len, out.splitlines())) <= 80
    if whose == "its own":
        assert (code, report["ok"]) == (0, True)
        assert out.endswith("\nThe repo is valid.\n")
    else:
        assert (code, report["ok"]) == (1, False)
        assert out.endswith("\nThe repo is not valid.\n")


def test_signature_that_is_none_fails_alone(run: Run, car: Path) -> None:
    key = did_key(ec.generate_private_key(CURVES["k256"]))
    code, out, err = run("verify", car, "--key", key, "--json")
    status = statuses(out)
    assert (code, err, json.loads(out)["ok"]) == (1, "", False)
    assert status.pop("signature") == "failed"
    assert set(status.values()) == {"ok"}


@pytest.mark.parametrize("key", ["did:plc:someone", "nonsense"])
def test_key_that_is_none_is_wrong_usage(run: Run, car: Path, key: str) -> None:
    code, out, err = run("verify", car, "--key", key, "--json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
