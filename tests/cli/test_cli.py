"""The shell command: what it prints, what it says of bad input, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from repo_stream import Cid
from repo_stream.cli import main
from repo_stream.cli.interrupts import at_once, interruptible
from repo_stream.testing import RawRecord, build_car, build_repo, cid_of, write_car
from support import ROOT, SAMPLE, replaced, shared
from support.keys import did_key, signer

FULL = Path("/dev/full")  # a disk without room

# A k256 key that signed none of these repos.
KEY = "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc"

CURVES = {"k256": ec.SECP256K1(), "p256": ec.SECP256R1()}

POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"
RECORDS = {f"{POST}/3jzfcijpj2z2{end}": {"text": end} for end in "abc"} | {f"{LIKE}/1": {"n": 1}}
SIZE = {POST: 3 * len(b"\xa1\x64text\x61a"), LIKE: len(b"\xa1\x61n\x01")}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def as_people_have_it() -> Iterator[None]:
    """Have the commands hear Ctrl-C where these tests were started deaf to it, as by `&`.

    And have their output buffered, as it is by default.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; give its exit code, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code: object = main([str(argument) for argument in arguments])
        except SystemExit as usage:
            code = usage.code
        out, err = capsys.readouterr()
        return cast("int", code), out, err

    return run


@pytest.fixture
def car(tmp_path: Path) -> Path:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car(RECORDS, did="did:plc:someone", rev="3jzfcijpj2z2a"))
    return path


