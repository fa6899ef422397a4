"""The repo that the command line names, opened with its options, and with a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, cast

from repo_stream import (
    CarReader,
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
from repo_stream.cli.input import Input, KeptInput, open_input, size_of_file
from repo_stream.cli.losses import Losses
from repo_stream.cli.progress import Meter, Position
from repo_stream.cli.screen import one_line

__all__ = ["Given", "Opened", "blocks_of", "joined", "kept", "opened", "ordered"]

T = TypeVar("T")

# How many to take at a time. Keys are short, but a record can have 2 MiB.
_KEYS: Final = 512
_RECORDS: Final = 32


class Given(NamedTuple):
    """The CAR that the command line names, as a source.

    Attributes:
        source: the path of a regular file, an input, or pieces of a CAR.
        meter: shows the progress.
    """

    source: str | Input | KeptInput | AsyncGenerator[bytes]
    meter: Meter


@dataclass(frozen=True)
class Opened(Generic[T]):
    """An open repo with its progress bar.

    Attributes:
        repo: the repo.
        meter: shows the progress; close it before anything else is written to the terminal.
        losses: what the walk has not found, if it goes past that (`--partial`).
    """

    repo: Repo[T]
    meter: Meter
    _options: argparse.Namespace
    losses: Losses | None = None

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
            yield keys if self.losses is None else self.losses.taken_out_of_keys(keys)

    async def chunks(self, *, with_gaps: bool = False) -> AsyncGenerator[list[Output[T]]]:
        """Walk the repo.

        Args:
            with_gaps: with `losses`, yield the gaps as well, not only note them. Then `T` has to
                include `Gap`.
        """
        while chunk := await self.repo.next_outputs(_RECORDS):
            self.meter.walked(len(chunk))
            records = chunk if self.losses is None else self.losses.taken_out(chunk)
            yield chunk if with_gaps else records


@asynccontextmanager
async def opened(
    options: argparse.Namespace,
    processor: Processor[T] | Callable[[bytes], T],
    *,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: bool | Literal["all"] = False,
    check_first: bool = True,
    given: Given | None = None,
) -> AsyncGenerator[Opened[T]]:
    """Open the repo that the command line names, and show the progress of reading it.

    With `--partial`, it is walked past everything that is missing, damaged or not valid.

    Args:
        options: the command line.
        processor: called for each record.
        on_error: what to do about records that are missing or not valid.
        gaps: go past what is missing or damaged; see `open_car`. Then `T` has to include `Gap`.
        check_first: read and check the whole file before the first record.
        given: the CAR, if it has been opened before.

    Raises:
        OSError: if it cannot be opened.
        RepoStreamError: if it cannot be read.
    """
    past = "all" if options.partial else gaps
    async with (
        _input(options) if given is None else nullcontext(given) as (source, meter),
        open_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            block_processor=processor,
            spill=options.disk,
            collections=options.collections,
            key_range=options.key_range,
            on_error="skip" if options.partial else on_error,
            # `Losses` takes gaps out again, or `T` has them.
            gaps=cast("Literal[True, 'all']", past),
            limits=_limits(options),
        ) as repo,
        meter.following(lambda: Position(repo.bytes_read, repo.fully_read)),
    ):
        if isinstance(source, KeptInput):
            source.forget()
        meter.expect(_size_to_read(options, in_place=repo.in_place))
        if check_first:
            await repo.read_all()
        yield Opened(cast("Repo[T]", repo), meter, options, Losses() if options.partial else None)


@asynccontextmanager
async def blocks_of(options: argparse.Namespace, given: Given) -> AsyncGenerator[CarReader]:
    """Read the blocks of a CAR once more, whether it is the CAR of a repo or not, past damage.

    Args:
        options: the command line.
        given: the CAR.

    Raises:
        RepoStreamError: if it cannot be read.
    """
    source, meter = given
    if isinstance(source, KeptInput):
        source.rewind()
    reader = await CarReader.open(source, limits=_limits(options), past_damage=True)
    try:
        async with meter.following(lambda: Position(reader.offset, fully_read=False)):
            yield reader
    finally:
        await reader.aclose()


@asynccontextmanager
async def kept(options: argparse.Namespace) -> AsyncGenerator[Given]:
    """Open the CAR that the command line names, to be read by `opened`, and by `blocks_of` again.

    Raises:
        OSError: if it cannot be opened.
    """
    async with _input(options) as (source, meter):
        if not isinstance(source, Input):
            yield Given(source, meter)
            return
        again = KeptInput(source)
        try:
            yield Given(again, meter)
        finally:
            again.forget()


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
async def _input(options: argparse.Namespace) -> AsyncGenerator[Given]:
    """Return the source that the command line names: a regular file as a path, else a file."""
    name = one_line(Path(options.car).name) if options.several else ""
    meter = Meter(shown=not options.quiet, name=name)
    try:
        if size_of_file(options.car) is not None:
            yield Given(options.car, meter)
        else:
            with open_input(options.car) as file:
                yield Given(Input(file), meter)
    finally:
        meter.close()


def _size_to_read(options: argparse.Namespace, *, in_place: bool) -> int | None:
    """Return how many bytes there are to read; `None` if that is not the size of the file."""
    return size_of_file(options.car) if in_place else None


def _limits(options: argparse.Namespace) -> Limits:
    limits: dict[str, Any] = dict(options.limits or ())  # Any: by name, of their types
    return Limits(**limits)
