"""Ctrl-C ends a scan, whoever reads it, and so does the end of the program."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

CAR = Path(__file__).parents[1] / "cars/sample.car"

HEAD = """
import os, signal, sys, threading
import duckdb, polars, pyarrow
from repo_stream.arrow import records

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
stream = records([sys.argv[1]] * 100_000)
connection = duckdb.connect()
connection.register("r", stream)

def interrupt_soon():
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()

def ended():
    # Another scan works, and the thread of the loop is still there for it.
    assert pyarrow.table(records(sys.argv[1])).num_rows == 500
"""

READ = """
interrupt_soon()
try:
    {reading}
except BaseException as error:
    print(type(error).__name__, error)
ended()
"""

READERS = {
    "batches": "[0 for _ in stream.batches()]",
    "reader": "stream.to_reader().read_all()",
    "pyarrow": "pyarrow.table(stream)",
    "polars": "polars.DataFrame(stream)",
    "duckdb": "connection.sql('select count(*), max(record) from r').fetchall()",
}

LEFT = {
    "batches": "batches = stream.batches(); next(batches)",
    "pyarrow": "reader = pyarrow.RecordBatchReader.from_stream(stream); reader.read_next_batch()",
    "duckdb": "found = connection.execute('from r'); found.fetchmany(5)",
}


def run(program: str) -> tuple[str, str]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + program, CAR],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60  # the whole of it takes minutes
    return done.stdout, done.stderr


@pytest.mark.parametrize("reader", [*READERS])
def test_ctrl_c_ends_a_scan(reader: str) -> None:
    for package in ("duckdb", "polars"):
        pytest.importorskip(package)
    said, _ = run(READ.format(reading=READERS[reader]))
    assert "KeyboardInterrupt" in said or (reader == "duckdb" and "nterrupt" in said)


@pytest.mark.parametrize("reader", [*LEFT])
def test_a_program_ends_though_it_has_left_a_scan_half_way(reader: str) -> None:
    for package in ("duckdb", "polars"):
        pytest.importorskip(package)
    assert run(LEFT[reader]) == ("", "")