def report(text: str) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Read a report back: the lines above the table, and the table of collections."""
    above, below, *_ = text.split("\n\n")
    facts = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in above.splitlines()}
    rows = [line.split() for line in below.splitlines()[2:] if not line.startswith("---")]
    return facts, {
        name: tuple(int(figure.replace(",", "")) for figure in figures) for name, *figures in rows
    }


# --- What it prints -----------------------------------------------------------------------------


def test_prints_whose_repo_it_is_and_what_is_in_it(run: Run, car: Path) -> None:
    code, out, err = run("inspect", car)
    facts, collections = report(out)
    assert (code, err) == (0, "")
    total = SIZE[LIKE] + SIZE[POST]
    assert facts == {
        "DID": "did:plc:someone",
        "Rev": "3jzfcijpj2z2a, 2023-06-30 15:03:01 UTC",
        "Commit": str(
            Cid(build_repo(RECORDS, did="did:plc:someone", rev="3jzfcijpj2z2a").commit_cid)
        ),
        "CAR": f"{car.stat().st_size} bytes, {total} of them records",
        "Tree": "2 levels, 3 nodes, 1.3 entries a node",
        "Order": "not streamable: up to 4 blocks come early",
        "Walked": "in memory (limit 16 MiB)",
    }
    assert collections == {
        LIKE: (1, SIZE[LIKE], SIZE[LIKE], SIZE[LIKE]),
        POST: (3, SIZE[POST], SIZE[POST] // 3, SIZE[POST] // 3),
        "Total": (4, total, round(total / 4), SIZE[POST] // 3),
    }


def test_goes_through_a_temporary_file(run: Run, car: Path) -> None:
    in_memory = report(run("inspect", car)[1])[1]
    code, out, err = run("inspect", car, "--mem-limit-mb", "0")
    facts, collections = report(out)
    assert (code, err) == (0, "")
    assert facts["Walked"] == "through the disk (memory limit 0 MiB): a temporary file"
    assert collections == in_memory
    assert os.listdir(car.parent) == ["repo.car"]  # noqa: PTH208 - names are what matters


def test_goes_through_the_file_given_and_leaves_it_emptied(
    run: Run, car: Path, tmp_path: Path
) -> None:
    store = tmp_path / "spill.db"
    for _ in range(2):
        code, out, err = run("inspect", SAMPLE, "--mem-limit-mb", "0", "--disk", store)
        assert (code, err) == (0, "")
        assert report(out)[0]["Walked"].endswith(f": {store}")
        assert store.stat().st_size < SAMPLE.stat().st_size / 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [car.name, store.name]


def test_makes_no_store_where_everything_fits(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "spill.db"
    assert run("inspect", car, "--disk", store)[0] == 0
    assert not store.exists()


def test_takes_a_fraction_of_a_mebibyte(run: Run) -> None:
    out = run("inspect", SAMPLE, "--mem-limit-mb", "0.05")[1]
    assert report(out)[0]["Walked"].startswith("through the disk (memory limit 0.05 MiB)")


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
@pytest.mark.parametrize(
    ("name", "records", "size"),
    [("empty", 0, 0), ("tiny", 8, 2_071), ("little", 278, 246_960), ("midsize", 11_585, 3_741_393)],
)
def test_counts_real_repos(run: Run, name: str, records: int, size: int, limit: str) -> None:
    code, out, _ = run("inspect", shared(f"cars/{name}.car"), "--mem-limit-mb", limit)
    assert code == 0
    assert report(out)[1]["Total"][:2] == (records, size)


def test_empty_repo_has_a_total_of_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.car"
    path.write_bytes(build_car({}))
    code, out, _ = run("inspect", path)
    assert code == 0
    assert report(out)[1] == {"Total": (0, 0, 0, 0)}


def test_fits_80_columns_and_lines_up(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    long = "x" * 78
    path.write_bytes(build_car({f"{long}/a": {"n": 1}, f"{'y' * 40}/a": {"n": 2}, **RECORDS}))
    _, out, _ = run("inspect", path)
    table = out.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 80
    after_long = table[table.index(long) + 1]
    assert after_long.split() == ["1", "4", "4", "4"]
    assert {len(line) for line in table if line != long} == {len(table[0])}


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        pytest.param("\x1b[2J\x07evil/a", r"\x1b[2J\x07evil", id="escape sequences"),
        pytest.param("\x1b" * 100 + "/a", r"\x1b" * 19 + "\\...", id="longer than a line"),
        pytest.param("two\nlines/a", r"two\nlines", id="line break"),
        pytest.param("caf\u00e9\u202e/a", r"caf\xe9\u202e", id="not ASCII"),
        pytest.param("nocollection", "(none)", id="no slash"),
        pytest.param("/a", "(none)", id="nothing before the slash"),
    ],
)
def test_hostile_names_are_shown_harmlessly(run: Run, tmp_path: Path, key: str, shown: str) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({key: {"n": 1}}))
    code, out, _ = run("inspect", path)
    assert code == 0
    rows = " ".join(out.split("\n\n")[1].splitlines()[2:-2])
    assert rows.split() == [shown, "1", "4", "4", "4"]
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("records", [1, 2, 30, 2_000])
def test_tree_has_the_nodes_that_the_file_has(run: Run, tmp_path: Path, records: int) -> None:
    repo = build_repo({f"a.b.c/{number}": {"n": number} for number in range(records)})
    path = tmp_path / "repo.car"
    path.write_bytes(repo.to_car())
    tree = json.loads(run("inspect", path, "--json")[1])["tree"]
    assert tree["nodes"] == len(set(repo.blocks)) - records - 1
    assert sum(layer["entries"] for layer in tree["layers"]) == records
    assert sum(layer["nodes"] for layer in tree["layers"]) == tree["nodes"]


def test_names_the_largest_collections_and_counts_the_others(run: Run, tmp_path: Path) -> None:
    small = {f"a.b.c{number:04}/{end}": {"n": 1} for number in range(950) for end in "x"}
    large = {f"a.b.c{number:04}/{end}": {"n": 1} for number in range(950, 1_000) for end in "xy"}
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({**small, **large, "nowhere": {"n": 1}, "/a": {"n": 1}}))
    out = run("inspect", path)[1]
    found = json.loads(run("inspect", path, "--json")[1])
    assert len(found["collections"]) == 201
    assert found["collections"][""]["records"] == 2
    assert {key.partition("/")[0] for key in large} <= set(found["collections"])
    assert found["other_collections"] == {
        "collections": 800,
        "records": 800,
        "bytes": 800 * 4,
        "largest": 4,
    }
    named = sum(tally["records"] for tally in found["collections"].values())
    assert named + 800 == found["records"] == 1_052
    assert "(800 others)" in out
    assert len(out.splitlines()) < 230


# --- Records ------------------------------------------------------------------------------------


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ls_gives_keys_and_cids_in_order(run: Run, car: Path) -> None:
    repo = build_repo(RECORDS)
    expected = [(key, str(Cid(repo.records[key]))) for key in sorted(RECORDS)]
    code, out, err = run("ls", car)
    assert (code, err) == (0, "")
    assert [tuple(line.split("\t")) for line in out.splitlines()] == expected
    listed = lines(run("ls", car, "--json")[1])
    assert [(line["rkey"], line["cid"]) for line in listed] == expected


def test_keys_that_look_alike_are_told_apart_and_json_has_them_exact(
    run: Run, tmp_path: Path
) -> None:
    keys = ["a/\x1b[2J", "a/\\x1b[2J", "a/\u202e\x85", 'a/"\n']
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({key: {"n": 1} for key in keys}))
    shown = run("ls", path)[1].splitlines()
    assert len({line.split("\t")[0] for line in shown}) == len(shown) == 4
    assert all(line.replace("\t", "").isprintable() for line in shown)
    for command in ("ls", "export"):
        flags = ["--json"] if command == "ls" else []
        out = run(command, path, *flags)[1]
        assert {json.loads(line)["rkey"] for line in out.split("\n")[:-1]} == set(keys)


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_export_gives_every_record(run: Run, car: Path, limit: str) -> None:
    code, out, err = run("export", car, "--mem-limit-mb", limit)
    assert (code, err) == (0, "")
    assert [(line["rkey"], line["value"]) for line in lines(out)] == sorted(RECORDS.items())


def test_export_writes_a_file(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "records.jsonl"
    assert run("export", car, "-o", target) == (0, "", "")
    assert target.read_text() == run("export", car)[1]
    assert not (tmp_path / "records.jsonl.part").exists()


def test_export_of_a_bad_repo_leaves_no_file(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    kept = [item for item in repo.blocks.items() if item[0] != repo.records[f"{LIKE}/1"]]
    path = tmp_path / "bad.car"
    path.write_bytes(write_car([repo.commit_cid], kept))
    for form in ("jsonl", "parquet"):
        code, out, err = run("export", path, "-o", tmp_path / "records", "--format", form)
        assert (code, out, err.count("\n")) == (1, "", 1)
    assert [item.name for item in tmp_path.iterdir()] == ["bad.car"]


def test_export_to_a_dash_is_to_standard_output(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("export", car, "-o", "-") == run("export", car)
    assert list(tmp_path.iterdir()) == [car]


@pytest.mark.parametrize("named_as", ["itself", "a link", "another link", "standard input"])
def test_export_does_not_take_the_place_of_its_car(
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


def test_export_writes_the_file_that_a_link_leads_to(run: Run, car: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "records.jsonl", tmp_path / "link"
    link.symlink_to(target)
    for _ in ("new", "there"):
        assert run("export", car, "-o", link) == (0, "", "")
        assert link.is_symlink()
        assert target.read_text() == run("export", car)[1]


def test_export_leaves_files_alone_that_it_did_not_make(
    run: Run, car: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "records.jsonl.part"
    mine.write_text("mine")
    assert run("export", car, "-o", tmp_path / "records.jsonl") == (0, "", "")
    assert mine.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A repo with a record that is not there, two that are none, and two that are fine."""
    repo = build_repo(
        {
            "a.b.c/1": {"n": 1},
            "a.b.c/2": RawRecord(b"\xa1\x61n\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00"),
            "a.b.c/3": {"n": 3},
            "a.b.c/4": RawRecord(b"nothing"),
            "a.b.c/5": {"n": 5},
        }
    )
    kept = [item for item in repo.blocks.items() if item[0] != repo.records["a.b.c/3"]]
    path = tmp_path / "bad.car"
    path.write_bytes(write_car([repo.commit_cid], kept))
    return path


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_export_leaves_bad_records_out_where_it_is_told_to(run: Run, bad: Path, limit: str) -> None:
    code, out, err = run("export", bad, "--skip-bad", "--mem-limit-mb", limit)
    assert [line["rkey"] for line in lines(out)] == ["a.b.c/1", "a.b.c/5"]
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(
        f"repo-stream: {bad}: 3 records were left out; the first: record 'a.b.c/2'"
    )
    assert "float" in err


