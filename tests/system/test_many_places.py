"""As many blocks as it takes for their places to be too many for the lowest memory limit."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from repo_stream import DiskBuilder, DriverBuilder, MaxSizeExceeded
from repo_stream.testing import made_car, made_records
from support.in_place import opened, rest_of

COUNT = 40_000


@pytest.mark.long
async def test_places_go_to_the_store_at_the_lowest_limit_alone(tmp_path: Path) -> None:
    path = tmp_path / "many.car"
    async with await anyio.open_file(path, "wb") as out:
        async for piece in made_car(COUNT):
            await out.write(piece)
    async with DiskBuilder().open(tmp_path / "store.db") as store:
        driver = await opened(path, store)
        assert 0 < store.stored < path.stat().st_size / 10
        found = [(each.key, each.value) for each in await rest_of(driver)]
        assert found == [*made_records(COUNT)]
    async with DiskBuilder(max_stored_mb=0).open() as store:
        with pytest.raises(MaxSizeExceeded):
            await opened(path, store)
        driver = await opened(path, store, DriverBuilder(mem_limit_mb=8))
        assert store.stored == 0
        assert [each.value for each in await rest_of(driver)] == [data for _, data in found]
