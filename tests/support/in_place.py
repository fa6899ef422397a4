"""Repos that do not fit in memory and stay in their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_stream import DiskDriver, DiskStore, Driver, DriverBuilder, Output
from repo_stream.testing import BuiltRepo, build_repo, write_car

#: Keeps nothing in memory, so that a repo stays in its file.
TO_DISK = DriverBuilder(mem_limit_mb=0)

#: More records than a driver fetches at once, some of them alike.
REPO = build_repo(
    {f"app.test.thing/{n:05}": {"n": n, "text": "x" * (n % 90)} for n in range(1500)}
    | {f"app.test.twin/{n:02}": {"shared": n % 7} for n in range(40)}
)
CAR = REPO.to_car()

SMALL = build_repo({f"app.test.a/{n:03}": {"n": n} for n in range(60)})


def written(folder: Path, car: bytes) -> Path:
    path = folder / "repo.car"
    path.write_bytes(car)
    return path


def without(repo: BuiltRepo, cid: bytes) -> bytes:
    """The CAR of a repo that lacks a block."""
    return write_car([repo.commit_cid], [each for each in repo.blocks.items() if each[0] != cid])


async def opened(
    source: Any, store: DiskStore, builder: DriverBuilder[Any] = TO_DISK
) -> DiskDriver[Any]:
    """Get a driver of a repo that does not fit in memory."""
    match await builder.load_car(source):
        case Driver.Disk(paused):
            return (await paused.finish_loading(store))[1]
        case Driver.Memory():
            pytest.fail("it fits in memory")


async def rest_of(driver: DiskDriver[Any], chunk: int = 256) -> list[Output[Any]]:
    outputs: list[Output[Any]] = []
    while part := await driver.next_outputs(chunk):
        outputs += part
    return outputs
