"""Real exports, whose totals are known."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest

from repo_stream import Cid, DriverBuilder
from support import pieces_of, shared, walk

CARS = shared("cars")


class Known(NamedTuple):
    """A CAR and what is in it."""

    name: str
    records: int
    size: int


EVERY_EXPORT = pytest.mark.parametrize(
    "known",
    [
        pytest.param(Known("empty.car", 0, 0), id="empty"),
        pytest.param(Known("tiny.car", 8, 2_071), id="tiny"),
        pytest.param(Known("little.car", 278, 246_960), id="little"),
        pytest.param(Known("midsize.car", 11_585, 3_741_393), id="midsize"),
    ],
)

MEMORY, DISK = DriverBuilder(), DriverBuilder(mem_limit_mb=0)


@EVERY_EXPORT
async def test_export_gives_its_records_in_memory_and_through_the_disk(known: Known) -> None:
    path = CARS / known.name
    outputs = await walk(path, MEMORY)
    assert len(outputs) == known.records
    assert sum(len(output.value) for output in outputs) == known.size
    assert all(output.cid == Cid.of(output.value) for output in outputs)
    keys = [output.key for output in outputs]
    assert all(one.encode() < other.encode() for one, other in pairwise(keys))
    assert ("app.bsky.actor.profile/self" in keys) == (known.records > 0)

    car = path.read_bytes()
    assert await walk(path, DISK, chunk=7) == outputs  # in place
    assert await walk(car, DISK) == outputs  # copied
    assert await walk(pieces_of(car, 1000), MEMORY, chunk=7) == outputs
    assert await walk(pieces_of(car, 999), DISK) == outputs


@pytest.mark.parametrize("name", ["empty", "tiny", "little"])
async def test_export_in_the_smallest_pieces_gives_the_same(name: str) -> None:
    path = CARS / f"{name}.car"
    outputs = await walk(path, MEMORY)
    car = path.read_bytes()
    for size, builder in ((1, DISK), (2, MEMORY), (3, DISK)):
        assert await walk(pieces_of(car, size), builder, chunk=1) == outputs, size
