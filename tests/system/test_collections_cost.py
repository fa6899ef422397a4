"""Listing collections takes time in proportion to them, however many one node holds."""

from __future__ import annotations

from time import process_time

import pytest

from repo_stream import noop, open_car
from repo_stream.mst.rules import key_depth
from repo_stream.testing import build_car

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("mem_limit_mb", [16, 0], ids=["memory", "disk"])
async def test_collections_of_one_record_each_are_listed_in_linear_time(
    mem_limit_mb: float,
) -> None:
    # All in one wide leaf: a walk from the root for each would decode it again and again.
    keys = [f"c{n:05d}/x" for n in range(30_000)]
    wide = [key for key in keys if key_depth(key.encode()) == 0][:8000]
    assert len(wide) == 8000
    listed, walked = float("inf"), float("inf")
    async with open_car(
        build_car({key: {} for key in wide}), block_processor=noop, mem_limit_mb=mem_limit_mb
    ) as repo:
        for _ in range(3):
            began = process_time()
            assert await repo.collections() == [key.partition("/")[0] for key in wide]
            listed = min(listed, process_time() - began)
            await repo.seek("")
            began = process_time()
            while await repo.next_keys(1):
                pass
            walked = min(walked, process_time() - began)
    # Quadratic time would be a hundred times as long.
    assert listed < 10 * walked
