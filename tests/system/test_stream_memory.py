"""What a process grows by while it walks a repo that comes in, peak against peak.

A file in streamable order takes the same little memory whatever its size; any other keeps to the
limit. Each case runs in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import Order
from support.compressed import Compression, compressed, zstd
from support.growth import MIB, Cars, measured, most, needs_peak

pytestmark = needs_peak

# The arguments: the CAR, the limit in MiB, a processor's name, what is asked for, how much of it at
# once, and whether it is a file that is open already, which has to be copied to be read again.
CHILD = """
from contextlib import AsyncExitStack

PROCESSORS = {"raw": noop, "length": length, "record": record}

async def main(car, limit, processor, asked, at_once, form):
    builder = DriverBuilder(mem_limit_mb=float(limit), block_processor=PROCESSORS[processor])
    if asked == "range":
        builder, asked = builder.with_collections("app.bsky.feed.post"), "next_chunk"
    records = 0
    async with AsyncExitStack() as stack:
        if form == "open":
            car = await stack.enter_async_context(await anyio.open_file(car, "rb"))
        _, driver = await stack.enter_async_context(builder.stream_car(car))
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
    form: str = "path",
    small_heap: bool = False,
) -> dict[str, Any]:
    """Say by how much a process `grown`, how many `records` it saw, and whether it `spilled`."""
    return measured(CHILD, car, limit, processor, asked, at_once, form, small_heap=small_heap)


@pytest.mark.long
@pytest.mark.parametrize(
    ("processor", "asked", "count", "form"),
    [
        pytest.param("raw", "next_chunk", 120_000, "path", id="raw"),
        pytest.param("raw", "next_chunk", 120_000, "open", id="raw, copied"),
        pytest.param("length", "next_chunk", 60_000, "path", id="lengths"),
        pytest.param("record", "next_chunk", 60_000, "open", id="records, copied"),
        pytest.param("raw", "next_keys", 60_000, "open", id="keys, copied"),
        pytest.param("raw", "next_items", 60_000, "path", id="items"),
        pytest.param("raw", "range", 60_000, "open", id="a range, copied"),
    ],
)
def test_growth_by_a_streamable_repo_does_not_depend_on_its_size(
    cars: Cars, processor: str, asked: str, count: int, form: str
) -> None:
    small, large = (
        stream(cars.made(records, "stream"), processor=processor, asked=asked, form=form)
        for records in (6_000, count)
    )
    assert not small["spilled"]
    assert not large["spilled"]
    assert large["records"] > 8 * small["records"] > 0
    assert large["grown"] <= 12 * MIB
    assert large["grown"] <= small["grown"] + 2 * MIB


@pytest.mark.long
@pytest.mark.parametrize(
    ("order", "limit", "processor", "form"),
    [
        pytest.param("shuffled", 0, "raw", "open", id="shuffled, 0, raw, copied"),
        pytest.param("shuffled", 8, "record", "path", id="shuffled, 8, records"),
        pytest.param("shuffled", 16, "length", "open", id="shuffled, 16, lengths, copied"),
        pytest.param("export", 16, "raw", "open", id="export, 16, raw, copied"),
        pytest.param("export", 16, "raw", "path", id="export, 16, raw"),
        pytest.param("export", 16, "record", "path", id="export, 16, records"),
    ],
)
def test_growth_by_any_other_order_is_within_the_limit(
    cars: Cars, order: Order, limit: float, processor: str, form: str
) -> None:
    said = stream(cars.made(60_000, order), limit, processor, form=form)
    assert said["records"] == 60_000
    assert said["spilled"]
    assert said["grown"] <= most(limit)


@pytest.mark.parametrize("form", ["path", "open"], ids=["in place", "copied"])
def test_growth_by_large_records_in_another_order_is_within_the_limit(
    cars: Cars, form: str
) -> None:
    said = stream(cars.large(200, 250_000), at_once=4, form=form, small_heap=True)
    assert said["records"] == 200
    assert said["spilled"]
    assert said["grown"] <= most(16)


@pytest.mark.long
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("order", ["stream", "shuffled"])
def test_growth_by_a_compressed_file_is_that_by_a_download(
    cars: Cars, order: Order, compression: Compression, tmp_path: Path
) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(compressed(cars.made(60_000, order).read_bytes(), compression))
    said = stream(path)
    assert said["records"] == 60_000
    assert said["spilled"] == (order == "shuffled")
    assert said["grown"] <= (most(16) if order == "shuffled" else 12 * MIB)


@pytest.mark.long
def test_growth_by_the_largest_window_of_zstd_is_its_size(cars: Cars, tmp_path: Path) -> None:
    path = tmp_path / "repo.car.zst"
    packer = zstd.ZstdCompressor(level=19)
    path.write_bytes(packer.compress(cars.made(60_000, "shuffled").read_bytes()) + packer.flush())
    said = stream(path)
    assert said["spilled"]
    assert said["grown"] <= most(16) + 8 * MIB
