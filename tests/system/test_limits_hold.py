"""The memory limit against what the process really grows by, peak against peak.

Every case runs in a process of its own: loads a made repo in shuffled order, the worst there is,
walks all of it, and says by how much its peak grew over what it had after its imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream.testing import made_car
from support.growth import HAS_PEAK, SMALL_HEAP, large_car, most, write

MIB = 1 << 20


pytestmark = [
    pytest.mark.skipif(not HAS_PEAK, reason="needs Linux's /proc to measure the peak of a process"),
]

# The arguments: the CAR, the limit in MiB, a processor's name, an event loop, how many records to
# take at once, or 0 for none, how many walks at once, and whether a file that is over the limit is
# copied to a store, as one that is open already, or stays in place.
CHILD = """
import json, sys
from pathlib import Path

# All that is imported late is imported here: it is no growth.
import aiosqlite, anyio
import anyio._backends._asyncio, anyio._backends._trio
from repo_stream import DiskBuilder, Driver, DriverBuilder
from repo_stream.process import Processor, length, noop

PROCESSORS = {
    "raw": noop,
    "length": length,
    "stored at length": Processor(len, dumps=lambda _: bytes(20_000), loads=len),
    "dict": lambda block: {"size": len(block), "head": block[:20]},
}

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])

async def count(driver, at_once):
    records = 0
    while chunk := await driver.next_chunk(at_once):
        records += len(chunk)
    return records

async def read(source, builder, chunk):
    records = None
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            where = "memory"
            if chunk:
                records = await count(driver, chunk)
        case Driver.Disk(paused):
            where = "disk"
            if chunk:
                async with DiskBuilder().open() as store:
                    _, driver = await paused.finish_loading(store)
                    records = await count(driver, chunk)
                    if not isinstance(source, str):
                        assert store.stored > 0
            await paused.aclose()
    return where, records

async def main(car, limit, processor, chunk, at_once, where):
    builder = DriverBuilder(mem_limit_mb=float(limit), block_processor=PROCESSORS[processor])
    seen = set()

    async def one():
        if where == "in place":
            seen.add(await read(car, builder, int(chunk)))
        else:
            async with await anyio.open_file(car, "rb") as file:
                seen.add(await read(file, builder, int(chunk)))

    # From here on the peak is counted from what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    base = peak()
    async with anyio.create_task_group() as tasks:
        for _ in range(int(at_once)):
            tasks.start_soon(one)
    grown = peak() - base
    [(where, records)] = seen
    print(json.dumps({"grown": grown, "where": where, "records": records}))

