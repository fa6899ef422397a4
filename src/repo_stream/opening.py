"""The short ways in: `open_car` for a repo that is ready to walk, `load_commit` for its commit.

`open_car` decides what `DriverBuilder` leaves to the caller: it streams, blocks that do not fit in
memory go to disk, and all that was opened is closed at the end.
"""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
# `T` is a decoded record without a processor.
# pyright: reportInvalidTypeVarUse=false
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, cast, overload

from repo_stream.arguments import check_flag
from repo_stream.car.reader import CarReader
from repo_stream.car.source import Source, check_source
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.destination import check_spill
from repo_stream.drivers.keywords import OpenKeywords, Spill, takes
from repo_stream.drivers.loading import no_commit, root_of
from repo_stream.drivers.options import OnError
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.limits import Limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Gap, Output
from repo_stream.process import BlockProcessor, record

if TYPE_CHECKING:
    # `typing.TypeVar` has no defaults before Python 3.13. Type checkers bring this module along.
    from typing_extensions import TypeVar

    # Any: a record's values are of any type of the data model.
    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["Repo", "load_commit", "open_car", "records", "told_builder"]

# The header and the commit of a repo have some 300 bytes together.
_COMMIT_PIECE: Final = 4096


class Repo(StreamDriver[T]):
    """An open repo, of which as much has been read as was needed so far; `open_car` makes it.

    It walks the repo: see `RepoDriver` for the ways to read records, and `StreamDriver` for what is
    known about the file so far. `commit` is the repo's commit. Its signature has not been checked.
    """

    def __repr__(self) -> str:
        where = "on disk" if self.spilled else "in memory"
        return f"<Repo {self.commit.did} at {self.commit.rev}, {where}>"


@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> AbstractAsyncContextManager[Repo[T]]: ...
@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> AbstractAsyncContextManager[Repo[T | ProcessError | MissingBlock]]: ...
@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> AbstractAsyncContextManager[Repo[T | Gap]]: ...
@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> AbstractAsyncContextManager[Repo[T | ProcessError | MissingBlock | Gap]]: ...
@takes(OpenKeywords)
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[Any] = record,  # Any: the overloads say which results
    on_error: OnError = "raise",
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[OpenKeywords],
) -> AbstractAsyncContextManager[Repo[Any]]:  # Any: see the overloads
    """Open a repo and walk it while its CAR is read; everything is closed at the end.

    The first record comes with the first piece of the file, if the order of its blocks allows that,
    and nothing is read before it is needed, so a slow loop slows down the download. An error in the
    file is raised where it is found, after the records before it. With `check_first` the whole file
    is checked before the first record.

    Args:
        source: see `Source`. It is not closed; only the file of a path is opened and closed here.
            Blocks that do not fit in memory are read again in such a file, so do not write to it
            meanwhile. If you pass an open file instead, they are copied; and so they are if the
            file is compressed with gzip or zstd, which is decompressed as it is read. zstd takes up
            to 8 MiB for that, beside the memory limit: 2 MiB if the file was compressed by default.
        block_processor: what to make of each record; see `DriverBuilder.with_block_processor`. The
            default, `record`, decodes it to a `dict`; `noop` leaves it as it is, as bytes.
        on_error: see `DriverBuilder.with_on_error`.
        gaps: go past missing blocks, as in a slice, and past damage, which is listed in
            `Repo.damage`; with `"all"`, also past nodes that break a rule. That gets everything out
            of a damaged file that can be reached; see `DriverBuilder.with_gaps`. A gap does not
            mean that the record under its key is an old one; an example there tells what is new.
        **keywords: with their defaults

            - `mem_limit_mb=16`: how much memory the repo may take before it goes to disk, in MiB.
            - `spill=None`: where blocks go that do not fit in memory: the path of a database, which
              is emptied before and after; a `DiskStore`, which is empty again at the end and stays
              open; `None`, a temporary file; or `False`, nowhere.
            - `collections=None`: see `DriverBuilder.with_collections`; `None` is all of them.
            - `key_range=None`: `(start, stop)`, see `DriverBuilder.with_key_range`.
            - `prefix=None`: see `DriverBuilder.with_prefix`.
            - `drain=True`: read the file to its end when the walk is over, and check the rest too.
            - `check_first=False`: read and check the whole file before the first record comes out.
              The tree is still checked as it is walked.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input; `None` is `Limits()`.

    Returns:
        A context manager that returns the `Repo`, to be used within it. Entering it reads the CAR
        as far as its commit, or to its end with `check_first`.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid; `NothingNew` if the file is the answer
            to `since` and nothing has changed.
        MemLimitExceeded: if the blocks before the commit exceed the limit, or with `check_first`
            those of the whole file, and `spill` is `False`.
        ProcessError: if results of the processor cannot be stored on disk.
        DiskError: if the store fails.
        OSError: if `source` is a path that cannot be opened or read, such as `FileNotFoundError`.
        TypeError: if `source` is not a supported source, if a keyword is of the wrong type, or if
            there is no such keyword.
        ValueError: if a name, a range or `on_error` is not valid.

    Example:
        >>> async def texts(path: str) -> list[str]:
        ...     async with open_car(path, collections=["app.bsky.feed.post"]) as repo:
        ...         return [post["text"] async for key, post in repo]
    """
    check_source(source)
    return _opened(
        told_builder(block_processor, on_error, gaps, keywords),
        source,
        keywords["spill"],
        drain=keywords["drain"],
        check_first=keywords["check_first"],
    )


