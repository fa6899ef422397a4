"""`repo-stream inspect`: whose repo it is, its collections, its tree, the order of its blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import anyio
import pytest

from repo_stream import Cid, open_car
from repo_stream.testing import Order, build_car, build_repo
from support import shared
from support.cli import DID, LIKE, POST, RECORDS, REV, SIZE, Run, report


def test_report_has_account_commit_tree_and_collections(run: Run, car: Path) -> None:
    code, out, err = run("inspect", car)
    facts, collections = report(out)
    assert (code, err) == (0, "")
    total = SIZE[LIKE] + SIZE[POST]
    assert facts == {
        "DID": DID,
        "Rev": f"{REV}, 2023-06-30 15:03:01 UTC",
        "Commit": str(Cid(build_repo(RECORDS, did=DID, rev=REV).commit_cid)),
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


@pytest.mark.parametrize("order", get_args(Order))
def test_bytes_of_records_that_keys_share_are_called_referenced(
    run: Run, tmp_path: Path, order: Order
) -> None:
    text = "x" * 1_000
    same: dict[str, object] = {f"a.b.c/{n}": {"text": text} for n in range(50)}
    repo = build_repo({**same, "a.b.c/other": {"n": 1}})
    path = tmp_path / "shared.car"
    path.write_bytes(repo.to_car(order=order))
    size = path.stat().st_size
    total = sum(len(repo.blocks[cid]) for cid in repo.records.values())
    assert total > size
    expected = f"{size:,} bytes; records referenced: {total:,} bytes"
    out = run("inspect", path)[1]
    assert report(out)[0]["CAR"] == expected
    assert report(out)[0]["Shared"] == "49 keys name the record of another, counted again"
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads(run("inspect", path, "--json")[1])
    assert (found["shared_records"], found["record_bytes"]) == (49, total)
    # On disk nobody knows how many blocks were used, unless they came as they were needed.
    out = run("inspect", path, "--mem-limit-mb", "0")[1]
    assert report(out)[0]["CAR"] == expected
    assert max(map(len, out.splitlines())) <= 80
    # A file that has the record for each of its keys has as many bytes as it says.
    run("order", path, copies := tmp_path / "ordered.car")
    size = copies.stat().st_size
    out = run("inspect", copies)[1]
    assert report(out)[0]["CAR"] == f"{size:,} bytes, {total:,} of them records"


def test_record_that_two_keys_share_is_one_of_a_single_key(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "shared.car"
    path.write_bytes(build_car({"a.b.c/1": {"n": 1}, "a.b.c/2": {"n": 1}, "a.b.c/3": {}}))
    shared = report(run("inspect", path)[1])[0]["Shared"]
    assert shared == "1 key names the record of another, counted again"


def test_names_of_collections_are_those_that_the_library_lists(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "odd.car"

    async def names() -> list[str]:
        async with open_car(path) as repo:
            return await repo.collections()

    for odd in ([], ["odd"], ["/a"], ["/a", "odd", "a.b"], ["//", "\x1b[2J"]):
        path.write_bytes(build_car({key: {"n": 1} for key in [*odd, *RECORDS]}))
        found = json.loads(run("inspect", path, "--json")[1])["collections"]
        assert sorted(anyio.run(names)) == list(found)
        assert ("" in found) == bool(odd)


def test_real_exports_have_as_many_records_and_bytes_as_they_have(run: Run) -> None:
    totals = {
        "empty": (0, 0),
        "tiny": (8, 2_071),
        "little": (278, 246_960),
        "midsize": (11_585, 3_741_393),
    }
    cars = shared("cars")
    for limit in ("16", "0"):
        found: dict[str, tuple[int, ...]] = {}
        for name in totals:
            code, out, _ = run("inspect", cars / f"{name}.car", "--mem-limit-mb", limit)
            assert code == 0
            found[name] = report(out)[1]["Total"][:2]
        assert found == totals


def test_empty_repo_has_a_total_of_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.car"
    path.write_bytes(build_car({}))
    code, out, _ = run("inspect", path)
    assert code == 0
    assert report(out)[1] == {"Total": (0, 0, 0, 0)}


def test_tree_has_the_nodes_that_the_file_has(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    for records in (1, 2, 30, 500):
        repo = build_repo({f"a.b.c/{number}": {"n": number} for number in range(records)})
        path.write_bytes(repo.to_car())
        tree = json.loads(run("inspect", path, "--json")[1])["tree"]
        assert tree["nodes"] == len(set(repo.blocks)) - records - 1
        assert sum(layer["entries"] for layer in tree["layers"]) == records
        assert sum(layer["nodes"] for layer in tree["layers"]) == tree["nodes"]


# --- Collections ----------------------------------------------------------------------------------


def test_table_lines_up_within_80_columns(run: Run, tmp_path: Path) -> None:
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
def test_collection_name_is_escaped(run: Run, tmp_path: Path, key: str, shown: str) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({key: {"n": 1}}))
    code, out, _ = run("inspect", path)
    assert code == 0
    rows = " ".join(out.split("\n\n")[1].splitlines()[2:-2])
    assert rows.split() == [shown, "1", "4", "4", "4"]
    assert out.replace("\n", "").isprintable()


def test_largest_200_collections_are_named_and_the_others_counted(run: Run, tmp_path: Path) -> None:
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
        "months": {},
    }
    named = sum(tally["records"] for tally in found["collections"].values())
    assert named + 800 == found["records"] == 1_052
    assert "(800 others)" in out
    assert len(out.splitlines()) < 230


# --- The order of blocks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "limit", "shown"),
    [
        pytest.param("stream", "16", "streamable", id="streamable, memory"),
        pytest.param("stream", "0", "streamable", id="streamable, disk"),
        pytest.param("export", "16", "not streamable: up to ", id="export, memory"),
        pytest.param("shuffled", "16", "not streamable: up to ", id="shuffled, memory"),
        pytest.param("shuffled", "0", "not streamable: at least ", id="shuffled, disk"),
    ],
)
def test_report_says_how_many_blocks_come_early(
    run: Run, tmp_path: Path, order: Order, limit: str, shown: str
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