car, limit, processor, backend, *others = sys.argv[1:]
anyio.run(main, car, limit, processor, *others, backend=backend)
"""


@dataclass(frozen=True)
class Case:
    """One child: what it reads, and how."""

    records: int
    limit: float
    processor: str
    backend: str = "asyncio"
    walks: bool = True
    at_once: int = 1
    size: int = 0  # of each record, in bytes; as they are made where it is 0
    copied: bool = True  # to a store, where it does not fit; else it stays in its file


@dataclass(frozen=True)
class Seen:
    """What a child says: growth in bytes, where the blocks were, and how many records came."""

    grown: int
    where: str
    records: int | None


@dataclass
class Children:
    """Runs each case once, and makes each CAR once."""

    folder: Path
    seen: dict[Case, Seen] = field(default_factory=dict[Case, Seen])

    def run(self, case: Case) -> Seen:
        if case not in self.seen:
            self.seen[case] = self._run(case)
        return self.seen[case]

    def _run(self, case: Case) -> Seen:
        chunk = min(256, MIB // (case.size or 1)) if case.walks else 0
        arguments = [str(case.limit), case.processor, case.backend, str(chunk), str(case.at_once)]
        arguments.append("copied" if case.copied else "in place")
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(self._car(case)), *arguments],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env=os.environ | (SMALL_HEAP if case.size else {}),
        )
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        seen = Seen(**said)
        assert seen.records == (case.records if case.walks else None)
        return seen

    def _car(self, case: Case) -> Path:
        path = self.folder / f"{case.records}-{case.size}.car"
        if not path.exists():
            if case.size:
                path.write_bytes(large_car(case.records, case.size))
            else:
                anyio.run(write, path, made_car(case.records, order="shuffled"))
        return path


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Children:
    return Children(tmp_path_factory.mktemp("cars"))


BIG = 300_000
SMALLER = 100_000


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(BIG, 16, "raw"), id="16, raw"),
        pytest.param(Case(BIG, 16, "length"), id="16, lengths"),
        pytest.param(Case(BIG, 16, "dict"), id="16, dicts"),
        pytest.param(Case(SMALLER, 16, "length", "trio"), id="16, lengths, trio"),
        pytest.param(Case(BIG, 32, "raw"), id="32, raw"),
        pytest.param(Case(BIG, 32, "length"), id="32, lengths"),
        pytest.param(Case(BIG, 64, "raw"), id="64, raw"),
        pytest.param(Case(BIG, 48, "length"), id="48, lengths"),
        pytest.param(Case(SMALLER, 0, "raw"), id="0, raw"),
        pytest.param(Case(SMALLER, 0, "length"), id="0, lengths"),
        pytest.param(Case(SMALLER, 1, "raw"), id="1, raw"),
        pytest.param(Case(SMALLER, 1, "length"), id="1, lengths"),
        pytest.param(Case(SMALLER, 8, "raw"), id="8, raw"),
        pytest.param(Case(SMALLER, 8, "length"), id="8, lengths"),
        pytest.param(Case(SMALLER, 8, "dict", "trio"), id="8, dicts, trio"),
        pytest.param(Case(BIG, 16, "raw", copied=False), id="16, raw, in place"),
        pytest.param(Case(BIG, 16, "length", copied=False), id="16, lengths, in place"),
        pytest.param(Case(BIG, 32, "raw", copied=False), id="32, raw, in place"),
        pytest.param(Case(BIG, 64, "dict", copied=False), id="64, dicts, in place"),
        pytest.param(Case(BIG, 0, "raw", copied=False), id="0, raw, in place"),
        pytest.param(Case(SMALLER, 1, "length", copied=False), id="1, lengths, in place"),
        pytest.param(Case(SMALLER, 8, "dict", "trio", copied=False), id="8, dicts, trio, in place"),
    ],
)
def test_through_the_disk_a_process_grows_by_no_more_than_the_limit(
    children: Children, case: Case
) -> None:
    seen = children.run(case)
    assert seen.where == "disk"
    assert seen.grown <= most(case.limit)
    # A limit is there to be used: repos that fit stay in memory.
    assert seen.grown >= case.limit * MIB * 0.75


def test_where_only_some_have_room_a_process_grows_by_no_more_than_the_limit(
    children: Children,
) -> None:
    """Compiled, the repo stays in memory."""
    seen = children.run(Case(BIG, 64, "length"))
    assert 64 * MIB * 0.75 <= seen.grown <= most(64)


# Of thousands of large blocks to a write, `sqlite3` copied hundreds at a time.
@pytest.mark.parametrize("limit", [16, 64])
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "in place"])
def test_large_records_do_not_break_the_limit(children: Children, limit: int, copied: bool) -> None:
    seen = children.run(Case(400, limit, "raw", size=250_000, copied=copied))
    assert seen.where == "disk"
    assert seen.grown <= most(limit)


def test_results_that_are_long_on_disk_do_not_break_the_limit(children: Children) -> None:
    seen = children.run(Case(5000, 1, "stored at length"))
    assert seen.where == "disk"
    assert seen.grown <= most(1)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(SMALLER, 64, "raw"), id="raw"),
        pytest.param(Case(SMALLER, 34, "length"), id="lengths"),
    ],
)
def test_in_memory_a_process_grows_by_no_more_than_the_limit(
    children: Children, case: Case
) -> None:
    seen = children.run(case)
    assert seen.where == "memory"
    assert seen.grown <= most(case.limit)
    assert seen.grown >= case.limit * MIB * 0.5


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(50_000, 16, "raw", at_once=8), id="16"),
        pytest.param(Case(20_000, 4, "raw", "trio", at_once=8), id="4, trio"),
        pytest.param(Case(50_000, 16, "raw", at_once=8, copied=False), id="16, in place"),
    ],
)
def test_of_many_at_once_each_keeps_its_limit(children: Children, case: Case) -> None:
    seen = children.run(case)
    assert seen.where == "disk"
    # What a process needs beyond low limits it needs once.
    once = 8 * case.limit * 1.15 * MIB + 12 * MIB
    assert seen.grown <= min(8 * most(case.limit), once)


# A dict that is full is copied into one of twice its size. With results as small as these, that is
# a fifth of these limits, and it happens right before they are reached.
@pytest.mark.parametrize("limit", [24, 48])
def test_a_table_that_grows_does_not_break_the_limit(children: Children, limit: int) -> None:
    seen = children.run(Case(BIG, limit, "length", walks=False))
    assert seen.where == "disk"
    assert seen.grown <= limit * MIB


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "in place"])
@pytest.mark.parametrize("processor", ["raw", "length"])
def test_growth_through_the_disk_does_not_depend_on_the_size(
    children: Children, processor: str, copied: bool
) -> None:
    smaller = children.run(Case(SMALLER, 16, processor, copied=copied))
    larger = children.run(Case(BIG, 16, processor, copied=copied))
    assert smaller.where == larger.where == "disk"
    assert larger.grown == pytest.approx(smaller.grown, rel=0.1)
