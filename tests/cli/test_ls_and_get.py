"""`repo-stream ls` and `get`: keys and CIDs, and one record. And what is asked for of a repo."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from repo_stream import Cid
from repo_stream.testing import build_car, build_repo
from support import replaced
from support.cli import BOTH_WAYS, DID, LIKE, POST, RECORDS, Run, keys, lines


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
        pytest.param(["--collection", "app.bsky.feed.*"], sorted(RECORDS), id="wildcard"),
        pytest.param(
            ["--collection", "app.bsky.feed.*", "--range", "", POST], [f"{LIKE}/1"], id="both"
        ),
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
    for command in (["ls", "--json"], ["export", "-q"]):
        code, out, err = run(*command, car, *flags)
        assert (code, err) == (0, "")
        assert keys(out) == expected


# --- Filters that match nothing -------------------------------------------------------------------


THERE_ARE = f"collections in the repo: {LIKE}, {POST}"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("flags", "nothing", "expected"),
    [
        pytest.param(
            ["--collection", "app.bsky.feed"], "--collection app.bsky.feed", [], id="collection"
        ),
        pytest.param(["--collection", f"{POST}.*"], f"--collection '{POST}.*'", [], id="wildcard"),
        pytest.param(
            ["--collection", "a.b.c", "--collection", "d.e.f"],
            "--collection a.b.c --collection d.e.f",
            [],
            id="two collections",
        ),
        pytest.param(
            ["--collection", "a.b.c", "--collection", LIKE],
            "--collection a.b.c",
            [f"{LIKE}/1"],
            id="one of two collections",
        ),
        pytest.param(["--range", "b", ""], "--range b ''", [], id="range"),
        pytest.param(["--range", "b", "b"], "--range b b", [], id="empty range"),
        pytest.param(
            ["--collection", LIKE, "--range", POST, ""],
            f"--collection {LIKE} --range {POST} ''",
            [],
            id="collection outside of a range",
        ),
        pytest.param(
            ["--collection", LIKE, "--collection", POST, "--range", POST, ""],
            f"--collection {LIKE} --range {POST} ''",
            [key for key in sorted(RECORDS) if key.startswith(POST)],
            id="one of two collections outside of a range",
        ),
    ],
)
def test_filter_that_matched_nothing_is_said_with_the_collections(
    *, run: Run, car: Path, limit: str, flags: list[str], nothing: str, expected: list[str]
) -> None:
    exports = ["export", "-q"], ["export", "-q", "--skip-bad"]
    for command in (["ls", "--json"], ["ls"], *exports, ["ls", "-q"]):
        code, out, err = run(*command, car, *flags, "--mem-limit-mb", limit)
        assert err == f"repo-stream: {car}: no record matches {nothing}; {THERE_ARE}\n"
        assert code == 0
        assert len(out.splitlines()) == len(expected)
        assert "--json" not in command or keys(out) == expected


@BOTH_WAYS
def test_filter_of_a_pipe_that_matched_nothing_is_said_too(
    run: Run, car: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # pytest's own
    reading, writing = os.pipe()
    os.write(writing, car.read_bytes())
    os.close(writing)
    with replaced(0, reading):
        code, out, err = run("ls", "-", "--collection", "a.b.c", "--mem-limit-mb", limit)
    os.close(reading)
    assert (code, out) == (0, "")
    expected = f"no record matches --collection a.b.c; {THERE_ARE}\n"
    assert err == f"repo-stream: standard input: {expected}"


@BOTH_WAYS
def test_wildcards_that_match_keys_without_a_slash_have_matched(
    run: Run, tmp_path: Path, limit: str
) -> None:
    path = tmp_path / "odd.car"
    for odd, wildcard in (("odd", "*"), ("a.b.c", "a.b.*"), ("/x", "*")):
        path.write_bytes(build_car({odd: {"n": 1}}))
        flags = ["--collection", wildcard, "--collection", LIKE, "--mem-limit-mb", limit]
        for command in (["ls", "--json"], ["export", "-q"]):
            code, out, err = run(*command, path, *flags)
            assert (code, keys(out)) == (0, [odd])
            assert err == (
                f"repo-stream: {path}: no record matches --collection {LIKE}; "
                "collections in the repo: (none)\n"
            )


def test_nothing_is_said_of_filters_that_matched_bad_records(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    path = tmp_path / "bad.car"
    path.write_bytes(repo.to_car(omit=repo.records.values()))
    for flags in (["--collection", LIKE], ["--range", "app.", "b"]):
        code, out, err = run("export", path, "--skip-bad", *flags)
        assert (code, out) == (1, "")
        assert "no record matches" not in err
        assert "left out" in err


def test_nothing_is_said_of_an_empty_repo_without_filters(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.car"
    path.write_bytes(build_car({}))
    for command in ("ls", "export"):
        assert run(command, "-q", path) == (0, "", "")
        code, out, err = run(command, "-q", path, "--collection", LIKE)
        assert (code, out) == (0, "")
        assert err.endswith(
            f"no record matches --collection {LIKE}; there are no collections in the repo\n"
        )


def test_collections_are_shown_as_far_as_a_person_reads(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "many.car"
    for last, rest in (("v", ""), ("w", " and 1 other"), ("z", " and 4 others")):
        names = [f"a.b.{name}" for name in "cdefghijklmnopqrstuvwxyz" if name <= last]
        path.write_bytes(build_car({f"{name}/1": {} for name in names}))
        err = run("ls", path, "--collection", LIKE)[2]
        assert err.endswith(f"; collections in the repo: {', '.join(names[:20])}{rest}\n")
    path.write_bytes(build_car({"\x1b[2J\u202e/1": {}, "odd": {}, f"{'a' * 200}/1": {}}))
    err = run("ls", path, "--collection", LIKE)[2]
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert "\\x1b[2J\\u202e" in err
    assert len(err) < 300


def test_slice_whose_collections_nobody_knows_says_only_what_did_not_match(
    run: Run, tmp_path: Path
) -> None:
    repo = build_repo({f"a.b.c/{n:03}": {"n": n} for n in range(200)})
    path = tmp_path / "slice.car"
    path.write_bytes(repo.to_car(omit=[repo.nodes[1]]))  # on the way to the first key
    code, out, err = run("ls", path, "--range", "b", "")
    assert (code, out) == (0, "")
    assert err == f"repo-stream: {path}: no record matches --range b ''\n"


# --- One record -----------------------------------------------------------------------------------

ODD = ["odd", "/", "/a", "a/", "a/b/c", "at://x", "3jzfcijpj2z2a", "at://did:plc:a/a.b.c/d"]


@BOTH_WAYS
def test_get_can_ask_for_every_key_that_ls_shows(run: Run, tmp_path: Path, limit: str) -> None:
    path = tmp_path / "odd.car"
    path.write_bytes(build_car({key: {"of": key} for key in [*ODD, *RECORDS]}))
    there = keys(run("ls", path, "--json")[1])
    assert set(ODD) < set(there)
    for key in there:
        code, out, err = run("get", path, key, "--exact", "--mem-limit-mb", limit)
        assert (code, err) == (0, "")
        assert (json.loads(out)["key"], json.loads(out)["value"]["of"]) == (key, key)
    for key in ("od", "odd/", "", "a/b", "at://did:plc:someone/app.bsky.feed.like/1"):
        code, out, err = run("get", path, key, "--exact", "--mem-limit-mb", limit)
        assert (code, out) == (1, "")
        assert err == f"repo-stream: {path}: the repo has no record {key!r}\n"


def test_key_without_its_form_is_refused_with_the_way_to_ask_for_it(run: Run, car: Path) -> None:
    for key in ("odd", "a/b/c", "/a"):
        code, out, err = run("get", car, key)
        assert (code, out) == (2, "")
        said = " ".join(err.split())
        assert f"argument KEY: {key!r} is not a key: " in said
        assert "if it has that form in the repo: --exact" in said
    code, _, err = run("get", car, "at:/did:plc:someone/app.bsky.feed.like/1")
    assert code == 2
    assert "--exact" not in err.splitlines()[-1]


def test_options_can_come_between_car_and_key(run: Run, car: Path) -> None:
    assert run("get", car, "--json", f"{LIKE}/1") == run("get", "--json", car, f"{LIKE}/1")
    for more in ([f"{LIKE}/1", POST], ["--jsn"], ["k\udcff"]):
        code, out, err = run("get", car, "--json", *more)
        assert (code, out) == (2, "")
        assert "usage: repo-stream get" in err


@BOTH_WAYS
@pytest.mark.parametrize("key", [f"{LIKE}/1", f"at://{DID}/{LIKE}/1"], ids=["key", "URI"])
def test_get_gives_one_record(run: Run, car: Path, key: str, limit: str) -> None:
    code, out, err = run("get", car, key, "--mem-limit-mb", limit)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "key": f"{LIKE}/1",
        "cid": str(Cid(build_repo(RECORDS).records[f"{LIKE}/1"])),
        "value": {"n": 1},
    }


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        pytest.param(
            f"at://did:plc:other/{LIKE}/1",
            f"names the account did:plc:other; this repo is of {DID}",
            id="another account",
        ),
        pytest.param(f"at://alice.example.com/{LIKE}/1", "use the DID instead", id="handle"),
    ],
)
def test_uri_that_does_not_name_the_account_is_wrong_usage(
    run: Run, car: Path, uri: str, reason: str
) -> None:
    code, out, err = run("get", car, uri)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"repo-stream: {car}: ")
    assert reason in err


def test_get_of_a_key_that_is_not_there_says_so(run: Run, car: Path) -> None:
    code, out, err = run("get", car, f"{LIKE}/\x1b")
    assert (code, out) == (1, "")
    assert "no record" in err
    assert err.replace("\n", "").isprintable()
