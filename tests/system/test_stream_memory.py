"""What a process grows by while it walks a repo that comes in, peak against peak.

A file in streamable order takes the same little memory whatever its size; any other keeps to the
limit. Each case runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from repo_stream.testing import Order, made_car
from support.growth import HAS_PEAK, SMALL_HEAP, large_car, most, write

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not HAS_PEAK, reason="needs Linux's /proc to measure the peak of a process"
)

# The arguments: the CAR, the limit in MiB, a processor's name, an event loop, what is asked for,
# and how much of it at once.
CHILD = """
import json, sys
from pathlib import Path

# All that is imported late is imported here: it is no growth.
import aiosqlite, anyio
import anyio._backends._asyncio, anyio._backends._trio
from repo_stream import DiskBuilder, DriverBuilder
from repo_stream.process import length, noop, record

PROCESSORS = {"raw": noop, "length": length, "record": record}

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])

async def count(driver, asked, at_once):
    records = 0
    while chunk := await getattr(driver, asked)(at_once):
        records += len(chunk)
    return records

async def main(car, limit, processor, asked, at_once):
    builder = DriverBuilder(mem_limit_mb=float(limit), block_processor=PROCESSORS[processor])
    if asked == "range":
        builder, asked = builder.with_collections("app.bsky.feed.post"), "next_chunk"
    async with DiskBuilder().open():
        pass
    # From here on the peak is counted from what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    base = peak()
    async with builder.stream_car(car) as (_, driver):
        records = await count(driver, asked, int(at_once))
        spilled, order = driver.spilled, driver.order
    grown = peak() - base
    print(json.dumps({"grown": grown, "spilled": spilled, "records": records, "order": order}))

car, limit, processor, backend, asked, at_once = sys.argv[1:]
anyio.run(main, car, limit, processor, asked, at_once, backend=backend)
"""


class Cars:
    """Makes each CAR once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def car(self, records: int, order: Order) -> Path:
        path = self._folder / f"{records}-{order}.car"
        if not path.exists():
            anyio.run(write, path, made_car(records, order=order))
        return path


@pytest.fixture(scope="session")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Cars:
    return Cars(tmp_path_factory.mktemp("cars"))


def seen(
    car: Path,
    limit: float = 16,
    processor: str = "raw",
    backend: str = "asyncio",
    asked: str = "next_chunk",
    *,
    at_once: int = 256,
    env: Mapping[str, str] | None = None,
) -> tuple[int, int, bool]:
    """By how much a process grew, how many records it saw, and whether it needed the disk."""
    arguments = [str(car), str(limit), processor, backend, asked, str(at_once)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | (env or {}),
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said["grown"], said["records"], said["spilled"]


LITTLE, SMALL, MIDDLE, BIG = 10_000, 60_000, 100_000, 300_000
WAYS = [
    pytest.param("raw", "next_chunk", id="raw"),
    pytest.param("length", "next_chunk", id="lengths"),
    pytest.param("record", "next_chunk", id="records"),
    pytest.param("raw", "next_keys", id="keys"),
    pytest.param("raw", "next_items", id="items"),
    pytest.param("raw", "range", id="a range"),
]


def hold_constant(cars: Cars, records: int, processor: str, asked: str) -> None:
    small = seen(cars.car(LITTLE, "stream"), processor=processor, asked=asked)
    large = seen(cars.car(records, "stream"), processor=processor, asked=asked)
    assert not small[2]
    assert not large[2]
    assert large[1] > 8 * small[1] > 0
    assert large[0] <= 12 * MIB
    assert large[0] <= small[0] + 2 * MIB


@pytest.mark.parametrize(("processor", "asked"), WAYS[:1])
def test_a_streamable_repo_takes_little_memory(cars: Cars, processor: str, asked: str) -> None:
    hold_constant(cars, MIDDLE, processor, asked)


@pytest.mark.parametrize(("processor", "asked"), WAYS)
def test_a_streamable_repo_takes_the_same_memory_whatever_its_size(
    cars: Cars, processor: str, asked: str
) -> None:
    plain = (processor, asked) == ("raw", "next_chunk")
    hold_constant(cars, BIG if plain else MIDDLE, processor, asked)


@pytest.mark.parametrize(
    ("order", "limit"),
    [("shuffled", 0), ("shuffled", 8), ("shuffled", 16), ("export", 16)],
)
@pytest.mark.parametrize("processor", ["raw", "length", "record"])
def test_any_other_order_keeps_to_the_limit(
    cars: Cars, order: Order, processor: str, limit: float
) -> None:
    grown, records, spilled = seen(cars.car(SMALL, order), limit, processor)
    assert records == SMALL
    assert grown <= most(limit)
    assert spilled


def test_large_records_in_another_order_keep_to_the_limit(tmp_path: Path) -> None:
    car = tmp_path / "large.car"
    car.write_bytes(large_car(400, 250_000))
    grown, records, spilled = seen(car, at_once=4, env=SMALL_HEAP)
    assert records == 400
    assert grown <= most(16)
    assert spilled
