"""The forms that `export` writes: chosen by the name of the file, CSV, gzip, the API's JSON."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from repo_stream import Cid
from repo_stream.cli import main
from repo_stream.testing import Link, build_car, build_repo
from support import SAMPLE, replaced
from support.cli import BOTH_WAYS, DID, LIKE, RECORDS, REV, Run, lines, small_car, wrote

COLUMNS = ["uri", "collection", "rkey", "cid", "value"]


def unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def form_of(data: bytes) -> str:
    """What a file has by its content."""
    inner = unpacked(data)
    kind = {b"PAR1": "parquet", b"uri,": "csv"}.get(inner[:4], "jsonl")
    return kind if inner == data else f"{kind}.gz"


# --- Which form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.jsonl", "jsonl"),
        ("x.JSONL", "jsonl"),
        ("x.jsonl.gz", "jsonl.gz"),
        ("x.Jsonl.GZ", "jsonl.gz"),
        ("x.csv", "csv"),
        (".csv", "csv"),
        ("x.CSV.gz", "csv.gz"),
        ("x.Parquet", "parquet"),
        ("x", "jsonl"),
        ("csv", "jsonl"),
        ("x.csv.txt", "jsonl"),
        ("x.json", "jsonl"),
        ("x.gz", "jsonl.gz"),
        ("x.ndjson.gz", "jsonl.gz"),
    ],
)
def test_name_chooses_the_form(run: Run, car: Path, tmp_path: Path, name: str, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / name
    assert run("export", car, "-o", target) == (0, "", wrote("4 records", car, target, form))
    assert form_of(target.read_bytes()) == form


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("x.parquet", "jsonl", ".parquet file, but --format is jsonl"),
        ("x.PARQUET", "csv", ".parquet file, but --format is csv"),
        ("x.csv", "parquet", ".csv file, but --format is parquet"),
        ("x.jsonl", "csv", ".jsonl file, but --format is csv"),
        ("x.jsonl.gz", "jsonl", ".jsonl.gz file, but --format is jsonl"),
        ("x.jsonl", "jsonl.gz", ".jsonl file, but --format is jsonl.gz"),
        ("x.csv.gz", "jsonl.gz", ".csv.gz file, but --format is jsonl.gz"),
        ("x.gz", "csv", ".gz file, but --format is csv"),
        ("x.gz", "parquet", ".gz file, but --format is parquet"),
        ("x.arrows", "csv", ".arrows file, but --format is csv"),
    ],
)
def test_form_that_contradicts_the_name_is_wrong_usage(
    *, run: Run, car: Path, tmp_path: Path, name: str, asked: str, said: str
) -> None:
    target = tmp_path / name
    code, out, err = run("export", car, "-o", target, "--format", asked)
    assert (code, out) == (2, "")
    assert f"-o names a {said}: {target}" in err
    assert not target.exists()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("parquet", "Parquet is compressed already; leave out .gz"),
        ("arrow", "Arrow is read without unpacking it; leave out .gz"),
    ],
)
def test_columnar_forms_are_not_compressed(
    run: Run, car: Path, tmp_path: Path, kind: str, why: str
) -> None:
    for more in ([], ["--format", kind]):
        code, out, err = run("export", car, "-o", tmp_path / f"x.{kind}.gz", *more)
        assert (code, out) == (2, "")
        assert why in err


@pytest.mark.parametrize(
    ("name", "ending"),
    [("x.csv.zst", ".zst"), ("X.JSONL.XZ", ".xz"), ("x.zip", ".zip"), ("x.xlsx", ".xlsx")],
)
@pytest.mark.parametrize("flags", [[], ["--format", "csv"]], ids=["by-name", "asked"])
def test_name_of_a_form_that_is_not_written_is_wrong_usage(
    *, run: Run, car: Path, tmp_path: Path, name: str, ending: str, flags: list[str]
) -> None:
    target = tmp_path / name
    code, out, err = run("export", car, "-o", target, *flags)
    assert (code, out) == (2, "")
    assert f"{ending} is not written; the name may end in .jsonl, .csv, .parquet or .arrow:" in err
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "form"),
    [("x.csv", "csv"), ("x.csv.gz", "csv.gz"), ("x.gz", "csv.gz"), ("x", "csv"), ("x", "jsonl.gz")],
)
def test_form_that_agrees_with_the_name_is_fine(
    run: Run, car: Path, tmp_path: Path, name: str, form: str
) -> None:
    target = tmp_path / name
    assert run("export", car, "-q", "-o", target, "--format", form) == (0, "", "")
    assert form_of(target.read_bytes()) == form


@pytest.mark.parametrize("form", ["jsonl", "csv", "jsonl.gz", "csv.gz"])
def test_standard_output_has_what_a_file_would_have(
    car: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], form: str
) -> None:
    target = tmp_path / f"x.{form}"
    assert main(["export", "-q", str(car), "-o", str(target)]) == 0
    assert main(["export", "-q", str(car), "--format", form]) == 0
    assert capsysbinary.readouterr().out == target.read_bytes()


@pytest.mark.parametrize("form", ["jsonl.gz", "csv.gz", "parquet", "arrow"])
def test_binary_forms_are_not_shown_on_a_terminal(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = run("export", car, "--format", form)
    assert (code, out) == (2, "")
    assert "cannot be shown on a terminal: name a file with -o, or use a pipe" in err


# --- gzip -----------------------------------------------------------------------------------------


def test_gzip_is_small_complete_and_always_the_same(run: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"
    for target in (one, two):
        assert run("export", SAMPLE, "-q", "-o", target) == (0, "", "")
    assert one.read_bytes() == two.read_bytes()
    text = run("export", SAMPLE, "-q")[1].encode()
    assert gzip.decompress(one.read_bytes()) == text
    # All chunks are compressed as one.
    assert one.stat().st_size < 1.05 * len(gzip.compress(text, 6))


def test_bad_repo_leaves_no_compressed_file(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS)
    path = tmp_path / "bad.car"
    path.write_bytes(repo.to_car(omit=[repo.records[f"{LIKE}/1"]]))
    for form in ("jsonl.gz", "csv", "csv.gz"):
        code, out, err = run("export", path, "-o", tmp_path / f"x.{form}")
        assert (code, out, err.count("\n")) == (1, "", 1)
    assert [item.name for item in tmp_path.iterdir()] == ["bad.car"]


# --- CSV ------------------------------------------------------------------------------------------


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@BOTH_WAYS
def test_csv_has_every_record(run: Run, car: Path, limit: str) -> None:
    code, out, err = run("export", car, "--format", "csv", "--mem-limit-mb", limit)
    assert (code, err) == (0, wrote("4 records", car, form="csv"))
    assert out.endswith("\r\n")
    assert out.split("\r\n")[0] == ",".join(COLUMNS)
    exported = lines(run("export", car)[1])
    assert [{**row, "value": json.loads(row["value"])} for row in rows(out)] == [
        {
            "uri": f"at://{DID}/{line['key']}",
            "collection": line["key"].partition("/")[0],
            "rkey": line["key"].partition("/")[2],
            "cid": line["cid"],
            "value": line["value"],
        }
        for line in exported
    ]


def test_csv_of_an_empty_repo_has_its_columns(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.car"
    path.write_bytes(build_car({}))
    assert run("export", path, "-q", "--format", "csv") == (0, ",".join(COLUMNS) + "\r\n", "")


#: What a spreadsheet takes for the beginning of a formula, in ordinary and in wide characters.
FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

ODD_PARTS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''", "\uff1d1", "\uff0b1"),
    *('a"b', "a,b", "a;b", "a\rb", "a\nb", "a\r\nb", "\0", "\u2028", " a ", "ü👋", "a/=b"),
]


def test_csv_reads_back_exactly_and_no_cell_is_a_formula(run: Run, tmp_path: Path) -> None:
    keys = [f"{part}/{part}" for part in ODD_PARTS] + ["=none", "/=empty", "=empty/"]
    repo = build_repo({key: {"text": key} for key in keys}, did=DID)
    path, target = tmp_path / "odd.car", tmp_path / "odd.csv"
    path.write_bytes(repo.to_car())
    assert run("export", path, "-q", "-o", target) == (0, "", "")
    read = rows(target.read_bytes().decode())
    assert len(read) == len(keys)
    for row in read:
        key = row["uri"].removeprefix(f"at://{DID}/")
        collection, slash, rkey = key.partition("/")
        expected = (collection, rkey) if slash else ("", key)
        assert (row["collection"].removeprefix("'"), row["rkey"].removeprefix("'")) == expected
        assert json.loads(row["value"]) == {"text": key}
        assert row["cid"] == str(Cid(repo.records[key]))
        assert not any(cell.startswith(FORMULAS) for cell in row.values())
    assert {row["uri"].removeprefix(f"at://{DID}/") for row in read} == set(keys)


def test_another_reader_of_csv_reads_the_same(run: Run, tmp_path: Path) -> None:
    """Arrow's, which has its own idea of quotes and line ends."""
    reader: Any = pytest.importorskip("pyarrow.csv")
    path, target = tmp_path / "odd.car", tmp_path / "odd.csv"
    path.write_bytes(build_car({f"a/{part}": {"text": part} for part in ODD_PARTS}))
    assert run("export", path, "-q", "-o", target) == (0, "", "")
    table = reader.read_csv(
        target,
        parse_options=reader.ParseOptions(newlines_in_values=True),
        convert_options=reader.ConvertOptions(column_types=dict.fromkeys(COLUMNS, "string")),
    )
    assert table.to_pylist() == rows(target.read_bytes().decode())


