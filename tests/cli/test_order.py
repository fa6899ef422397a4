"""`repo-stream order`: the same CAR in streamable order."""

from __future__ import annotations

from pathlib import Path

from repo_stream.testing import build_car, build_repo, cid_of
from support.cli import BOTH_WAYS, LIKE, RECORDS, Run, small_car


@BOTH_WAYS
def test_car_is_written_in_streamable_order(run: Run, tmp_path: Path, limit: str) -> None:
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


def test_blocks_that_are_written_again_are_counted(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(build_car({f"a.b.c/{n}": {"n": 1} for n in range(3)}))
    report = run("order", path, tmp_path / "out.car")[2]
    assert " blocks written (2 of them again), 0 of " in report


def test_output_takes_the_place_of_its_car(run: Run, car: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.car"
    link.symlink_to(car)
    for source, target in ((link, car), (car, link), (car, car)):
        car.write_bytes(small_car())
        assert run("order", source, target)[0] == 0
        assert car.read_bytes() == small_car(order="stream")
        assert link.is_symlink()


@BOTH_WAYS
def test_bad_car_leaves_everything_as_it_was(run: Run, tmp_path: Path, limit: str) -> None:
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


def test_bytes_that_are_written_again_have_a_limit(run: Run, tmp_path: Path) -> None:
    path, target = tmp_path / "repo.car", tmp_path / "out.car"
    path.write_bytes(build_car({f"a.b.c/{n}": {"text": "x" * 900} for n in range(90)}))
    code, out, err = run("order", path, target, "--limit", "repeated_bytes=1000")
    assert (code, out) == (1, "")
    assert "--limit repeated_bytes=N" in err
    assert not target.exists()


def test_output_in_no_directory_gives_one_line(run: Run, car: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out.car"
    expected = f"repo-stream: {target}: No such file or directory\n"
    assert run("order", car, target) == (1, "", expected)