def test_export_says_how_to_go_past_a_bad_record(run: Run, bad: Path) -> None:
    code, _, err = run("export", bad)
    assert code == 1
    assert "'a.b.c/2'" in err
    assert "--skip-bad" in err
    assert "processor" not in err  # nobody at a shell gave one
    assert "--skip-bad" not in run("get", bad, "a.b.c/2")[2]  # there is nothing else to give
    assert "processor" not in run("verify", bad)[1]


def test_export_of_a_good_repo_leaves_nothing_out(run: Run, car: Path, tmp_path: Path) -> None:
    assert run("export", car, "--skip-bad") == run("export", car)
    target = tmp_path / "records.jsonl"
    assert run("export", car, "--skip-bad", "-o", target) == (0, "", "")
    assert target.exists()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_export_without_its_bad_records_makes_a_file(
    run: Run, bad: Path, tmp_path: Path, form: str
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / "records"
    code, out, _ = run("export", bad, "--skip-bad", "-o", target, "--format", form)
    assert (code, out) == (1, "")
    assert target.stat().st_size


def test_export_to_no_directory_gives_one_line(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "records.jsonl"
    expected = f"repo-stream: {target}: No such file or directory\n"
    assert run("export", car, "-o", target) == (1, "", expected)


def test_export_writes_parquet(run: Run, tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "records.parquet"
    assert run("export", SAMPLE, "--format", "parquet", "-o", target) == (0, "", "")
    rows = parquet.read_table(target).to_pylist()
    expected = lines(run("export", SAMPLE)[1])
    assert [{**row, "value": json.loads(row["value"])} for row in rows] == expected


def test_export_without_pyarrow_names_the_extra(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path in (car, "nowhere.car"):  # said before anything is read
        code, out, err = run("export", path, "--format", "parquet")
        assert (code, out) == (2, "")
        assert "atproto-repo-stream[parquet]" in err


def test_get_gives_one_record(run: Run, car: Path) -> None:
    code, out, err = run("get", car, f"{LIKE}/1")
    assert (code, err) == (0, "")
    assert json.loads(out)["value"] == {"n": 1}


def test_get_of_an_absent_key_says_so(run: Run, car: Path) -> None:
    code, out, err = run("get", car, f"{LIKE}/\x1b")
    assert (code, out) == (1, "")
    assert "no record" in err
    assert err.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", ["ls", "export"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--collection", LIKE], [f"{LIKE}/1"]),
        (["--collection", LIKE, "--collection", POST], sorted(RECORDS)),
        (["--collection", "app.bsky.feed"], []),
        (["--range", POST, ""], [key for key in sorted(RECORDS) if key.startswith(POST)]),
        (["--range", "", f"{POST}/3jzfcijpj2z2a"], [f"{LIKE}/1"]),
        (["--range", f"{POST}/3jzfcijpj2z2b", f"{POST}/3jzfcijpj2z2c"], [f"{POST}/3jzfcijpj2z2b"]),
    ],
)
def test_only_what_is_asked_for(
    run: Run, car: Path, command: str, flags: list[str], expected: list[str]
) -> None:
    form = ["--json"] if command == "ls" else []
    code, out, err = run(command, car, *form, *flags)
    assert (code, err) == (0, "")
    assert [line["rkey"] for line in lines(out)] == expected


