"""What several test files need: the shared material, and short ways through the library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from repo_stream import DiskBuilder, DiskStore, Driver, DriverBuilder, Output, Source

T = TypeVar("T")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(name: str) -> Path:
    """A file that comes beside the project, not with it; the test skips where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs shared/{name}, which is not here")
    return path


async def pieces_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def walk(
    source: Source,
    builder: DriverBuilder[T],
    *,
    store: DiskStore | None = None,
    chunk: int = 256,
) -> list[Output[T]]:
    """Walk a whole repo, through `store` or a temporary one where it does not fit in memory."""
    outputs: list[Output[T]] = []
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            while part := await driver.next_outputs(chunk):
                outputs += part
        case Driver.Disk(paused):
            if store is None:
                async with DiskBuilder().open() as temporary:
                    _, on_disk = await paused.finish_loading(temporary)
                    while part := await on_disk.next_outputs(chunk):
                        outputs += part
            else:
                _, on_disk = await paused.finish_loading(store)
                while part := await on_disk.next_outputs(chunk):
                    outputs += part
                await on_disk.reset_store()
    return outputs
