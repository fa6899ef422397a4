"""What the memory store says that it costs, against what a process grows by that fills one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Fills a store in a process of its own, whose growth is then what the store costs. What is measured
# is large, so that half-used arenas of the allocator do not count.
CHILD = """
import ctypes, gc, os, random, sys
from hashlib import sha256
from repo_stream import Processor
from repo_stream.ipld.cid import ORDINARY_PREFIX
from repo_stream.store.memory import MemoryStore
from repo_stream.process import length, noop

make, sizes, count, copies = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
processor = Processor(eval(make))
chance = random.Random(1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def batch(first):
    cids, blocks = [], []
    for number in range(first, first + 500):
        chance = random.Random(number)
        start = b"\\xa2\\x61e\\x80" if number % 5 == 0 else b"\\xa2\\x64text"
        data = start + chance.randbytes(chance.choice(sizes))
        cids.append(ORDINARY_PREFIX + sha256(data).digest())
        blocks.append(data)
    return cids, blocks

warm = MemoryStore(processor)
warm.add(*batch(0))
del warm
gc.collect()
# What malloc has kept of the warm store would be used again, and would not be growth.
trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
if trim is not None:
    trim(0)
before = resident()
store = MemoryStore(processor)
for _ in range(copies):
    for first in range(0, count, 500):
        store.add(*batch(first))
gc.collect()
print(resident() - before, store.size)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see memory")
@pytest.mark.parametrize(
    ("process", "sizes", "count", "copies"),
    [
        pytest.param("noop", "[240]", 60_000, 1, id="raw"),
        pytest.param("noop", "range(1000)", 40_000, 1, id="raw, any size"),
        pytest.param("noop", "[50_000]", 500, 1, id="raw, large"),
        pytest.param("noop", "[240]", 50_000, 2, id="raw, twice"),
        pytest.param("length", "range(1, 600)", 80_000, 1, id="ints"),
        pytest.param("length", "[100]", 80_000, 1, id="small ints"),
        pytest.param("length", "range(300, 600)", 60_000, 2, id="ints, twice"),
        pytest.param("bytes.hex", "range(400)", 40_000, 1, id="texts"),
        pytest.param(
            "lambda data: {'size': len(data), 'start': data[:20]}", "[300]", 40_000, 1, id="dicts"
        ),
        pytest.param(
            "lambda data: (len(data), data[5:90], [str(data[:9])])", "[300]", 40_000, 1, id="tuples"
        ),
    ],
)
def test_the_size_of_a_memory_store_is_what_its_process_grows_by(
    process: str, sizes: str, count: int, copies: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, process, sizes, str(count), str(copies)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    grown, said = map(int, done.stdout.split())
    assert grown > 5_000_000
    assert said == pytest.approx(grown, rel=0.15)
