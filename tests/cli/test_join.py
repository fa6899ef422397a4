"""`repo-stream join`: the newest repo of a CAR and slices of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_stream import OtherAccount
from repo_stream.testing import write_car
from support.cli import BOTH_WAYS, LIKE, POST, RECORDS, Run
from support.servers import Server, rev_of

LATER = {**RECORDS, f"{POST}/3jzfcijpj2z2d": {"text": "d"}}
LAST = {**LATER, f"{LIKE}/2": {"n": 2}}
SERVER = Server(RECORDS, LATER, LAST)
OLD, NEW, NEWEST = SERVER.repos
FOREIGN = "did:plc:foreignforeignforeignfor"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.car"
    path.write_bytes(SERVER.get_repo(0))
    return path


@pytest.fixture
def since(tmp_path: Path) -> Path:
    path = tmp_path / "since.car"
    path.write_bytes(SERVER.get_repo(1, since=0))
    return path


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


@BOTH_WAYS
def test_newest_repo_is_written(
    run: Run, base: Path, since: Path, tmp_path: Path, limit: str
) -> None:
    last, target = tmp_path / "last.car", tmp_path / "out.car"
    last.write_bytes(SERVER.get_repo(2, since=1))
    read = len(OLD.blocks) + len(SERVER.cids(1, since=0)) + len(SERVER.cids(2, since=1))
    written = len(NEWEST.blocks)
    code, out, err = run("join", base, last, since, "-o", target, "--mem-limit-mb", limit)
    assert (code, out) == (0, "")
    assert err == (
        f"{written} blocks written, {read - written} of {read} dropped; "
        f"the repo is at rev {rev_of(2)}\n"
    )
    assert target.read_bytes() == NEWEST.to_car(order="stream")
    assert run("join", "-q", target, since, "-o", tmp_path / "again.car") == (0, "", "")
    assert (tmp_path / "again.car").read_bytes() == target.read_bytes()
    assert names(tmp_path) == ["again.car", "base.car", "last.car", "out.car", "since.car"]


def test_slice_with_nothing_new_changes_nothing(run: Run, base: Path, tmp_path: Path) -> None:
    nothing, target = tmp_path / "nothing.car", tmp_path / "out.car"
    nothing.write_bytes(write_car([OLD.commit_cid], []))
    code, _, err = run("join", base, nothing, "-o", target)
    assert code == 0
    assert err.endswith(f" 0 of {len(OLD.blocks)} dropped; the repo is at rev {rev_of(0)}\n")
    assert target.read_bytes() == OLD.to_car(order="stream")


def test_torn_car_is_healed(run: Run, base: Path, since: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.car"
    base.write_bytes(SERVER.car(SERVER.torn(0, [0]), 0))
    assert run("inspect", base)[0] == 1
    assert run("join", base, since, "-o", target)[0] == 0
    assert target.read_bytes() == NEW.to_car(order="stream")
    assert run("verify", target)[0] == 0


def test_blocks_that_are_written_again_are_counted(run: Run, tmp_path: Path) -> None:
    server = Server({"a.b.c/0": {"n": 1}}, {f"a.b.c/{n}": {"n": 1} for n in range(3)})
    base, since = tmp_path / "base.car", tmp_path / "since.car"
    base.write_bytes(server.get_repo(0))
    since.write_bytes(server.get_repo(since=0))
    report = run("join", base, since, "-o", tmp_path / "out.car")[2]
    assert " blocks written (2 of them again), " in report


def test_error_names_its_file_and_leaves_everything_as_it_was(
    run: Run, base: Path, since: Path, tmp_path: Path
) -> None:
    target, bad = tmp_path / "out.car", tmp_path / "bad.car"
    target.write_text("before")
    foreign = Server(RECORDS, LATER, did=FOREIGN).get_repo(1, since=0)
    gone = OLD.to_car(omit=[OLD.records[f"{LIKE}/1"]])
    sent, before = SERVER.get_repo(1, since=0), base.read_bytes()
    other = OtherAccount(did=FOREIGN, expected="did:plc:testrepotestrepotestrepo")
    for arguments, data, message in (
        ((base, bad), sent[:-1], f"repo-stream: {bad}: the CAR ends inside a section"),
        ((bad, since), before[:-1], f"repo-stream: {bad}: the CAR ends inside a section"),
        ((base, since, bad), b"<html>" + bytes(200), f"repo-stream: {bad}: this is not a CAR"),
        ((base, bad), foreign, f"repo-stream: {bad}: {other}"),
        ((bad, since), gone, f"repo-stream: {bad}: the block "),
        ((base, tmp_path / "gone.car"), b"", f"repo-stream: {tmp_path / 'gone.car'}: No such file"),
    ):
        bad.write_bytes(data)
        code, out, err = run("join", *arguments, "-o", target)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(message)
        if data == gone:
            assert f"join the slice since {rev_of(0)}" in err
        assert (target.read_text(), base.read_bytes(), since.read_bytes()) == (
            "before",
            before,
            sent,
        )
        assert names(tmp_path) == ["bad.car", "base.car", "out.car", "since.car"]


def test_no_input_is_overwritten(run: Run, base: Path, since: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.car"
    link.symlink_to(since)
    before = [base.read_bytes(), since.read_bytes()]
    for target in (base, since, link):
        code, out, err = run("join", base, since, "-o", target)
        assert (code, out) == (2, "")
        assert f"-o names a CAR to join, which would be overwritten: {target}" in err
        assert [base.read_bytes(), since.read_bytes()] == before


def test_limit_is_explained_for_the_file_that_exceeds_it(
    run: Run, base: Path, since: Path, tmp_path: Path
) -> None:
    code, _, err = run("join", base, since, "-o", tmp_path / "out.car", "--limit", "blocks=5")
    assert code == 1
    assert err.startswith(f"repo-stream: {base}: ")
    assert "--limit blocks=N" in err


def test_wrong_usage_is_explained(run: Run, base: Path) -> None:
    for arguments, message in (
        ((base,), "the following arguments are required: SLICE"),
        (("-", "-"), "standard input can be read only once"),
        ((base, "-", "-"), "standard input can be read only once"),
    ):
        code, out, err = run("join", *arguments)
        assert (code, out) == (2, "")
        assert message in err
