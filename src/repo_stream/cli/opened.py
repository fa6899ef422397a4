"""A repo as the command line asks for it: input, limit, disk and progress put together."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from repo_stream import (
    Cid,
    Commit,
    DriverBuilder,
    Limits,
    OrderedCar,
    Output,
    Processor,
    Repo,
    StreamDriver,
    open_car,
    order_car,
)
from repo_stream.cli.input import Input, open_input
from repo_stream.cli.progress import Meter
from repo_stream.cli.screen import one_line

__all__ = ["Opened", "Streamed", "opened", "ordered", "streamed"]

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
    with _input(options) as (source, meter):
        async with open_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            block_processor=processor,
            spill=options.disk,
            collections=options.collections,
            key_range=options.key_range,
            on_error=on_error,
            limits=_limits(options),
        ) as repo:
            way = _way(options, spilled=repo.spilled)
            yield Opened(repo, source.taken, way, meter)


@dataclass(frozen=True)
class Streamed(Generic[T]):
    """A repo that is walked while it is read.

    Attributes:
        commit: the repo's commit.
        driver: walks it.
    """

    commit: Commit
    driver: StreamDriver[T]
    _options: argparse.Namespace
    _source: Input
    _meter: Meter

    @property
    def size(self) -> int:
        """The bytes of its CAR, as far as it has been read."""
        return self._source.taken

    @property
    def way(self) -> str:
        """Where the repo has been so far, in words."""
        return _way(self._options, spilled=self.driver.spilled)

    async def chunks(self) -> AsyncGenerator[list[Output[T]]]:
        """Walk the repo."""
        while chunk := await self.driver.next_outputs(_RECORDS):
            self._meter.walked(len(chunk))
            yield chunk


@asynccontextmanager
async def streamed(
    options: argparse.Namespace, processor: Processor[T] | Callable[[bytes], T]
) -> AsyncGenerator[Streamed[T]]:
    """Open the repo that the command line names as far as its commit, showing how far it is.

    Raises:
        OSError: where it cannot be opened.
        RepoStreamError: where it cannot be read.
    """
    builder = DriverBuilder(
        mem_limit_mb=options.mem_limit_mb, block_processor=processor, limits=_limits(options)
    )
    with _input(options) as (source, meter):
        async with builder.stream_car(source, spill=options.disk) as (commit, driver):
            yield Streamed(commit, driver, options, source, meter)


@asynccontextmanager
async def ordered(options: argparse.Namespace) -> AsyncGenerator[OrderedCar]:
    """Have the CAR that the command line names in streamable order, showing how far it is.

    Raises:
        OSError: where it cannot be opened.
        RepoStreamError: where it cannot be read.
    """
    with _input(options) as (source, _meter):
        async with order_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            spill=options.disk,
            limits=_limits(options),
        ) as car:
            yield car


@contextmanager
def _input(options: argparse.Namespace) -> Generator[tuple[Input, Meter]]:
    meter = Meter(shown=not options.quiet)
    try:
        with open_input(options.car) as file:
            source = Input(file, meter.read)
            meter.expect(source.size)
            yield source, meter
    finally:
        meter.close()


def _limits(options: argparse.Namespace) -> Limits:
    limits: dict[str, Any] = dict(options.limits or ())  # Any: by name, of their types
    return Limits(**limits)


def _way(options: argparse.Namespace, *, spilled: bool) -> str:
    limit = f"limit {options.mem_limit_mb:g} MiB"
    if not spilled:
        return f"in memory ({limit})"
    place = "a temporary file" if options.disk is None else one_line(options.disk)
    return f"through the disk (memory {limit}): {place}"
