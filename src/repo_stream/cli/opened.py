"""A repo as the command line asks for it: input, limit, disk and progress put together."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from repo_stream import Cid, Limits, Output, Processor, Repo, open_car
from repo_stream.cli.input import Input, open_input
from repo_stream.cli.progress import Meter
from repo_stream.cli.screen import one_line

__all__ = ["Opened", "opened"]

T = TypeVar("T")

# Keys are short. A record can have 2 MiB, so that few of them are held at once.
_KEYS: Final = 512
_RECORDS: Final = 32


@dataclass(frozen=True)
class Opened(Generic[T]):
    """A repo that has been loaded, and what is known about the way it went.

    Attributes:
        repo: the repo.
        size: the bytes of its CAR.
        way: where it is, in words.
        meter: shows the progress; close it before something else is shown.
    """

    repo: Repo[T]
    size: int
    way: str
    meter: Meter

    async def keys(self) -> AsyncGenerator[list[tuple[str, Cid]]]:
        """Walk the repo without its records."""
        while keys := await self.repo.next_keys(_KEYS):
            self.meter.walked(len(keys))
            yield keys

    async def chunks(self) -> AsyncGenerator[list[Output[T]]]:
        """Walk the repo."""
        while chunk := await self.repo.next_outputs(_RECORDS):
            self.meter.walked(len(chunk))
            yield chunk


@asynccontextmanager
async def opened(
    options: argparse.Namespace,
    processor: Processor[T] | Callable[[bytes], T],
    *,
    on_error: Literal["raise", "skip"] = "raise",
) -> AsyncGenerator[Opened[T]]:
    """Load the repo that the command line names, showing how far it is.

    Raises:
        OSError: where it cannot be opened.
        RepoStreamError: where it cannot be read.
    """
    limits: dict[str, Any] = dict(options.limits or ())  # Any: by name, of their types
    meter = Meter(shown=not options.quiet)
    try:
        with open_input(options.car) as file:
            source = Input(file, meter.read)
            meter.expect(source.size)
            async with open_car(
                source,
                mem_limit_mb=options.mem_limit_mb,
                block_processor=processor,
                spill=options.disk,
                collections=options.collections,
                key_range=options.key_range,
                on_error=on_error,
                limits=Limits(**limits),
            ) as repo:
                way = _way(options, spilled=repo.spilled)
                yield Opened(repo, source.taken, way, meter)
    finally:
        meter.close()


def _way(options: argparse.Namespace, *, spilled: bool) -> str:
    limit = f"limit {options.mem_limit_mb:g} MiB"
    if not spilled:
        return f"in memory ({limit})"
    place = "a temporary file" if options.disk is None else one_line(options.disk)
    return f"through the disk (memory {limit}): {place}"
