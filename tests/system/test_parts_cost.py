"""A part of a repo costs its share; `benches/parts.py` measures it, here there is room."""

from __future__ import annotations

from time import process_time

import pytest

from repo_stream import noop, open_car
from repo_stream.testing import made_car

RECORDS = 20_000
SMALL = "app.bsky.graph.block"
SHARES = {"app.bsky.feed.like": 0.7, "app.bsky.feed.post": 0.29, SMALL: 0.01}


@pytest.mark.long
@pytest.mark.parametrize(
    ("limit", "most_for_keys"),
    [pytest.param(1000, 1.5, id="memory"), pytest.param(0, 0.8, id="disk")],
)
async def test_parts_take_their_share_of_the_whole_walk(limit: float, most_for_keys: float) -> None:
    car = b"".join([piece async for piece in made_car(RECORDS, collections=SHARES)])
    most = {"collections": 0.1, "keys": most_for_keys, "one collection": 0.15}
    found = dict.fromkeys(most, float("inf"))
    # The best of a few rounds: others work on this machine, too.
    for _ in range(5):
        found = {
            part: min(found[part], share) for part, share in (await shares(car, limit)).items()
        }
        if all(found[part] < most[part] for part in most):
            return
    pytest.fail(f"shares of the whole walk's time: {found}, and not {most}")


async def shares(car: bytes, limit: float) -> dict[str, float]:
    """What `collections`, all keys, and a walk of one collection take of the whole walk's time."""
    async with open_car(car, block_processor=noop, mem_limit_mb=limit) as repo:
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
    async with open_car(car, block_processor=noop, mem_limit_mb=limit, collections=[SMALL]) as repo:
        began = process_time()
        assert len(await repo.next_chunk(RECORDS) or []) == RECORDS // 100
        one_collection = process_time() - began
    return {
        "collections": collections / whole,
        "keys": keys / whole,
        "one collection": one_collection / whole,
    }
