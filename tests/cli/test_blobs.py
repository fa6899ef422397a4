"""`repo-stream blobs`: the blobs that records refer to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repo_stream import Cid
from repo_stream.testing import Link, RawRecord, build_car, build_repo, cid_of
from support.cli import BOTH_WAYS, LIKE, POST, Run, lines

CIDS = [Cid(cid_of(b"file %d" % number, 0x55)) for number in range(4)]


def image(number: int, **other: Any) -> dict[str, Any]:
    fields = {"$type": "blob", "ref": Link(CIDS[number]), "mimeType": "image/jpeg", "size": 1000}
    return {name: value for name, value in (fields | other).items() if value is not None}


LEGACY = {"cid": str(CIDS[3]), "mimeType": "image/png"}
RECORDS: dict[str, dict[str, Any]] = {
    f"{LIKE}/1": {"n": 1},
    f"{POST}/1": {"embed": {"images": [{"image": image(0)}, {"image": image(1)}]}},
    f"{POST}/2": {"embed": image(0)},
    f"{POST}/3": {"avatar": image(2), "banner": image(2), "old": LEGACY},
}
#: CID, MIME type, size and key.
EXPECTED = [
    (str(CIDS[0]), "image/jpeg", 1000, f"{POST}/1"),
    (str(CIDS[1]), "image/jpeg", 1000, f"{POST}/1"),
    (str(CIDS[0]), "image/jpeg", 1000, f"{POST}/2"),
    (str(CIDS[3]), "image/png", None, f"{POST}/3"),
    (str(CIDS[2]), "image/jpeg", 1000, f"{POST}/3"),
]


@pytest.fixture
def car(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(RECORDS))
    return path


@BOTH_WAYS
def test_every_reference_is_listed_with_its_record(run: Run, car: Path, limit: str) -> None:
    code, out, err = run("blobs", car, "--mem-limit-mb", limit)
    assert code == 0
    assert [tuple(line.split("\t")) for line in out.splitlines()] == [
        (cid, kind, "-" if size is None else str(size), key) for cid, kind, size, key in EXPECTED
    ]
    assert err == (
        "3 records refer to 4 blobs, 3,000 bytes; the size of 1 of them is not known\n"
        "To fetch one: https://SERVER"
        "/xrpc/com.atproto.sync.getBlob?did=did:plc:testrepotestrepotestrepo&cid=CID\n"
    )


def test_json_has_the_same(run: Run, car: Path) -> None:
    code, out, _ = run("blobs", car, "--json")
    assert code == 0
    assert lines(out) == [
        {"cid": cid, "mime_type": kind, "size": size, "key": key}
        for cid, kind, size, key in EXPECTED
    ]


def test_quiet_leaves_out_the_totals_alone(run: Run, car: Path) -> None:
    out, err = run("blobs", car, "-q")[1:]
    assert err == ""
    assert len(out.splitlines()) == len(EXPECTED)


def test_lines_on_several_cars_name_the_account(run: Run, car: Path, tmp_path: Path) -> None:
    other, did = tmp_path / "other.car", "did:web:example.com%3A8080"
    other.write_bytes(build_car({"a.b.c/1": image(0)}, did=did))
    code, out, err = run("blobs", car, other)
    assert code == 0
    assert out.splitlines()[-1] == f"{CIDS[0]}\timage/jpeg\t1000\tat://{did}/a.b.c/1"
    assert err.count("getBlob?did=") == 2
    assert "getBlob?did=did:web:example.com%253A8080&cid=CID" in err
    listed = lines(run("blobs", "--json", car, other)[1])
    assert [line["did"] for line in listed] == ["did:plc:testrepotestrepotestrepo"] * 5 + [did]


def test_blobs_past_what_is_missing_are_listed(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    path = tmp_path / "bad.car"
    path.write_bytes(repo.to_car(omit=[repo.records[f"{POST}/2"]]))
    code, out, err = run("blobs", path, "--partial", "--json", "-q")
    assert code == 1
    assert [(*line.values(),) for line in lines(out)] == EXPECTED[:2] + EXPECTED[3:]
    assert f"{POST}/2" in err


@pytest.mark.parametrize(
    ("flags", "expected", "totals"),
    [
        pytest.param(
            ["--range", f"{POST}/2", f"{POST}/3"],
            EXPECTED[2:3],
            "1 record refers to 1 blob, 1,000 bytes\n",
            id="range",
        ),
        pytest.param(["--collection", POST], EXPECTED, "3 records refer to 4 blobs", id="posts"),
        pytest.param(["--collection", LIKE], [], "no record refers to a blob\n", id="likes"),
    ],
)
def test_filters_apply(
    run: Run, car: Path, flags: list[str], expected: list[Any], totals: str
) -> None:
    code, out, err = run("blobs", car, "--json", *flags)
    assert code == 0
    assert [tuple(line.values()) for line in lines(out)] == expected
    assert err.startswith(totals)
    assert ("getBlob" in err) == bool(expected)


def test_filter_that_matched_nothing_is_said(run: Run, car: Path) -> None:
    code, out, err = run("blobs", car, "-q", "--collection", "a.b.c")
    assert (code, out) == (0, "")
    assert "no record matches --collection a.b.c" in err


def test_one_blob_with_several_sizes_counts_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    sizes = [1, 2**63 - 1, None, 0]
    path.write_bytes(build_car({f"a/{n}": image(0, size=size) for n, size in enumerate(sizes)}))
    err = run("blobs", path)[2]
    assert f"4 records refer to 1 blob, {2**63 - 1:,} bytes\n" in err


def test_malformed_references_are_listed_as_far_as_possible_and_said(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "bad.car"
    bad = {"a/1": image(0, size=None), "a/2": {"x": image(1, ref=None)}, "a/3\x1b": image(2)}
    path.write_bytes(build_car(bad))
    for flags in ([], ["-q"]):
        code, out, err = run("blobs", path, *flags)
        assert code == 0
        assert out == (f"{CIDS[0]}\timage/jpeg\t-\ta/1\n{CIDS[2]}\timage/jpeg\t1000\ta/3\\x1b\n")
        assert err.startswith(
            f"repo-stream: {path}: 2 references to blobs are malformed; the first, in the record "
            "a/1: the record: size is missing\n"
        )


def test_what_strangers_wrote_is_shown_in_printable_characters(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    odd = "a\tb\x1b[2J\n"
    path.write_bytes(build_car({f"a/{odd}": image(0, mimeType=odd)}))
    out = run("blobs", path, "-q")[1]
    assert out.count("\n") == 1
    assert out.count("\t") == 3
    assert out.replace("\t", "")[:-1].isprintable()
    (line,) = lines(run("blobs", path, "-q", "--json")[1])
    assert (line["key"], line["mime_type"]) == (f"a/{odd}", odd)


def test_bad_records_end_it_or_are_left_out_on_request(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(build_car({"a/0": RawRecord(b"\xa1\x61n\x18\x01"), **RECORDS}))
    code, out, err = run("blobs", path)
    assert (code, out) == (1, "")
    assert "--skip-bad" in err
    code, out, err = run("blobs", path, "--skip-bad", "-q")
    assert code == 1
    assert len(out.splitlines()) == len(EXPECTED)
    assert "1 record was left out" in err
    repo = build_repo(RECORDS)
    path.write_bytes(repo.to_car(omit=[repo.records[f"{POST}/2"]]))
    code, out, err = run("blobs", path, "--skip-bad", "-q", "--json")
    assert code == 1
    assert len(out.splitlines()) == len(EXPECTED) - 1
    assert "1 record was left out" in err
    assert json.loads(out.splitlines()[0])["key"] == f"{POST}/1"
