"""What a child process grows by, and how much that may be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio

from repo_stream.testing import build_car

MIB = 1 << 20
STATUS = Path("/proc/self/status")


CLEAR_REFS = Path("/proc/self/clear_refs")


HAS_PEAK = CLEAR_REFS.exists() and STATUS.exists() and "VmHWM:" in STATUS.read_text()


# After the first large block is freed, glibc takes others from its heap, whose holes would be what
# is measured.
SMALL_HEAP = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def large_car(records: int, size: int) -> bytes:
    """A repo of records that are all as large as this."""
    return build_car({f"com.example.a/{n:05}": {"n": n, "b": bytes(size)} for n in range(records)})


async def write(path: Path, pieces: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(pieces), await anyio.open_file(path, "wb") as file:
        async for piece in pieces:
            await file.write(piece)


def most(limit: float) -> float:
    """What a process may grow by at that limit, in bytes."""
    return MIB * (limit * 1.15 if limit >= 16 else limit + 12)
