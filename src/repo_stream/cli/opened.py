"""The repo that the command line names, opened with its options, and with a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from repo_stream import (
    CarReader,
    Cid,
    OrderedCar,
    Output,
    Processor,
    Repo,
    Source,
    join_cars,
    open_car,
    order_car,
)
from repo_stream.arrow import batches, typed_batches
from repo_stream.cli.accounts import is_account, kind_of, network_of
from repo_stream.cli.downloads import Downloaded, Named, account_repo, downloaded, fetched
from repo_stream.cli.input import Input, KeptInput, limits_of, open_input, size_of_file
from repo_stream.cli.losses import Losses
from repo_stream.cli.progress import Meter, Position
from repo_stream.cli.screen import one_line

__all__ = [
    "Given",
    "Opened",
    "as_file",
    "blocks_of",
    "joined",
    "joined_sources",
    "kept",
    "opened",
    "ordered",
]

T = TypeVar("T")
#: The path of a regular file, an input, or pieces of a CAR.
_Source: TypeAlias = str | Input | Downloaded | KeptInput | AsyncGenerator[bytes]

# How many to take at a time. Keys are short, but a record can have 2 MiB.
_KEYS: Final = 512
_RECORDS: Final = 32
# Bytes to copy at a time.
_PIECE: Final = 256 * 1024


class Given(NamedTuple):
    """The CAR that the command line names, as a source.

    Attributes:
        source: the path of a regular file, an input, or pieces of a CAR.
        meter: shows the progress.
        named: the account, if the command line names one.
    """

    source: _Source
    meter: Meter
    named: Named | None = None


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

    def batches(self, columns: Sequence[str] | None) -> AsyncGenerator[Any]:  # Any: no types
        """Walk the repo, opened with `arrow.row_processor(columns)`, in batches of Arrow."""
        walked: Any = _Walked(self)  # as much of a driver as is needed
        return batches(walked, columns)

    def typed_batches(self, schema: Any) -> AsyncGenerator[Any]:  # noqa: ANN401 - pyarrow has no types
        """Walk the repo, opened with `typed_processor()`, in batches of Arrow with that schema."""
        walked: Any = _Walked(self)
        return typed_batches(walked, schema)


class _Walked:
    """Walks an open repo as its own methods do, counts what comes, and leaves out what is lost."""

    def __init__(self, car: Opened[Any]) -> None:  # Any: values do not matter here
        self._car = car
        self.commit = car.repo.commit

    # Any: the columns that `Repo.next_columns` returns.
    async def next_columns(self, n: int, *, records: bool = True) -> Any:  # noqa: ANN401 - above
        """Do what `Repo.next_columns` does."""
        taken = await self._car.repo.next_columns(n, records=records)
        if taken is None:
            return None
        self._car.meter.walked(len(taken.keys))
        losses = self._car.losses
        if losses is None:
            return taken
        keys, cids = taken.keys, list(map(Cid, taken.cids))
        if records:
            outputs = list(map(Output, keys, cids, taken.values))
            found: list[Any] = [*losses.taken_out(outputs)]
        else:
            found = [
                (*pair, None)
                for pair in losses.taken_out_of_keys(list(zip(keys, cids, strict=True)))
            ]
        columns = [list(column) for column in zip(*found, strict=True)] or [[], [], []]
        return type(taken)(*columns)


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
        options: the command line. If `kept` has a file for the CAR, that is read.
        processor: called for each record.
        on_error: what to do about records that are missing or not valid.
        gaps: go past what is missing or damaged; see `open_car`. Then `T` has to include `Gap`.
        check_first: read and check the whole file before the first record.
        given: the CAR, if it has been opened before.

    Raises:
        OSError: if it cannot be opened.
        RepoStreamError: if it cannot be read.
    """
    keywords: dict[str, Any] = {  # Any: each is of another type
        "block_processor": processor,
        "collections": options.collections,
        "key_range": options.key_range,
        "on_error": "skip" if options.partial else on_error,
        # `Losses` takes gaps out again, or `T` has them.
        "gaps": "all" if options.partial else gaps,
    }
    losses = Losses() if options.partial else None
    if given is None and options.car not in options.kept and is_account(options.car):
        async with (
            _metered(options) as meter,
            network_of(options) as network,
            account_repo(options, network, meter, keywords) as repo,
        ):
            yield Opened(repo, meter, options, losses)
        return
    async with (
        _input(options) if given is None else nullcontext(given) as (source, meter, _),
        open_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            spill=options.disk,
            limits=limits_of(options),
            **keywords,
        ) as repo,
        meter.following(lambda: Position(repo.bytes_read, repo.fully_read)),
    ):
        if isinstance(source, KeptInput):
            source.forget()
        meter.expect(_size_to_read(source, in_place=repo.in_place))
        if check_first:
            await repo.read_all()
        yield Opened(repo, meter, options, losses)


@asynccontextmanager
async def blocks_of(options: argparse.Namespace, given: Given) -> AsyncGenerator[CarReader]:
    """Read the blocks of a CAR once more, whether it is the CAR of a repo or not, past damage.

    Args:
        options: the command line.
        given: the CAR.

    Raises:
        RepoStreamError: if it cannot be read.
    """
    source, meter, _ = given
    if isinstance(source, KeptInput):
        source.rewind()
    reader = await CarReader.open(source, limits=limits_of(options), past_damage=True)
    try:
        async with meter.following(lambda: Position(reader.offset, fully_read=False)):
            yield reader
    finally:
        await reader.aclose()


