"""Writing a CAR in streamable order: what `order`, `join` and `fetch` do alike."""

from __future__ import annotations

import os
import stat
from typing import IO

from repo_stream import OrderedCar
from repo_stream.cli.output import destination, writing_to

__all__ = ["blocks_written", "write_car"]


async def write_car(car: OrderedCar, path: str | None) -> None:
    """Write a CAR, which appears under its name only when it is complete.

    Args:
        car: the CAR.
        path: the file; `None` for standard output.

    Raises:
        OutputError: if it cannot be written.
        RepoStreamError: if the input cannot be read.
    """
    with destination(path) as file:
        async for piece in car:
            with writing_to(path):
                file.write(piece)
        if path is not None:
            with writing_to(path):
                _to_disk(file)


def _to_disk(file: IO[bytes]) -> None:
    """Write a file to its disk: it may take the place of the only good copy of a repo."""
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device or a pipe has no disk
        os.fsync(file.fileno())


def blocks_written(car: OrderedCar) -> str:
    """Return in words how many blocks were written and dropped; the CAR has been written."""
    read, dropped = car.blocks_read, car.dropped or 0
    written = f"{car.blocks_written:,} blocks written"
    if again := car.blocks_written - (read - dropped):
        written += f" ({again:,} of them again)"
    return f"{written}, {dropped:,} of {read:,} dropped"
