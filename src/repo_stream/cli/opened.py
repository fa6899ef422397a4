"""The repo that the command line names, opened with its options, and with a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from repo_stream import (
    Cid,
    Limits,
    OrderedCar,
    Output,
    Processor,
    Repo,
    Source,
    join_cars,
    open_car,
    order_car,
)
from repo_stream.cli.input import Input, open_input, size_of_file
from repo_stream.cli.progress import Meter, Position
from repo_stream.cli.screen import one_line

__all__ = ["Opened", "joined", "opened", "ordered"]

T = TypeVar("T")

# How many to take at a time. Keys are short, but a record can have 2 MiB.
_KEYS: Final = 512
_RECORDS: Final = 32


@dataclass(frozen=True)
class Opened(Generic[T]):
    """An open repo with its progress bar.

    Attributes:
        repo: the repo.
        meter: shows the progress; close it before anything else is written to the terminal.
    """

    repo: Repo[T]
    meter: Meter
    _options: argparse.Namespace

    @property
    def way(self) -> str:
        """Whether the repo was walked in memory or on disk, in words."""
        limit = f"{self._options.mem_limit_mb:g} MiB"
        if not self.repo.spilled:
            return f"in memory (limit {limit})"
        if self.repo.in_place:
            file = "its own file"
        else:
            disk = self._options.disk
            file = "a temporary file" if disk is None else one_line(disk)
        return f"on disk (memory limit {limit}), in {file}"

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
    check_first: bool = True,
) -> AsyncGenerator[Opened[T]]:
    """Open the repo that the command line names, and show the progress of reading it.

    Args:
        options: the command line.
        processor: called for each record.
        on_error: what to do about records that are missing or not valid.
        check_first: read and check the whole file before the first record.

    Raises:
        OSError: if it cannot be opened.
        RepoStreamError: if it cannot be read.
    """
    async with (
        _input(options) as (source, meter),
        open_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            block_processor=processor,
            spill=options.disk,
            collections=options.collections,
            key_range=options.key_range,
            on_error=on_error,
            limits=_limits(options),
        ) as repo,
        meter.following(lambda: Position(repo.bytes_read, repo.fully_read)),
    ):
        meter.expect(_size_to_read(options, in_place=repo.in_place))
        if check_first:
            await repo.read_all()
        yield Opened(repo, meter, options)


@asynccontextmanager
async def ordered(options: argparse.Namespace) -> AsyncGenerator[OrderedCar]:
    """Open the CAR that the command line names, to be written in streamable order.

    Raises:
        OSError: if it cannot be opened.
        RepoStreamError: if it cannot be read.
    """
    async with (
        _input(options) as (source, meter),
        order_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            spill=options.disk,
            limits=_limits(options),
        ) as car,
        meter.following(lambda: Position(car.bytes_read, car.fully_read, car.bytes_written)),
    ):
        meter.expect(_size_to_read(options, in_place=car.in_place))
        yield car


@asynccontextmanager
async def joined(options: argparse.Namespace) -> AsyncGenerator[OrderedCar]:
    """Open the CARs that the command line names, to be joined.

    Raises:
        OSError: if one of them cannot be opened.
        RepoStreamError: if one of them cannot be read.
    """
    meter = Meter(shown=not options.quiet)
    with ExitStack() as stack:
        stack.callback(meter.close)
        sources: list[Source] = []
        for name in (options.car, *options.slices):
            if size_of_file(name) is not None:
                sources.append(name)
            else:
                sources.append(Input(stack.enter_context(open_input(name))))
        async with (
            join_cars(
                *sources,
                mem_limit_mb=options.mem_limit_mb,
                spill=options.disk,
                limits=_limits(options),
            ) as car,
            meter.following(lambda: Position(car.bytes_read, car.fully_read, car.bytes_written)),
        ):
            yield car


@asynccontextmanager
async def _input(options: argparse.Namespace) -> AsyncGenerator[tuple[Source, Meter]]:
    """Return the source that the command line names: a regular file as a path, else a file."""
    name = Path(options.car).name if options.several else ""
    meter = Meter(shown=not options.quiet, name=name)
    try:
        if size_of_file(options.car) is not None:
            yield options.car, meter
        else:
            with open_input(options.car) as file:
                yield Input(file), meter
    finally:
        meter.close()


def _size_to_read(options: argparse.Namespace, *, in_place: bool) -> int | None:
    """Return how many bytes there are to read; `None` if that is not the size of the file."""
    return size_of_file(options.car) if in_place else None


def _limits(options: argparse.Namespace) -> Limits:
    limits: dict[str, Any] = dict(options.limits or ())  # Any: by name, of their types
    return Limits(**limits)
