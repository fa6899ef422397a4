"""What the ready processors cost a record, with the extra `[fast]` and without.

    python benches/processors.py REPO.car

Of the repo's records of 200 to 600 bytes each is timed by itself, the best of five calls; a row
shows the tenth and the ninetieth percentile, in microseconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import quantiles
from time import perf_counter
from unittest.mock import patch

import anyio

from repo_stream import open_car
from repo_stream.ipld import datamodel as records
from repo_stream.process import dag_json, json_value, length, links, noop, record


async def records_of(path: str) -> list[bytes]:
    async with open_car(path, mem_limit_mb=4096, block_processor=noop) as repo:
        return [block async for _, block in repo if 200 <= len(block) <= 600]


def best(process: Callable[[bytes], object], block: bytes) -> float:
    times: list[float] = []
    for _ in range(5):
        began = perf_counter()
        process(block)
        times.append(perf_counter() - began)
    return min(times) * 1e6


def row(process: Callable[[bytes], object], blocks: list[bytes]) -> str:
    tenths = quantiles([best(process, block) for block in blocks], n=10)
    return f"{tenths[0]:.1f} to {tenths[-1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the ready processors.")
    parser.add_argument("car", metavar="REPO.car")
    blocks = anyio.run(records_of, parser.parse_args().car)
    has_fast = records.find_libipld() is not None
    print(f"{len(blocks)} records, CPython {sys.version.split()[0]}; us a record")
    for name, process in (
        ("noop", noop),
        ("length", length),
        ("record", record),
        ("dag_json", dag_json),
        ("json_value", json_value),
        ("links", links),
    ):
        fast = row(process, blocks) if has_fast else "not installed"
        with patch.object(records, "find_libipld", lambda: None):
            plain = row(process, blocks)
        print(f"{name:10} with [fast] {fast:16} without {plain}")


if __name__ == "__main__":
    main()
