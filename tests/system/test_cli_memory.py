"""The shell command on a repo far larger than its memory limit: what the process grows to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from repo_stream.testing import build_car
from support.growth import needs_peak

pytestmark = needs_peak

LIMIT = 2
# What is imported late, SQLite's cache, and the records and JSON of one chunk.
ROOM = 24
# A row group, raw and packed, or what DuckDB takes for itself, whatever the size of the repo.
MORE_ROOM = {"parquet": 8, "typed": 12, "sql, all": 48}

PEAK = """
import sys
from pathlib import Path
from repo_stream.cli import main
code = main(sys.argv[1:])
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(peak, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def small_and_large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A repo of one record, and one of 42 MB with a collection for each of its 14,000 records."""
    where = tmp_path_factory.mktemp("cars")
    small, large = where / "small.car", where / "large.car"
    small.write_bytes(build_car({"a.b.c/1": {"n": 1}}))
    large.write_bytes(
        build_car({f"a.b.c{n:05}/1": {"n": n, "text": "x" * 3_000} for n in range(14_000)})
    )
    return small, large


def peak(command: Sequence[str], car: Path) -> float:
    """Run the command; give the MiB that its process had at most."""
    arguments = [car if word == "CAR" else word for word in command]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments, "--mem-limit-mb", str(LIMIT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) / 1024


COMMANDS = {
    "inspect": ["inspect", "CAR"],
    "ls": ["ls", "CAR"],
    "export": ["export", "CAR"],
    "parquet": ["export", "CAR", "--format", "parquet"],
    "arrow": ["export", "CAR", "--format", "arrow"],
    "sql, counted": ["sql", "select count(*) from records", "CAR"],
    "sql, all": ["sql", "--json", "from records", "CAR"],
    "order": ["order", "CAR", "-"],
    "join": ["join", "CAR", "CAR"],
    "verify": ["verify", "CAR"],
}


def test_growth_by_typed_columns_is_within_the_limit_and_a_row_group(tmp_path: Path) -> None:
    peaks: list[float] = []
    for count in (1, 14_000):
        path = tmp_path / f"{count}.car"
        path.write_bytes(
            build_car({f"a.b.c/{n:05}": {"n": n, "text": "x" * 3_000} for n in range(count)})
        )
        typed = ["export", "CAR", "--typed", "--collection", "a.b.c", "--format", "parquet"]
        peaks.append(peak(typed, path))
    assert peaks[1] - peaks[0] < LIMIT + ROOM + MORE_ROOM["typed"]


@pytest.mark.parametrize("command", COMMANDS)
def test_growth_is_within_the_limit_and_a_chunk(
    small_and_large: tuple[Path, Path], command: str
) -> None:
    small, large = small_and_large
    assert large.stat().st_size > 20 * LIMIT << 20
    room = ROOM + MORE_ROOM.get(command, 0)
    assert peak(COMMANDS[command], large) - peak(COMMANDS[command], small) < LIMIT + room