@asynccontextmanager
async def kept(options: argparse.Namespace) -> AsyncGenerator[Given]:
    """Open the CAR that the command line names, to be read by `opened`, and by `blocks_of` again.

    Of an account, it is what its server sends, which has not been checked.

    Raises:
        OSError: if it cannot be opened.
        RepoStreamError: if it cannot be downloaded.
    """
    async with _input(options) as given:
        if not isinstance(given.source, (Input, Downloaded)):
            yield given
            return
        again = KeptInput(given.source)
        try:
            yield given._replace(source=again)
        finally:
            again.forget()


@asynccontextmanager
async def as_file(options: argparse.Namespace) -> AsyncGenerator[str]:
    """Return the path of a file with the CAR that the command line names, to be read repeatedly.

    Of an account, it is its repo, verified. What is no regular file is copied to a temporary one.

    Raises:
        OSError: if it cannot be opened, or there is no room for a copy.
        RepoStreamError: if it cannot be downloaded.
    """
    async with AsyncExitStack() as stack:
        if is_account(options.car):
            meter = await stack.enter_async_context(_metered(options))
            yield await stack.enter_async_context(fetched(options, meter))
            return
        source, meter, _ = await stack.enter_async_context(_input(options))
        if not isinstance(source, (Input, Downloaded)):
            yield str(source)
            return
        folder = stack.enter_context(TemporaryDirectory(prefix="repo-stream-"))
        path = str(Path(folder, "repo.car"))
        with Path(path).open("xb") as file:  # noqa: ASYNC230 - a temporary file
            async with meter.following(lambda: Position(file.tell(), fully_read=False)):
                while piece := await source.read(_PIECE):
                    file.write(piece)
        yield path


@asynccontextmanager
async def ordered(options: argparse.Namespace) -> AsyncGenerator[OrderedCar]:
    """Open the CAR that the command line names, to be written in streamable order.

    Raises:
        OSError: if it cannot be opened.
        RepoStreamError: if it cannot be read.
    """
    async with (
        _metered(options) as meter,
        _verified_source(options, meter) as source,
        order_car(
            source,
            mem_limit_mb=options.mem_limit_mb,
            spill=options.disk,
            limits=limits_of(options),
        ) as car,
        meter.following(lambda: Position(car.bytes_read, car.fully_read, car.bytes_written)),
    ):
        meter.expect(_size_to_read(source, in_place=car.in_place))
        yield car


@asynccontextmanager
async def joined(options: argparse.Namespace) -> AsyncGenerator[OrderedCar]:
    """Open the CARs that the command line names, to be joined.

    Raises:
        OSError: if one of them cannot be opened.
        RepoStreamError: if one of them cannot be read.
    """
    async with AsyncExitStack() as stack:
        meter = await stack.enter_async_context(_metered(options))
        sources: list[Source] = []
        for name in (options.car, *options.slices):
            of_name = argparse.Namespace(**{**vars(options), "car": name})
            sources.append(await stack.enter_async_context(_verified_source(of_name, meter)))
        yield await stack.enter_async_context(joined_sources(options, sources, meter))


@asynccontextmanager
async def joined_sources(
    options: argparse.Namespace, sources: Sequence[Source], meter: Meter
) -> AsyncGenerator[OrderedCar]:
    """Join CARs, and show the progress.

    Raises:
        RepoStreamError: if one of them cannot be read, or if they cannot be joined.
    """
    async with (
        join_cars(
            *sources,
            mem_limit_mb=options.mem_limit_mb,
            spill=options.disk,
            limits=limits_of(options),
        ) as car,
        meter.following(lambda: Position(car.bytes_read, car.fully_read, car.bytes_written)),
    ):
        yield car


# --- Sources --------------------------------------------------------------------------------------


@asynccontextmanager
async def _metered(options: argparse.Namespace) -> AsyncGenerator[Meter]:
    """Return what shows the progress, with the name of the CAR if there are several."""
    name = ""
    if options.several:
        is_file = kind_of(options.car) == "file"
        name = one_line(Path(options.car).name if is_file else options.car)
    meter = Meter(shown=not options.quiet, name=name)
    try:
        yield meter
    finally:
        meter.close()


@asynccontextmanager
async def _input(options: argparse.Namespace) -> AsyncGenerator[Given]:
    """Return the source that the command line names, as it is.

    A regular file comes as a path, any other file and what has to be downloaded as an input.
    """
    async with _metered(options) as meter:
        if (path := options.kept.get(options.car)) is not None:
            yield Given(path, meter)
        elif kind_of(options.car) != "file":
            async with downloaded(options) as (download, named):
                yield Given(download, meter, named)
        elif size_of_file(options.car) is not None:
            yield Given(options.car, meter)
        else:
            with open_input(options.car) as file:
                yield Given(Input(file), meter)


@asynccontextmanager
async def _verified_source(options: argparse.Namespace, meter: Meter) -> AsyncGenerator[_Source]:
    """Return the source that the command line names; of an account, its repo as a file."""
    if is_account(options.car):
        async with fetched(options, meter) as path:
            yield path
    else:
        async with _input(options) as given:
            yield given.source


def _size_to_read(source: _Source, *, in_place: bool) -> int | None:
    """Return how many bytes there are to read; `None` if that is not the size of the file."""
    return size_of_file(source) if in_place and isinstance(source, str) else None