def test_ls_needs_no_records(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    records = set(repo.records.values())
    path = tmp_path / "bare.car"
    nodes = [item for item in repo.blocks.items() if item[0] not in records]
    path.write_bytes(write_car([repo.commit_cid], nodes))
    code, out, err = run("ls", path)
    assert (code, err) == (0, "")
    assert [line.split("\t")[0] for line in out.splitlines()] == sorted(RECORDS)


# --- verify -------------------------------------------------------------------------------------


def statuses(out: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(out)["checks"]}


def test_verify_reports_every_check(run: Run, car: Path) -> None:
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


@pytest.mark.parametrize(
    ("key", "code"), [(KEY, 1), ("did:plc:someone", 2), ("nonsense", 2)], ids=str
)
def test_verify_with_a_key_that_did_not_sign(run: Run, car: Path, key: str, code: int) -> None:
    ended, out, err = run("verify", car, "--key", key, "--json")
    assert ended == code
    if code == 1:
        report = json.loads(out)
        assert (report["ok"], err) == (False, "")
        assert statuses(out)["signature"] == "failed"
        assert statuses(out)["tree"] == statuses(out)["records"] == "ok"
    else:
        assert out == ""
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        pytest.param(build_car(RECORDS)[:-1], "car", id="cut short"),
        pytest.param(b"nonsense", "car", id="no CAR"),
        pytest.param(
            build_car(RECORDS).replace(b"\x64text\x61a", b"\x64text\x61x"), "blocks", id="forged"
        ),
        pytest.param(
            build_car({"a/b": RawRecord(b"\xa1\x61n\x18\x01")}), "records", id="not canonical"
        ),
    ],
)
def test_verify_says_which_check_failed(run: Run, tmp_path: Path, data: bytes, failed: str) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    assert [name for name, status in statuses(out).items() if status == "failed"] == [failed]
    code, out, _ = run("verify", path)
    assert code == 1
    assert "The repo does not hold." in out


@pytest.mark.parametrize(
    ("fault", "car"), [("missing", "ok"), ("bad", "skipped")], ids=["missing", "bad"]
)
def test_verify_claims_nothing_of_what_it_has_not_read(
    run: Run, tmp_path: Path, fault: str, car: str
) -> None:
    repo = build_repo(RECORDS)
    bad = b"\xa0"
    root = repo.commit_cid if fault == "missing" else cid_of(bad)
    others = [item for item in repo.blocks.items() if item[0] != repo.commit_cid]
    path = tmp_path / "bad.car"
    path.write_bytes(write_car([root], others if fault == "missing" else [(root, bad), *others]))
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    assert statuses(out)["commit"] == "failed"
    assert statuses(out)["car"] == statuses(out)["blocks"] == car


def test_verify_goes_on_past_bad_records_and_names_them(run: Run, tmp_path: Path) -> None:
    not_canonical = RawRecord(b"\xa1\x61n\x18\x01")
    bad = {f"a.b.c/{number:02}\x1b": not_canonical for number in range(30)}
    path = tmp_path / "bad.car"
    path.write_bytes(build_car({**RECORDS, **bad}))
    code, out, _ = run("verify", path, "--json")
    report = json.loads(out)
    assert (code, report["records"], report["bad_records"]) == (1, 34, 30)
    assert [problem["rkey"] for problem in report["problems"]] == sorted(bad)[:20]
    assert statuses(out)["tree"] == "ok"
    code, out, _ = run("verify", path)
    assert code == 1
    assert "30 of 34 are bad" in out
    assert "and 10 more" in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("curve", ["k256", "p256"])
@pytest.mark.parametrize("whose", ["the account's", "another"])
def test_verify_with_a_key(run: Run, tmp_path: Path, curve: str, whose: str) -> None:
    private, other = (ec.generate_private_key(CURVES[curve]) for _ in range(2))
    path = tmp_path / "signed.car"
    path.write_bytes(build_car(RECORDS, sign=signer(private)))
    key = did_key(private if whose == "the account's" else other)
    code, out, err = run("verify", path, "--key", key)
    report = json.loads(run("verify", path, "--key", key, "--json")[1])
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert err == ""
    assert status.pop("signature") == ("ok" if whose == "the account's" else "failed")
    assert set(status.values()) == {"ok"}
    assert max(map(len, out.splitlines())) <= 80
    if whose == "the account's":
        assert (code, report["ok"]) == (0, True)
        assert out.endswith("\nThe repo holds.\n")
    else:
        assert (code, report["ok"]) == (1, False)
        assert out.endswith("\nThe repo does not hold.\n")


# --- The order of blocks --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_order_writes_the_streamable_car(run: Run, tmp_path: Path, limit: str) -> None:
    repo, target = build_repo(RECORDS), tmp_path / "out.car"
    junk = [(cid_of(data), data) for data in (b"\xa1\x61a\x01", b"\xa1\x61a\x02")]
    path = tmp_path / "repo.car"
    path.write_bytes(repo.to_car(copies=2, extra_blocks=junk))
    blocks = len(repo.blocks)
    code, out, err = run("order", path, target, "--mem-limit-mb", limit)
    assert (code, out) == (0, "")
    dropped = f"{blocks + 2} of {2 * blocks + 2} dropped"
    assert err == f"{blocks} blocks written, {dropped}; not streamable before\n"
    assert target.read_bytes() == repo.to_car(order="stream")
    assert run("order", target, target) == (
        0,
        "",
        f"{blocks} blocks written, 0 of {blocks} dropped; streamable already\n",
    )
    assert target.read_bytes() == repo.to_car(order="stream")
    assert run("order", path, target, "-q") == (0, "", "")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.car", "repo.car"]


def test_order_says_what_it_wrote_again(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({f"a.b.c/{n}": {"n": 1} for n in range(3)}))
    report = run("order", path, tmp_path / "out.car")[2]
    assert " blocks written (2 of them again), 0 of " in report


