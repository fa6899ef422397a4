"""What a process grows by while it joins large CARs, peak against peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import CarReader
from repo_stream.testing import Order, section, write_car
from support.growth import MIB, Cars, measured, most, needs_peak

pytestmark = needs_peak

# The arguments: the limit in MiB, the base, and the slices.
CHILD = """
async def main(limit, base, *slices):
    async with join_cars(base, *slices, mem_limit_mb=float(limit)) as car:
        size = 0
        async for piece in car:
            size += len(piece)
        return {"size": size, "dropped": car.dropped, "spilled": car.spilled}

measure(main)
"""

RECORDS = 100_000


@pytest.mark.long
@pytest.mark.parametrize(
    ("order", "limit"),
    [
        pytest.param("shuffled", 0, id="shuffled, 0"),
        pytest.param("export", 16, id="export, 16"),
    ],
)
def test_growth_by_two_halves_of_a_repo_is_within_the_limit(
    cars: Cars, tmp_path: Path, order: Order, limit: float
) -> None:
    """The base has no commit, so that nothing of it can be used until all of it has been read."""
    whole = cars.made(RECORDS, order)
    base, since = tmp_path / "base.car", tmp_path / "since.car"
    anyio.run(split, whole, base, since)
    said = measured(CHILD, limit, base, since)
    assert said["size"] == whole.stat().st_size
    assert said["dropped"] == 0
    assert said["spilled"]
    assert said["grown"] <= most(limit)


async def split(whole: Path, base: Path, since: Path) -> None:
    """Put every other block into the one file and into the other, and the commit into the last."""
    with base.open("wb") as one, since.open("wb") as other:
        async with await CarReader.open(whole) as reader:
            (root,) = reader.header.roots
            one.write(write_car([root], []))
            other.write(write_car([root], []))
            number = 0
            async for cid, data in reader:
                number += 1
                (other if cid == root or number % 2 else one).write(section(cid, data))


@pytest.mark.long
def test_growth_by_a_streamable_base_does_not_depend_on_its_size(
    cars: Cars, tmp_path: Path
) -> None:
    said: list[dict[str, Any]] = []
    for records in (6_000, RECORDS):
        base = cars.made(records, "stream")
        nothing = tmp_path / "nothing.car"
        with base.open("rb") as file:
            nothing.write_bytes(file.read(59))  # the header
        said.append(measured(CHILD, 16, base, nothing))
        assert said[-1]["size"] == base.stat().st_size
        assert not said[-1]["spilled"]
    small, large = said
    assert large["grown"] <= 12 * MIB
    assert large["grown"] <= small["grown"] + 2 * MIB
