"""What a child process grows by, and how much that may be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream.testing import Order, build_car, made_car

MIB = 1 << 20

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

# Peaks of processes do not depend on what else the machine does, so that these tests need not be
# alone. From one run to the next they differ, by up to 1.5 MiB, but no more beside ten busy ones.
needs_peak = pytest.mark.skipif(
    not (_CLEAR_REFS.exists() and _STATUS.exists() and "VmHWM:" in _STATUS.read_text()),
    reason="needs Linux's /proc to measure the peak of a process",
)

# After the first large block is freed, glibc takes others from its heap, whose holes would be what
# is measured.
_SMALL_HEAP = {"MALLOC_MMAP_THRESHOLD_": "131072"}

# A program defines `main(*arguments)` and calls `measure(main)`.
_HEAD = """
import json, sys
from pathlib import Path

# All that is imported late is imported here: it is no growth.
import aiosqlite, anyio
import anyio._backends._asyncio, anyio._backends._trio
from repo_stream import *
from repo_stream.process import Processor, length, noop, record

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])

def measure(main):
    backend, *arguments = sys.argv[1:]

    async def measured():
        # From here on the peak is counted from what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        base = peak()
        said = await main(*arguments)
        print(json.dumps({"grown": peak() - base, **said}))

    anyio.run(measured, backend=backend)
"""


def measured(
    program: str, *arguments: object, backend: str = "asyncio", small_heap: bool = False
) -> dict[str, Any]:
    """Run a program; give what it says, and as `grown` by how many bytes its peak grew."""
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + program, backend, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | (_SMALL_HEAP if small_heap else {}),
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def most(limit: float) -> float:
    """What a process may grow by at that limit, in bytes."""
    return MIB * (limit * 1.15 if limit >= 16 else limit + 12)


class Cars:
    """Files of made repos, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def made(self, records: int, order: Order = "shuffled") -> Path:
        """A repo of so many records, as they are usually."""
        path = self._folder / f"{records} {order}.car"
        if not path.exists():
            with ThreadPoolExecutor(1) as thread:  # whoever asks may be within an event loop
                thread.submit(anyio.run, _write, path, made_car(records, order=order)).result()
        return path

    def large(self, records: int, size: int) -> Path:
        """A repo of so many records of so many bytes."""
        path = self._folder / f"{records} of {size}.car"
        if not path.exists():
            some = {f"com.example.a/{n:05}": {"n": n, "b": bytes(size)} for n in range(records)}
            path.write_bytes(build_car(some))
        return path

    def remove(self) -> None:
        """Delete them."""
        for path in self._folder.iterdir():
            path.unlink()


async def _write(path: Path, pieces: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(pieces), await anyio.open_file(path, "wb") as file:
        async for piece in pieces:
            await file.write(piece)
