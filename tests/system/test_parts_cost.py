"""A part of a repo costs its share; `benches/parts.py` measures it, here there is room."""

from __future__ import annotations

from time import process_time

import pytest

from repo_stream import open_car
from repo_stream.testing import made_car

RECORDS = 40_000
SMALL = "app.bsky.graph.block"
SHARES = {"app.bsky.feed.like": 0.7, "app.bsky.feed.post": 0.29, SMALL: 0.01}


@pytest.mark.parametrize("limit", [1000, 0], ids=["memory", "disk"])
async def test_parts_take_their_share_of_the_whole_walk(limit: float) -> None:
    car = b"".join([piece async for piece in made_car(RECORDS, collections=SHARES)])
    # Of three rounds the best of each: others work on this machine too.
    rounds = [await shares(car, limit) for _ in range(3)]
    collections, keys, one_collection = map(min, zip(*rounds, strict=True))
    assert collections < 0.1
    assert keys < (1.5 if limit else 0.8)
    assert one_collection < 0.15


async def shares(car: bytes, limit: float) -> tuple[float, float, float]:
    """What `collections`, all keys, and a walk of one collection take of the whole walk's time."""
    async with open_car(car, mem_limit_mb=limit) as repo:
        began = process_time()
        while await repo.next_chunk(512):
            pass
        whole = process_time() - began
        began = process_time()
        assert SMALL in await repo.collections()
        collections = process_time() - began
        await repo.seek("")
        began = process_time()
        while await repo.next_keys(512):
            pass
        keys = process_time() - began
    async with open_car(car, mem_limit_mb=limit, collections=[SMALL]) as repo:
        began = process_time()
        assert len(await repo.next_chunk(RECORDS) or []) == RECORDS // 100
        one_collection = process_time() - began
    return collections / whole, keys / whole, one_collection / whole
