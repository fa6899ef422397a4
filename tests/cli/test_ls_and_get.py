"""`repo-stream ls` and `get`: keys and CIDs, and one record. And what is asked for of a repo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repo_stream import Cid
from repo_stream.testing import build_car, build_repo
from support.cli import LIKE, POST, RECORDS, Run, keys, lines


def test_ls_gives_keys_and_cids_in_order(run: Run, car: Path) -> None:
    repo = build_repo(RECORDS)
    expected = [(key, str(Cid(repo.records[key]))) for key in sorted(RECORDS)]
    code, out, err = run("ls", car)
    assert (code, err) == (0, "")
    assert [tuple(line.split("\t")) for line in out.splitlines()] == expected
    listed = lines(run("ls", car, "--json")[1])
    assert [(line["key"], line["cid"]) for line in listed] == expected


def test_ls_reads_no_records(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    path = tmp_path / "bare.car"
    path.write_bytes(repo.to_car(omit=repo.records.values()))
    code, out, err = run("ls", path)
    assert (code, err) == (0, "")
    assert [line.split("\t")[0] for line in out.splitlines()] == sorted(RECORDS)


def test_keys_that_look_alike_are_told_apart_and_json_has_them_exact(
    run: Run, tmp_path: Path
) -> None:
    unprintable = ["a/\x1b[2J", "a/\\x1b[2J", "a/\u202e\x85", 'a/"\n']
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({key: {"n": 1} for key in unprintable}))
    shown = run("ls", path)[1].splitlines()
    assert len({line.split("\t")[0] for line in shown}) == len(shown) == 4
    assert all(line.replace("\t", "").isprintable() for line in shown)
    for command in (["ls", "--json"], ["export"]):
        out = run(*command, path)[1]
        assert {json.loads(line)["key"] for line in out.split("\n")[:-1]} == set(unprintable)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(["--collection", LIKE], [f"{LIKE}/1"], id="collection"),
        pytest.param(
            ["--collection", LIKE, "--collection", POST], sorted(RECORDS), id="two collections"
        ),
        pytest.param(["--collection", "app.bsky.feed"], [], id="beginning of a collection's name"),
        pytest.param(
            ["--range", POST, ""],
            [key for key in sorted(RECORDS) if key.startswith(POST)],
            id="range to the end",
        ),
        pytest.param(
            ["--range", "", f"{POST}/3jzfcijpj2z2a"], [f"{LIKE}/1"], id="range from the beginning"
        ),
        pytest.param(
            ["--range", f"{POST}/3jzfcijpj2z2b", f"{POST}/3jzfcijpj2z2c"],
            [f"{POST}/3jzfcijpj2z2b"],
            id="range without its stop",
        ),
    ],
)
def test_ls_and_export_give_what_is_asked_for(
    run: Run, car: Path, flags: list[str], expected: list[str]
) -> None:
    for command in (["ls", "--json"], ["export"]):
        code, out, err = run(*command, car, *flags)
        assert (code, err) == (0, "")
        assert keys(out) == expected


def test_get_gives_one_record(run: Run, car: Path) -> None:
    code, out, err = run("get", car, f"{LIKE}/1")
    assert (code, err) == (0, "")
    assert json.loads(out)["value"] == {"n": 1}


def test_get_of_a_key_that_is_not_there_says_so(run: Run, car: Path) -> None:
    code, out, err = run("get", car, f"{LIKE}/\x1b")
    assert (code, out) == (1, "")
    assert "no record" in err
    assert err.replace("\n", "").isprintable()
