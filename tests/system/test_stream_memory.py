"""What a process grows by while it walks a repo that comes in, peak against peak.

A file in streamable order takes the same little memory whatever its size; any other keeps to the
limit. Each case runs in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import Order
from support.growth import MIB, Cars, measured, most, needs_peak

pytestmark = needs_peak

# The arguments: the CAR, the limit in MiB, a processor's name, what is asked for, how much of it at
# once.
CHILD = """
PROCESSORS = {"raw": noop, "length": length, "record": record}

async def main(car, limit, processor, asked, at_once):
    builder = DriverBuilder(mem_limit_mb=float(limit), block_processor=PROCESSORS[processor])
    if asked == "range":
        builder, asked = builder.with_collections("app.bsky.feed.post"), "next_chunk"
    records = 0
    async with builder.stream_car(car) as (_, driver):
        while chunk := await getattr(driver, asked)(int(at_once)):
            records += len(chunk)
        return {"records": records, "spilled": driver.spilled}

measure(main)
"""


def stream(
    car: Path,
    limit: float = 16,
    processor: str = "raw",
    asked: str = "next_chunk",
    *,
    at_once: int = 256,
    small_heap: bool = False,
) -> dict[str, Any]:
    """Say by how much a process `grown`, how many `records` it saw, and whether it `spilled`."""
    return measured(CHILD, car, limit, processor, asked, at_once, small_heap=small_heap)


@pytest.mark.long
@pytest.mark.parametrize(
    ("processor", "asked", "count"),
    [
        pytest.param("raw", "next_chunk", 120_000, id="raw"),
        pytest.param("length", "next_chunk", 60_000, id="lengths"),
        pytest.param("record", "next_chunk", 60_000, id="records"),
        pytest.param("raw", "next_keys", 60_000, id="keys"),
        pytest.param("raw", "next_items", 60_000, id="items"),
        pytest.param("raw", "range", 60_000, id="a range"),
    ],
)
def test_growth_by_a_streamable_repo_does_not_depend_on_its_size(
    cars: Cars, processor: str, asked: str, count: int
) -> None:
    small, large = (
        stream(cars.made(records, "stream"), processor=processor, asked=asked)
        for records in (6_000, count)
    )
    assert not small["spilled"]
    assert not large["spilled"]
    assert large["records"] > 8 * small["records"] > 0
    assert large["grown"] <= 12 * MIB
    assert large["grown"] <= small["grown"] + 2 * MIB


@pytest.mark.long
@pytest.mark.parametrize(
    ("order", "limit", "processor"),
    [
        pytest.param("shuffled", 0, "raw", id="shuffled, 0 MiB, raw"),
        pytest.param("shuffled", 8, "record", id="shuffled, 8 MiB, records"),
        pytest.param("shuffled", 16, "length", id="shuffled, 16 MiB, lengths"),
        pytest.param("export", 16, "raw", id="export, 16 MiB, raw"),
        pytest.param("export", 16, "record", id="export, 16 MiB, records"),
    ],
)
def test_growth_by_any_other_order_is_within_the_limit(
    cars: Cars, order: Order, limit: float, processor: str
) -> None:
    said = stream(cars.made(60_000, order), limit, processor)
    assert said["records"] == 60_000
    assert said["spilled"]
    assert said["grown"] <= most(limit)


def test_growth_by_large_records_in_another_order_is_within_the_limit(cars: Cars) -> None:
    said = stream(cars.large(200, 250_000), at_once=4, small_heap=True)
    assert said["records"] == 200
    assert said["spilled"]
    assert said["grown"] <= most(16)
