"""CARs that are compressed, and what is named instead of a file."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from repo_stream.testing import DID
from support import replaced
from support.cli import POST, Run, keys, small_car
from support.compressed import Compression, compressed


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_every_command_reads_a_compressed_file(
    run: Run, compression: Compression, tmp_path: Path
) -> None:
    plain, packed = tmp_path / "repo.car", tmp_path / "repo.car.packed"
    plain.write_bytes(small_car())
    packed.write_bytes(compressed(small_car(), compression))
    for command, *more in (
        ["inspect"],
        ["ls"],
        ["get", f"{POST}/3jzfcijpj2z2a"],
        ["export", "-q"],
        ["export", "-q", "--collection", POST, "--range", f"{POST}/3j", ""],
        ["verify"],
    ):
        expected = run(command, plain, *more)
        assert run(command, packed, *more) == expected
        assert expected[0] == 0
    assert run("order", plain, tmp_path / "a.car", "-q")[0] == 0
    assert run("order", packed, tmp_path / "b.car", "-q")[0] == 0
    assert (tmp_path / "a.car").read_bytes() == (tmp_path / "b.car").read_bytes()


def test_a_file_in_place_is_not_said_to_be_walked_there_if_it_is_compressed(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car.gz"
    path.write_bytes(gzip.compress(small_car()))
    code, out, _ = run("inspect", path, "--mem-limit-mb", "0", "--disk", tmp_path / "work.db")
    assert code == 0
    assert f"in {tmp_path / 'work.db'}" in out
    assert "its own file" not in out


def test_a_damaged_compressed_file_fails_with_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car.gz"
    packed = gzip.compress(small_car())
    for damaged in (packed[:-9], packed[:100], packed + b"more", packed[:-5] + b"!" + packed[-4:]):
        path.write_bytes(damaged)
        for command in ("ls", "export"):
            code, _, err = run(command, path)
            assert code == 1
            assert f"{path}: the gzip data of the file cannot be decompressed: " in err
            assert err.count("\n") == 1
        code, _, err = run("inspect", path)
        assert code == 1
        assert "the gzip data of the file cannot be decompressed: " in " ".join(err.split())
        code, out, _ = run("verify", path)
        assert code == 1
        assert "cannot be decompressed" in " ".join(out.split())


def test_limits_count_what_is_decompressed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car.gz"
    path.write_bytes(gzip.compress(small_car()))
    size = len(small_car())
    assert run("ls", path, "--limit", f"car_bytes={size}")[0] == 0
    code, _, err = run("ls", path, "--limit", f"car_bytes={size - 1}")
    assert code == 1
    assert "--limit car_bytes=N" in err


def test_compressed_standard_input_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "repo.car.gz"
    path.write_bytes(gzip.compress(small_car()))
    with path.open("rb") as file, replaced(0, file.fileno()):
        code, _, err = run("ls", "-")
    assert code == 1
    assert "gzip data; decompress it first" in err
    assert os.fstat(0)


def test_a_file_whose_name_is_that_of_an_account_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{DID}.car").write_bytes(small_car())
    code, out, _ = run("export", "-q", f"{DID}.car")
    assert code == 0
    assert len(keys(out)) == 4


@pytest.mark.parametrize("number", ["nan", "-1", "-0.5", "x", "1e999"])
def test_a_memory_limit_that_is_no_number_is_wrong_usage(run: Run, car: Path, number: str) -> None:
    code, _, err = run("ls", car, f"--mem-limit-mb={number}")
    assert code == 2
    assert re.search(r"not a number of MiB|invalid number of MiB", err)


def test_a_range_that_ends_before_it_starts_is_wrong_usage(run: Run, car: Path) -> None:
    for command in ("ls", "export"):
        code, _, err = run(command, car, "--range", f"{POST}/3k", f"{POST}/3j")
        assert code == 2
        assert "stop must not come before start" in err
        assert "--range" in err.split("error:")[1]
