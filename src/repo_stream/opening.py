"""The short ways in: a repo ready to walk, and a commit alone.

`open_car` decides what `DriverBuilder` leaves to its caller: it streams, what does not fit in
memory goes to disk, and all that was opened is closed at the end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from repo_stream.car.reader import CarReader
from repo_stream.car.source import Source
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.incoming import Spill
from repo_stream.drivers.loading import root_of
from repo_stream.drivers.options import OnError
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.errors import MissingBlock, MissingCommit, ProcessError
from repo_stream.limits import Limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Gap
from repo_stream.process import Processor, noop

__all__ = ["Repo", "load_commit", "open_car"]

T = TypeVar("T")

# The header and the commit of a repo have some 300 bytes together.
_COMMIT_PIECE: Final = 4096

#: A first key and the first key beyond; `None` leaves that side open.
KeyRange: TypeAlias = tuple[str | None, str | None]


class Repo(StreamDriver[T]):
    """An open repo, read as far as it has been asked for; `open_car` makes it.

    It walks the repo: see `RepoDriver` for the ways to ask, and `StreamDriver` for what is known
    about the file so far. `commit` is the repo's commit. Its signature has not been checked.
    """

    def __repr__(self) -> str:
        where = "on disk" if self.spilled else "in memory"
        return f"<Repo {self.commit.did} at {self.commit.rev}, {where}>"


@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["raise", "skip"] = ...,
    gaps: Literal[False] = ...,
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[bytes]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    block_processor: Processor[T] | Callable[[bytes], T],
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["raise", "skip"] = ...,
    gaps: Literal[False] = ...,
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[T]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = ...,
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[bytes | ProcessError | MissingBlock]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    block_processor: Processor[T] | Callable[[bytes], T],
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = ...,
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[T | ProcessError | MissingBlock]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["raise", "skip"] = ...,
    gaps: Literal[True],
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[bytes | Gap]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    block_processor: Processor[T] | Callable[[bytes], T],
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["raise", "skip"] = ...,
    gaps: Literal[True],
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[T | Gap]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["yield"],
    gaps: Literal[True],
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[bytes | ProcessError | MissingBlock | Gap]]: ...
@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    block_processor: Processor[T] | Callable[[bytes], T],
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    prefix: str | None = ...,
    on_error: Literal["yield"],
    gaps: Literal[True],
    drain: bool = ...,
    check_first: bool = ...,
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[T | ProcessError | MissingBlock | Gap]]: ...
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = 16,
    block_processor: Any = noop,
    spill: Spill = None,
    collections: Iterable[str] | None = None,
    key_range: KeyRange | None = None,
    prefix: str | None = None,
    on_error: OnError = "raise",
    gaps: bool = False,
    drain: bool = True,
    check_first: bool = False,
    verify_cids: bool = True,
    limits: Limits | None = None,
) -> AbstractAsyncContextManager[Repo[Any]]:
    """Open a repo, walk it while its CAR comes in, and have everything closed at the end.

    The first record comes with the first piece of the file, if the order of its blocks allows that,
    and nothing is read before it is needed: a slow loop holds up a download. Errors of the file
    come where they are met, after the records before them; `check_first` is for whoever wants all
    of the file or nothing.

    Args:
        source: see `Source`. It stays the caller's; only a path's file is opened and closed here.
            What does not fit in memory is read again in such a file: do not write to it meanwhile.
            To have it copied, open it yourself.
        mem_limit_mb: how much memory the repo may take before it goes to disk, in MiB.
        block_processor: what to make of each record; see `DriverBuilder.with_block_processor`.
        spill: where a repo goes that does not fit: the path of a database, which is emptied before
            and after; a `DiskStore`, which is empty again at the end and stays open; `None`, a
            temporary file; or `False`, nowhere.
        collections: see `DriverBuilder.with_collections`; `None` is all of them.
        key_range: `(start, stop)`, see `DriverBuilder.with_key_range`.
        prefix: see `DriverBuilder.with_prefix`.
        on_error: see `DriverBuilder.with_on_error`.
        gaps: go past what is missing, as in a slice; see `DriverBuilder.with_gaps`.
        drain: read the file to its end when the walk is over, and check that, too.
        check_first: read the file to its end, and check all of its blocks, before the first record
            comes out. The tree is still checked as it is walked.
        verify_cids: check every block against its CID.
        limits: bounds on what strangers may send.

    Returns:
        A context manager that gives the `Repo`, to be used within it. Entering it reads the CAR as
        far as its commit, or to its end with `check_first`.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid.
        MemLimitExceeded: if what comes before the commit fills the memory, and `spill` is `False`.
        ProcessError: if results of the processor cannot be stored on disk.
        DiskError: if the store fails.
        TypeError: if `source` is not a supported source, or one text is given for `collections`.
        ValueError: if a name, a range or `on_error` is not valid.

    Example:
        >>> async def total(path: str) -> int:
        ...     async with open_car(path, block_processor=len) as repo:
        ...         return sum([size async for key, size in repo])
    """
    _refuse_text(collections=collections, key_range=key_range)
    builder: DriverBuilder[Any] = DriverBuilder(
        mem_limit_mb=mem_limit_mb,
        block_processor=block_processor,
        verify_cids=verify_cids,
        limits=limits if limits is not None else Limits(),
    )
    if collections is not None:
        builder = builder.with_collections(*collections)
    if key_range is not None:
        builder = builder.with_key_range(*key_range)
    if prefix is not None:
        builder = builder.with_prefix(prefix)
    builder = builder.with_on_error(on_error)
    if gaps:
        builder = builder.with_gaps()
    return _opened(builder, source, spill, drain=drain, check_first=check_first)


def _refuse_text(*, collections: object, key_range: object) -> None:
    """Refuse one text where several are meant: it would be taken apart into its letters."""
    if isinstance(collections, str):
        raise TypeError(f"collections are a list of NSIDs, even of one: [{collections!r}]")
    if isinstance(key_range, str):
        raise TypeError(f"a key range is a pair, (start, stop), not {key_range!r}")


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
    """Read a CAR as far as its commit, for whoever decides by `did` and `rev` whether to go on.

    Most files start with it, so that one piece is enough: 4 KiB of a path, of bytes and of whatever
    can be asked for so many, else the first that the source gives. Where it comes later, pieces
    grow to 256 KiB. Its signature is not checked; see `Commit.verify_signature`.

    Args:
        source: see `Source`. What has been read of a stream is gone: open another for the repo.
        verify_cids: check every block on the way, and the commit, against its CID.
        limits: bounds on what strangers may send.

    Raises:
        CarError, CidMismatch, LimitExceeded: where the file cannot be read.
        CommitError: where its commit is missing or not valid.
        TypeError: where the source is none.

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
    raise MissingCommit(cid=root)