def test_csv_changes_no_rkey_that_is_no_formula(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(
        build_car({f"a.b.c/{rkey}": {} for rkey in ("3jz", "a-b", "~", ".x", "_", ":")})
    )
    read = rows(run("export", path, "-q", "--format", "csv")[1])
    assert [row["rkey"] for row in read] == sorted(["3jz", "a-b", "~", ".x", "_", ":"])


def test_csv_on_a_terminal_has_no_control_characters(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({"a.b.c/\x1b[2J\n": {"text": "\x1b\u202e"}}))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = run("export", path, "-q", "--format", "csv")
    assert code == 0
    assert out.replace("\r\n", "").isprintable()
    assert out.count("\n") == 2


# --- The JSON of the API --------------------------------------------------------------------------


@BOTH_WAYS
def test_json_of_the_api_has_its_names(run: Run, tmp_path: Path, limit: str) -> None:
    blob = Cid(b"\x01\x55\x12\x20" + bytes(32))
    repo = build_repo(
        {"a.b.c/1": {"raw": b"\xfb\xff", "ref": Link(bytes(blob))}, "odd": {}}, did=DID
    )
    path = tmp_path / "repo.car"
    path.write_bytes(repo.to_car())
    arguments = ["export", path, "-q", "--json-form", "atproto", "--mem-limit-mb", limit]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    cids = [str(Cid(repo.records[key])) for key in ("a.b.c/1", "odd")]
    first, second = out.splitlines()
    assert first == (
        f'{{"uri":"at://{DID}/a.b.c/1","collection":"a.b.c","rkey":"1","cid":"{cids[0]}",'
        f'"value":{{"raw":{{"$bytes":"+/8"}},"ref":{{"$link":"{blob}"}}}}}}'
    )
    assert second == (
        f'{{"uri":"at://{DID}/odd","collection":"","rkey":"odd","cid":"{cids[1]}","value":{{}}}}'
    )
    read = rows(run(*arguments, "--format", "csv")[1])
    assert [{**row, "value": json.loads(row["value"])} for row in read] == lines(out)


def test_record_with_reserved_keys_is_named_and_can_be_skipped(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({"a.b.c/1": {"x": {"$link": "no"}}, "a.b.c/2": {}}))
    assert run("export", path, "-q")[0] == 0
    code, out, err = run("export", path, "-q", "--json-form", "atproto")
    assert (code, out) == (1, "")
    assert "record 'a.b.c/1'" in err
    assert 'a map with the key "$link" would be a link in the JSON of the API; ' in err
    code, out, _ = run("export", path, "-q", "--json-form", "atproto", "--skip-bad")
    assert (code, [line["rkey"] for line in lines(out)]) == (1, ["2"])


def test_get_has_the_same_line_as_export(run: Run, car: Path) -> None:
    for json_form in ("dag-json", "atproto"):
        options = ["--json-form", json_form]
        expected = run("export", car, "-q", "--collection", LIKE, *options)[1]
        assert run("get", car, f"{LIKE}/1", *options) == (0, expected, "")
        assert run("get", car, f"{LIKE}/1", "--json", *options) == (0, expected, "")


def test_get_writes_one_line_to_a_terminal_only_if_json_is_asked_for(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = run("get", car, f"{LIKE}/1")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("get", car, f"{LIKE}/1", "--json")[1] == line
    assert run("get", car, f"{LIKE}/1")[1] == json.dumps(json.loads(line), indent=2) + "\n"


# --- What is said ---------------------------------------------------------------------------------


def test_one_record_is_said_so_and_quiet_says_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "one.car"
    path.write_bytes(build_car({f"{LIKE}/1": {}}, did=DID, rev=REV))
    assert run("export", path)[2] == wrote("1 record", path)
    assert run("export", path, "-q")[2] == ""
    assert run("export", path, "--collection", "a.b.c")[2].endswith(wrote("0 records", path))


def test_what_was_written_is_said_after_bad_records(run: Run, tmp_path: Path) -> None:
    repo = build_repo(RECORDS, did=DID, rev=REV)
    path = tmp_path / "bad.car"
    path.write_bytes(repo.to_car(omit=[repo.records[f"{LIKE}/1"]]))
    left_out, written = run("export", path, "--skip-bad")[2].splitlines(keepends=True)
    assert "1 record was left out" in left_out
    assert written == wrote("3 records", path)


def test_account_of_a_stranger_is_harmless_on_standard_error(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({f"{LIKE}/1": {}}, did="did:plc:\x1b[2J\n"))
    code, _, err = run("export", path)
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert code in {0, 1}  # whether such a commit is valid is not the question


# --- Standard input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["export", "-"], wrote("4 records", "standard input"), id="export"),
        pytest.param(
            ["get", "-", "a.b.c/1"],
            "repo-stream: standard input: the repo has no record 'a.b.c/1'\n",
            id="get, no record",
        ),
        pytest.param(
            ["get", "-", "at://did:plc:other/a.b.c/1"],
            "repo-stream: standard input: 'at://did:plc:other/a.b.c/1' names the account",
            id="get, other account",
        ),
        pytest.param(
            ["ls", "-", "--limit", "blocks=1"], "repo-stream: standard input: ", id="ls, error"
        ),
        pytest.param(
            ["ls", "-", "--collection", "a.b.c"],
            "repo-stream: standard input: no record matches",
            id="ls, filter",
        ),
        pytest.param(
            ["inspect", "-", "--limit", "blocks=1"],
            "repo-stream: standard input: ",
            id="inspect, error",
        ),
        pytest.param(
            ["export", "-", "--skip-bad", "--json-form", "atproto"],
            "repo-stream: standard input: 1 record was left out",
            id="export, bad record",
        ),
        pytest.param(
            ["blobs", "-"],
            "repo-stream: standard input: 1 reference to a blob is malformed",
            id="blobs, malformed",
        ),
        pytest.param(
            ["blobs", "-", "--limit", "blocks=1"], "repo-stream: standard input: ", id="blobs"
        ),
        pytest.param(
            ["order", "-", "-", "--limit", "blocks=1"], "repo-stream: standard input: ", id="order"
        ),
    ],
)
def test_messages_spell_standard_input_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    bad = build_car({"a.b.c/1": {"x": {"$link": "no", "$type": "blob"}}}, did=DID, rev=REV)
    monkeypatch.setattr(sys, "stdin", None)  # pytest's own
    reading, writing = os.pipe()
    os.write(writing, bad if said.endswith(("left out", "malformed")) else small_car())
    os.close(writing)
    with replaced(0, reading):
        _, _, err = run(*arguments)
    os.close(reading)
    assert err.startswith(said)
    assert " -:" not in err