@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> AsyncGenerator[Output[T]]: ...
@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> AsyncGenerator[Output[T | ProcessError | MissingBlock]]: ...
@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> AsyncGenerator[Output[T | Gap]]: ...
@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> AsyncGenerator[Output[T | ProcessError | MissingBlock | Gap]]: ...
@takes(OpenKeywords)
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[Any] = record,  # Any: the overloads say which results
    on_error: OnError = "raise",
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[OpenKeywords],
) -> AsyncGenerator[Output[Any]]:  # Any: see the overloads
    """Iterate over the records of a repo, as `Output`: open it, read it, and close it at the end.

    This is `open_car` and its `outputs` in one. The file is opened when the first record is asked
    for, and closed when the loop ends. To leave such a loop early, use `contextlib.aclosing`, as
    for every async generator. What is left out by `on_error="skip"` cannot be told here; use
    `open_car` and `Repo.problems`.

    Args:
        source: see `open_car`, as for all other arguments.
        block_processor: what to make of each record; `record` by default.
        on_error: see `DriverBuilder.with_on_error`.
        gaps: go past missing blocks and damage.
        **keywords: as of `open_car`, such as `mem_limit_mb=16` in MiB, or `collections=None`.

    Returns:
        An async generator.

    Raises:
        TypeError, ValueError: as by `open_car`, at once. All else is raised by the loop.

    Example:
        >>> async def print_likes(path: str) -> None:
        ...     async for like in records(path, collections=["app.bsky.feed.like"]):
        ...         print(like.rkey, like.value["subject"]["uri"])
    """
    check_source(source)
    return _outputs_of(
        _opened(
            told_builder(block_processor, on_error, gaps, keywords),
            source,
            keywords["spill"],
            drain=keywords["drain"],
            check_first=keywords["check_first"],
        )
    )


async def _outputs_of(
    opened: AbstractAsyncContextManager[Repo[T]],
) -> AsyncGenerator[Output[T]]:
    async with opened as repo:
        async for output in repo.outputs():
            yield output


def told_builder(
    block_processor: BlockProcessor[Any],  # Any: see the overloads of `open_car`
    on_error: OnError,
    gaps: bool | Literal["all"],
    keywords: OpenKeywords,
) -> DriverBuilder[Any]:
    """Return a builder that does what the arguments of `open_car` say; all of them are checked.

    Args:
        block_processor: see `open_car`.
        on_error: see `open_car`.
        gaps: see `open_car`.
        keywords: all keywords; `drain`, `check_first` and `spill` are not the builder's.

    Raises:
        TypeError, ValueError: see `open_car`.
    """
    collections, key_range, prefix = (
        keywords["collections"],
        keywords["key_range"],
        keywords["prefix"],
    )
    _check_shapes(collections=collections, key_range=key_range)
    check_spill(keywords["spill"])
    for flag in ("drain", "check_first"):
        check_flag(flag, keywords[flag])
    check_flag("gaps", gaps, third="all")
    builder: DriverBuilder[Any] = DriverBuilder(  # Any: see the overloads of `open_car`
        block_processor=block_processor,
        mem_limit_mb=keywords["mem_limit_mb"],
        verify_cids=keywords["verify_cids"],
        limits=keywords["limits"],
    )
    if collections is not None:
        builder = builder.with_collections(*collections)
    if key_range is not None:
        builder = builder.with_key_range(*key_range)
    if prefix is not None:
        builder = builder.with_prefix(prefix)
    if on_error != "raise":
        builder = builder.with_on_error(on_error)
    if gaps:
        builder = builder.with_gaps(bad_nodes=gaps == "all")
    return builder


def _check_shapes(*, collections: object, key_range: object) -> None:
    """Refuse what is not several names or a pair: a `str` would be split into its characters."""
    if isinstance(collections, str):
        raise TypeError(f"collections must be a list of NSIDs, such as [{collections!r}]")
    if collections is not None and not isinstance(collections, Iterable):
        raise TypeError(f"collections must be a list of NSIDs, not {collections!r}")
    if key_range is not None and not _is_pair(key_range):
        raise TypeError(f"key_range must be a pair, (start, stop), not {key_range!r}")


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(cast("list[object]", value)) == 2


@asynccontextmanager
async def _opened(
    builder: DriverBuilder[T], source: Source, spill: Spill, *, drain: bool, check_first: bool
) -> AsyncGenerator[Repo[T]]:
    async with streamed(builder, source, spill, drain=drain, kind=Repo) as repo:
        if check_first:
            await repo.read_all()
        yield repo


async def load_commit(
    source: Source, *, verify_cids: bool = True, limits: Limits | None = None
) -> Commit:
    """Read a CAR as far as its commit, to decide by `did` and `rev` whether to read the rest.

    Most files start with the commit, so one piece is enough: 4 KiB, or the first piece of a source
    that decides itself how long pieces are. If it comes later, pieces grow to 256 KiB. Its
    signature is not checked; see `Commit.verify_signature`.

    Args:
        source: see `Source`. What has been read of a stream is gone: open another one to read the
            repo.
        verify_cids: check the commit, and every block before it, against its CID.
        limits: limits on the input; `None` is `Limits()`.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid; `NothingNew` if the file is the answer
            to `since` and nothing has changed.
        OSError: if `source` is a path that cannot be opened or read.
        TypeError: if `source` is not a supported source.

    Example:
        >>> async def is_news(source: Source, known_rev: str) -> bool:
        ...     return (await load_commit(source)).rev > known_rev
    """
    reader = await CarReader.open(
        source, limits=limits, verify_cids=verify_cids, first_piece_size=_COMMIT_PIECE
    )
    async with reader:
        root = root_of(reader)
        while (columns := await reader.next_columns()) is not None:
            cids, blocks = columns
            if root in cids:
                return Commit.decode(blocks[cids.index(root)], root)
        raise no_commit(reader)
