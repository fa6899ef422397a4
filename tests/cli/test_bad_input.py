"""What the command says of a CAR that it cannot read: one line, harmless, exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_stream import Cid
from repo_stream.testing import build_car, build_repo, write_car
from support.cli import POST, RECORDS, Run


def bad_cars() -> list[object]:
    repo = build_repo(RECORDS)
    whole = build_car(RECORDS)
    record = repo.records[f"{POST}/3jzfcijpj2z2b"]
    forged = write_car([repo.commit_cid], {**repo.blocks, record: b"\xa1\x64text\x61z"}.items())
    return [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\x0a\xa1\x67version\x02", "CARv2", id="CARv2"),
        pytest.param(b"<!DOCTYPE html>", "CAR", id="web page"),
        pytest.param(whole[:-1], "fetch it again", id="truncated"),
        pytest.param(
            repo.to_car(omit=[record]), "3jzfcijpj2z2b' is not in the CAR", id="missing record"
        ),
        pytest.param(forged, "does not have the hash in its CID", id="forged record"),
        pytest.param(repo.to_car(omit=[repo.commit_cid]), "the commit", id="missing commit"),
        pytest.param(write_car([repo.commit_cid], []), "nothing has changed", id="nothing new"),
    ]


@pytest.mark.parametrize(("data", "message"), bad_cars())
def test_bad_car_gives_one_line(run: Run, tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    for limit in ("16", "0"):
        # Not `inspect`, which goes past damage.
        code, out, err = run("order", path, tmp_path / "out.car", "--mem-limit-mb", limit)
        assert (code, out) == (1, "")
        assert err.startswith(f"repo-stream: {path}: ")
        assert message in err
        assert err.count("\n") == 1


def test_limit_that_is_too_low_is_named_by_its_option(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({"a.b/c": {"text": "x" * 3_000_000}}))
    for command in ("inspect", "ls", "export", "verify"):
        code, out, err = run(command, path)
        assert code == 1
        said = " ".join((out + err).split())
        assert "--limit block_bytes=N" in said
        assert "DriverBuilder" not in said
        assert run(command, path, "--limit", "block_bytes=4000000")[0] == 0


def test_error_of_a_server_is_quoted_and_escaped(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(b'{"error":"RepoNotFound","message":"\x1b[2J\xc2\x9b2J"}')
    code, out, err = run("ls", path)
    assert (code, out) == (1, "")
    assert "is not a CAR file; it looks like JSON" in err
    assert "RepoNotFound" in err
    assert err.replace("\n", "").isprintable()


def test_missing_file_gives_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.car"
    expected = f"repo-stream: {path}: No such file or directory\n"
    assert run("inspect", path) == (1, "", expected)


def test_directory_gives_one_line(run: Run, tmp_path: Path) -> None:
    assert run("inspect", tmp_path) == (1, "", f"repo-stream: {tmp_path}: Is a directory\n")


def test_name_with_a_line_break_stays_on_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("inspect", tmp_path / "two\nlines\x1b.car")
    assert code == 1
    assert r"two\nlines\x1b.car" in err
    assert err.count("\n") == 1


def test_every_command_says_that_there_is_nothing_new(run: Run, tmp_path: Path) -> None:
    path, out_path = tmp_path / "nothing.car", tmp_path / "out.car"
    root = build_repo(RECORDS).commit_cid
    path.write_bytes(write_car([root], []))
    commands: list[list[str]] = [
        ["inspect"],
        ["ls"],
        ["blobs"],
        ["get", f"{POST}/1"],
        ["export"],
        ["order", str(out_path)],
    ]
    for name, *more in commands:
        code, out, err = run(name, path, *more)
        assert (code, out) == (1, "")
        assert f"{Cid(root)} and has no block: nothing has changed since the rev" in err
        assert "if none was asked for, the download is incomplete, so fetch it again" in err
        assert err.count("\n") == 1
    assert not out_path.exists()