def test_order_takes_the_place_of_its_car(run: Run, car: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.car"
    link.symlink_to(car)
    expected = build_car(RECORDS, did="did:plc:someone", rev="3jzfcijpj2z2a", order="stream")
    for source, target in ((link, car), (car, link), (car, car)):
        car.write_bytes(build_car(RECORDS, did="did:plc:someone", rev="3jzfcijpj2z2a"))
        assert run("order", source, target)[0] == 0
        assert car.read_bytes() == expected
        assert link.is_symlink()


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_order_of_a_bad_car_leaves_everything_as_it_was(
    run: Run, tmp_path: Path, limit: str
) -> None:
    repo = build_repo(RECORDS)
    path, target = tmp_path / "bad.car", tmp_path / "out.car"
    bad = repo.to_car(order="stream", omit=[repo.records[f"{LIKE}/1"]])
    for data, message in ((bad, "1' is not in the CAR"), (repo.to_car()[:-1], "fetch it again")):
        path.write_bytes(data)
        target.write_text("before")
        for output in (target, path):
            code, out, err = run("order", path, output, "--mem-limit-mb", limit)
            assert (code, out, err.count("\n")) == (1, "", 1)
            assert message in err
        assert (path.read_bytes(), target.read_text()) == (data, "before")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bad.car", "out.car"]


def test_order_bounds_what_is_written_again(run: Run, tmp_path: Path) -> None:
    path, target = tmp_path / "repo.car", tmp_path / "out.car"
    path.write_bytes(build_car({f"a.b.c/{n}": {"text": "x" * 900} for n in range(90)}))
    code, out, err = run("order", path, target, "--limit", "repeated_bytes=1000")
    assert (code, out) == (1, "")
    assert "--limit repeated_bytes=N" in err
    assert not target.exists()


def test_order_to_no_directory_gives_one_line(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out.car"
    expected = f"repo-stream: {target}: No such file or directory\n"
    assert run("order", car, target) == (1, "", expected)


def test_order_from_and_to_a_pipe(car: Path) -> None:
    done = subprocess.run(
        command("order", "-", "-", "-q"),
        input=car.read_bytes(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    expected = build_car(RECORDS, did="did:plc:someone", rev="3jzfcijpj2z2a", order="stream")
    assert done.stdout == expected


def test_order_does_not_append_to_its_own_car(car: Path) -> None:
    content = car.read_bytes()
    with car.open("ab") as appending:
        done = subprocess.run(
            command("order", car, "-"),
            stdout=appending,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert b"standard output is the CAR itself" in done.stderr
    assert car.read_bytes() == content


def test_a_car_is_not_for_a_terminal(car: Path) -> None:
    assert "not for a terminal" in on_terminal(command("order", car, "-"))


@pytest.mark.parametrize(
    ("order", "limit", "shown"),
    [
        ("stream", "16", "streamable"),
        ("stream", "0", "streamable"),
        ("export", "16", "not streamable: up to "),
        ("shuffled", "16", "not streamable: up to "),
        ("shuffled", "0", "not streamable: at least "),
    ],
)
def test_says_how_far_from_streamable(
    run: Run, tmp_path: Path, order: Any, limit: str, shown: str
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({f"a.b.c/{n}": {"n": n} for n in range(2_000)}, order=order))
    line = report(run("inspect", path, "--mem-limit-mb", limit)[1])[0]["Order"]
    assert line.startswith(shown)
    assert len(f"Order   {line}") <= 80
    found = json.loads(run("inspect", path, "--mem-limit-mb", limit, "--json")[1])["order"]
    assert found["streamable"] is (order == "stream")
    assert found["exact"] is ("at least" not in line)
    assert f"{found['most_early']:,}" in line or order == "stream"


# --- Bad input ----------------------------------------------------------------------------------


def bad_cars() -> list[object]:
    repo = build_repo(RECORDS)
    whole = build_car(RECORDS)
    kept = list(repo.blocks.items())
    missing = [(cid, data) for cid, data in kept if cid != repo.records[f"{POST}/3jzfcijpj2z2b"]]
    forged = [*missing, (repo.records[f"{POST}/3jzfcijpj2z2b"], b"\xa1\x64text\x61z")]
    return [
        pytest.param(b"", "is empty", id="nothing in it"),
        pytest.param(b"\x0a\xa1\x67version\x02", "CARv2", id="CARv2"),
        pytest.param(b"<!DOCTYPE html>", "CAR", id="a web page"),
        pytest.param(whole[:-1], "fetch it again", id="cut short"),
        pytest.param(
            write_car([repo.commit_cid], missing), "3jzfcijpj2z2b' is not in the CAR", id="missing"
        ),
        pytest.param(write_car([repo.commit_cid], forged), "has other bytes", id="forged"),
        pytest.param(write_car([repo.commit_cid], kept[1:]), "the commit", id="no commit"),
    ]


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
@pytest.mark.parametrize(("data", "message"), bad_cars())
def test_bad_car_gives_one_line(
    run: Run, tmp_path: Path, data: bytes, message: str, limit: str
) -> None:
    path = tmp_path / "bad.car"
    path.write_bytes(data)
    code, out, err = run("inspect", path, "--mem-limit-mb", limit)
    assert (code, out) == (1, "")
    assert err.startswith(f"repo-stream: {path}: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "ls", "export", "verify"])
def test_limit_that_is_too_low_can_be_raised_from_here(
    run: Run, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({"a.b/c": {"text": "x" * 3_000_000}}))
    code, out, err = run(command, path)
    assert code == 1
    said = " ".join((out + err).split())
    assert "--limit block_bytes=N" in said
    assert "DriverBuilder" not in said
    assert run(command, path, "--limit", "block_bytes=4000000")[0] == 0


def test_server_that_said_no_is_quoted_harmlessly(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(b'{"error":"RepoNotFound","message":"\x1b[2J\xc2\x9b2J"}')
    code, out, err = run("ls", path)
    assert (code, out) == (1, "")
    assert "no CAR file but JSON" in err
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


def test_foreign_file_is_refused_and_unharmed(run: Run, car: Path) -> None:
    before = car.read_bytes()
    code, out, err = run("inspect", car, "--mem-limit-mb", "0", "--disk", car)
    assert (code, out) == (1, "")
    assert str(car) in err
    assert err.count("\n") == 1
    assert car.read_bytes() == before


def test_store_in_no_directory_gives_one_line(run: Run, car: Path, tmp_path: Path) -> None:
    store = tmp_path / "nowhere" / "spill.db"
    code, out, err = run("inspect", car, "--mem-limit-mb", "0", "--disk", store)
    assert (code, out) == (1, "")
    assert str(store) in err
    assert err.count("\n") == 1


def test_store_that_cannot_be_opened_leaves_no_thread_in_trouble(
    run: Run, car: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread of SQLite's that outlives the event loop prints a traceback after the line.
    troubles: list[object] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    for _ in range(30):
        run("inspect", car, "--mem-limit-mb", "0", "--disk", tmp_path / "nowhere" / "spill.db")
    assert troubles == []


# --- Usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["a.car"], id="no command, a file"),
        pytest.param(["inspect"], id="no file"),
        pytest.param(["get", "a.car"], id="no key"),
        pytest.param(["inspect", "a.car", "b.car"], id="two files"),
        pytest.param(["inspect", "a.car", "--wrong"], id="unknown option"),
        pytest.param(["inspect", "a.car", "--disk"], id="option without its value"),
        pytest.param(["export", "a.car", "--format", "xml"], id="unknown format"),
        pytest.param(["ls", "a.car", "--range", "b", "a"], id="range that ends before it starts"),
        pytest.param(["ls", "a.car", "--collection", "a/b"], id="key as a collection"),
        *(
            pytest.param([*arguments, "\udcff"], id=f"{arguments[-1]} that is no text")
            for arguments in (["get", "a.car"], ["ls", "a.car", "--collection"])
        ),
        *(
            pytest.param(["inspect", "a.car", "--mem-limit-mb", limit], id=f"limit {limit}")
            for limit in ("x", "-1", "nan", "inf", "1e308")
        ),
        *(
            pytest.param(["inspect", "a.car", "--limit", limit], id=f"limit {limit}")
            for limit in ("blocks", "blocks=", "blocks=-1", "block=1", "=1")
        ),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: repo-stream")


def test_help(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("inspect", "--help")
    assert (code, err) == (0, "")
    assert {"CAR", "--mem-limit-mb", "--disk"} <= set(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_version_is_that_of_the_package(run: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert run("--version") == (0, f"repo-stream {project['version']}\n", "")


# --- As a process of its own --------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "repo_stream", *map(str, arguments)]


def test_runs_as_a_module(car: Path) -> None:
    done = subprocess.run(
        command("inspect", car), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert report(done.stdout)[1]["Total"][0] == len(RECORDS)


def test_bad_input_leaves_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        command("inspect", tmp_path / "nowhere.car"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_reader_that_goes_away_ends_it_quietly(car: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("inspect", car), stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_the_output_gives_one_line(car: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("inspect", car),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "repo-stream: standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_export_writes_a_pipe_that_has_a_path() -> None:
    named, plain = (
        subprocess.run(
            command("export", SAMPLE, *flags), capture_output=True, timeout=60, check=False
        )
        for flags in (("-o", "/dev/stdout"), ())
    )
    assert (named.returncode, named.stderr) == (0, b"")
    assert named.stdout == plain.stdout


NO_OUTPUT, NO_INPUT = "standard output: Bad file descriptor", "-: Bad file descriptor"


@pytest.mark.skipif(os.name != "posix", reason="needs a shell's redirections")
@pytest.mark.parametrize(
    ("redirections", "arguments", "code", "complaint"),
    [
        pytest.param(">&-", ("ls", SAMPLE), 1, NO_OUTPUT, id="output"),
        pytest.param(">&-", ("export", SAMPLE), 1, NO_OUTPUT, id="output as bytes"),
        pytest.param("<&-", ("ls", "-"), 1, NO_INPUT, id="input"),
        pytest.param("2>&-", ("ls", SAMPLE), 0, "", id="errors"),
        pytest.param("2>&-", ("ls", "nowhere.car"), 1, "", id="errors, of which there is one"),
        pytest.param("2>&-", ("nonsense",), 2, "", id="errors, of which there is one in the usage"),
        pytest.param(">&- 2>&- <&-", ("ls", SAMPLE), 1, "", id="all of them"),
    ],
)
def test_closed_file_gives_one_line_at_most(
    redirections: str, arguments: tuple[str | Path, ...], code: int, complaint: str
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command(*arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (code, 0 if code else 500)
    assert done.stderr == (f"repo-stream: {complaint}\n" if complaint else "")


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_ctrl_c_ends_it_quietly(tmp_path: Path, limit: str) -> None:
    # A pipe that never ends holds the load at a known place: it has read what was written.
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        command("inspect", fifo, "--mem-limit-mb", limit),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # Opening waits for the reader, so by then the command is at work.
        with fifo.open("wb", buffering=0) as pipe:
            pipe.write(SAMPLE.read_bytes()[:5_000])
            process.send_signal(signal.SIGINT)
            # The read that was under way ends with the file.
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.fixture(params=["script", "module"])
def entry(request: pytest.FixtureRequest) -> list[str]:
    """The command as the installed script starts it, and as a module."""
    if request.param == "module":
        return [sys.executable, "-m", "repo_stream"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["repo-stream"].partition(":")
    script = f"import sys; from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-c", script]


@pytest.mark.parametrize("heard_as", ["KeyboardInterrupt", "ImportError"])
@pytest.mark.parametrize("imported", ["argparse", "anyio", "asyncio"])
def test_ctrl_c_while_it_imports_ends_it_quietly(
    entry: list[str], imported: str, heard_as: str, tmp_path: Path
) -> None:
    # What it imports sends Ctrl-C to it; some modules make another exception of that.
    interrupting = f"""
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt as error:
    raise {heard_as} from error
"""
    (tmp_path / f"{imported}.py").write_text(interrupting)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*entry, "inspect", SAMPLE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


# Started where Ctrl-C was turned off, as by `nohup` or `&`, it stays off.
DEAF = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "


def test_ctrl_c_again_and_again_ends_it_no_worse(entry: list[str], tmp_path: Path) -> None:
    target, store = tmp_path / "records.jsonl", tmp_path / "spill.db"
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*entry, "export", "-", "-o", target, "--mem-limit-mb", "0", "--disk", store],
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        os.write(writing, SAMPLE.read_bytes()[:60_000])
        for _ in range(1_000):
            if store.exists():
                break
            time.sleep(0.01)
        for _ in range(200):
            process.send_signal(signal.SIGINT)
            if process.poll() is not None:
                break
            time.sleep(0.001)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
    # At its very end Python turns the signal back into the system's own, which says the same.
    assert process.returncode in {130, -signal.SIGINT}
    assert (out, err) == (b"", b"")
    assert os.listdir(tmp_path) == [store.name]  # noqa: PTH208 - names are what matters


def test_ctrl_c_ends_the_wait_for_a_pipe_that_nobody_writes_to(
    entry: list[str], tmp_path: Path
) -> None:
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    process = subprocess.Popen([*entry, "ls", fifo], stderr=subprocess.PIPE)
    try:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, b"")


def test_ctrl_c_that_was_turned_off_stays_off(entry: list[str], tmp_path: Path) -> None:
    fifo = tmp_path / "repo.car"
    os.mkfifo(fifo)
    program = f"{DEAF}os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *entry, "ls", fifo],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with fifo.open("wb", buffering=0) as pipe:  # opened by both: it is at work
            process.send_signal(signal.SIGINT)
            pipe.write(SAMPLE.read_bytes())
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, len(out.splitlines()), err) == (0, 500, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_prints_in_any_encoding(car: Path, tmp_path: Path, encoding: str) -> None:
    store = tmp_path / "sp\u00efll\u2713.db"
    done = subprocess.run(
        command("inspect", car, "--mem-limit-mb", "0", "--disk", store),
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert store.name.encode(encoding, "backslashreplace") in done.stdout


@pytest.mark.parametrize("limit", ["16", "0"], ids=["in memory", "through the disk"])
def test_reads_standard_input(car: Path, limit: str) -> None:
    with car.open("rb") as file:
        from_file = subprocess.run(
            command("ls", "-", "--mem-limit-mb", limit),
            stdin=file,
            capture_output=True,
            timeout=60,
            check=False,
        )
    from_pipe = subprocess.run(
        command("ls", "-", "--mem-limit-mb", limit),
        input=car.read_bytes(),
        check=False,
        capture_output=True,
        timeout=60,
    )
    for done in (from_file, from_pipe):
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(done.stdout.splitlines()) == len(RECORDS)


def test_empty_standard_input_gives_one_line() -> None:
    done = subprocess.run(
        command("inspect", "-"),
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "is empty" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_the_wait_for_a_pipe_that_says_nothing() -> None:
    process = subprocess.Popen(
        command("inspect", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        # More than a pipe holds: when it is written, the command is at work.
        process.stdin.write(SAMPLE.read_bytes()[:150_000])
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.returncode, process.stdout.read(), process.stderr.read()) == (130, b"", b"")
    finally:
        process.kill()
        process.communicate()


LONG = "long.car"


@pytest.fixture(scope="module")
def long_car(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo of which no command's output fits into a pipe, however it is compressed."""
    path = tmp_path_factory.mktemp("long") / LONG
    noise = random.Random(1)
    records = {f"{POST}/{n:013}": {"text": noise.randbytes(40).hex()} for n in range(3000)}
    path.write_bytes(build_car(records))
    return path


@pytest.mark.parametrize("delay", [0.0, 0.3])
@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", LONG),
        ("export", LONG),
        ("export", LONG, "-o", "/dev/stdout"),
        ("export", LONG, "--format", "parquet"),
        ("export", LONG, "--format", "parquet", "-o", "/dev/stdout"),
        ("order", LONG, "-"),
        ("order", LONG, "/dev/stdout"),
    ],
    ids=lambda arguments: " ".join(["repo-stream", *map(str, arguments)]),
)
def test_ctrl_c_ends_what_nobody_reads(
    arguments: tuple[str, ...], delay: float, long_car: Path
) -> None:
    chosen = [long_car if argument == LONG else argument for argument in arguments]
    process = subprocess.Popen(command(*chosen), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)  # it is at work, and the pipe is too small for the rest
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        assert (process.returncode, process.stderr.read()) == (130, b"")
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_is_heard_as_before_when_the_command_is_over(run: Run) -> None:
    def ours(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    hears, tells = socket.socketpair()
    with hears, tells:
        tells.settimeout(0)
        handler = signal.signal(signal.SIGINT, ours)
        wakeup = signal.set_wakeup_fd(tells.fileno())
        try:
            assert run("ls", SAMPLE)[0] == 0
            assert signal.getsignal(signal.SIGINT) is ours
            assert signal.set_wakeup_fd(wakeup) == tells.fileno()
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGINT, handler)


def test_ctrl_c_before_a_call_that_waits_ends_it_before_it_waits() -> None:
    async def interrupted() -> None:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            with at_once():
                pytest.fail("it would wait for ever, and keep the event loop from ending it")

    with pytest.raises(KeyboardInterrupt):
        anyio.run(interrupted)


def test_ctrl_c_wakes_a_loop_that_is_just_falling_asleep() -> None:
    # Another thread hears the signal, so that it does not interrupt what the main thread waits for.
    async def asleep() -> float:
        with interruptible() as scope:
            timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
            began = time.monotonic()
            timer.start()
            await anyio.sleep(20)
        timer.join()
        assert scope.cancelled_caught
        return time.monotonic() - began

    assert anyio.run(asleep) < 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", SAMPLE),
        ("export", SAMPLE),
        ("export", "--format", "parquet", SAMPLE),
        ("order", SAMPLE, "-"),
    ],
)
def test_reader_that_leaves_midway_ends_it_quietly(arguments: tuple[str | Path, ...]) -> None:
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    try:
        assert (process.wait(timeout=60), process.stderr.read()) == (141, b"")
    finally:
        process.kill()
        process.stderr.close()


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_bad_record_and_bad_output_are_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.car"
    records = {f"{POST}/{n:013}": {"text": "x"} for n in range(300)}
    path.write_bytes(build_car(records | {f"{POST}/{299:013}": RawRecord(b"\xff\xff")}))
    with FULL.open("wb") as full:
        done = subprocess.run(
            command("export", path, "--format", kind),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            text=True,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


@pytest.mark.parametrize("room", [0, 100, 10_000])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_file_that_cannot_grow_is_named(kind: str, room: int, tmp_path: Path) -> None:
    target = tmp_path / "records"
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
from repo_stream.cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "export", SAMPLE, "--format", kind, "-o", target],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"repo-stream: {target}: File too large\n"
    assert list(tmp_path.iterdir()) == []


# --- On a terminal ------------------------------------------------------------------------------

termios = pytest.importorskip("termios")


def on_terminal(arguments: list[str], *, drip: bytes | None = None, term: str = "xterm") -> str:
    """Run the command on a terminal of 80 columns; give what the terminal was sent."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": term, "COLUMNS": "80"},
    )
    os.close(theirs)
    assert process.stdin is not None
    seen = bytearray()
    try:
        with process.stdin as pipe:
            for at in range(0, len(drip or b""), 20_000):
                pipe.write((drip or b"")[at : at + 20_000])
                pipe.flush()
                time.sleep(0.1)
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 65536):
                seen += piece
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen.decode()


def test_progress_is_seen_and_leaves_no_trace() -> None:
    pytest.importorskip("rich")
    shown = on_terminal(command("inspect", "-"), drip=SAMPLE.read_bytes())
    assert "Reading" in shown
    assert "500 records" in shown
    assert "kB" in shown
    after = shown.rpartition("\x1b[2K")[2]
    assert "DID" in after
    assert "Reading" not in after


@pytest.mark.parametrize("how", ["quiet", "fast", "dumb"])
def test_progress_stays_away(how: str) -> None:
    flags = ["-q"] if how == "quiet" else []
    arguments = command("inspect", SAMPLE if how == "fast" else "-", *flags)
    drip = None if how == "fast" else SAMPLE.read_bytes()
    shown = on_terminal(arguments, drip=drip, term="dumb" if how == "dumb" else "xterm")
    assert shown.startswith("DID")
    assert "\x1b" not in shown


def test_terminal_gets_a_record_spread_out_and_harmless(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    text = "\x1b[2J\x9b2J\u202e\u2713"
    path.write_bytes(build_car({"a.b/c": {"text": text}}))
    for arguments in (("get", path, "a.b/c"), ("export", path)):
        shown = on_terminal(command(*arguments)).replace("\r\n", "\n")
        assert json.loads(shown)["value"] == {"text": text}
        assert shown.replace("\n", "").isprintable()
        assert (shown.count("\n") > 1) == (arguments[0] == "get")


def test_parquet_is_not_for_a_terminal() -> None:
    shown = on_terminal(command("export", SAMPLE, "--format", "parquet"))
    assert "-o" in shown
    assert "PAR1" not in shown
