"""The short ways in: a repo ready to walk, wherever it fits, and a commit alone.

`open_car` decides what `DriverBuilder.load_car` leaves to its caller: a repo that does not fit in
memory goes to disk, and all that was opened for it is closed at the end.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, overload

from repo_stream.cid import Cid
from repo_stream.drive import Driver, DriverBuilder
from repo_stream.drivers import OnError, Output, Problem, RepoDriver
from repo_stream.errors import MissingBlock, MissingCommit, ProcessError
from repo_stream.limits import Limits
from repo_stream.load import root_of
from repo_stream.mst import Commit
from repo_stream.process import Processor, noop
from repo_stream.proofs import Absent, Present, RangeProof
from repo_stream.reader import CarReader
from repo_stream.source import Source
from repo_stream.walk import Gap, TreeNode

if TYPE_CHECKING:
    from repo_stream.disk import DiskStore

__all__ = ["Repo", "load_commit", "open_car"]

T = TypeVar("T")

# The header and the commit of a repo have some 300 bytes together.
_COMMIT_PIECE: Final = 4096
_DEFAULT_CHUNK: Final = 256

#: Where a repo goes that does not fit in memory: a file, an open store, or a temporary file.
Spill: TypeAlias = "str | os.PathLike[str] | DiskStore | None"

#: A first key and the first key beyond; `None` leaves that side open.
KeyRange: TypeAlias = tuple[str | None, str | None]


class Repo(Generic[T]):
    """An open repo; `open_car` makes it. All that its driver can do, it can.

    Attributes:
        commit: the repo's commit. Its signature has not been checked.
        driver: walks the repo.
        spilled: whether the repo did not fit in memory and is on disk.
    """

    def __init__(self, commit: Commit, driver: RepoDriver[T], *, spilled: bool) -> None:
        self.commit = commit
        self.driver = driver
        self.spilled = spilled

    def __repr__(self) -> str:
        where = "on disk" if self.spilled else "in memory"
        return f"<Repo {self.commit.did} at {self.commit.rev}, {where}>"

    def __aiter__(self) -> AsyncIterator[tuple[str, T]]:
        return self.driver.__aiter__()

    def outputs(self) -> AsyncIterator[Output[T]]:
        """Iterate over what is left, as `Output`."""
        return self.driver.outputs()

    async def next_chunk(self, n: int = _DEFAULT_CHUNK) -> list[tuple[str, T]] | None:
        """See `RepoDriver.next_chunk`."""
        return await self.driver.next_chunk(n)

    async def next_outputs(self, n: int = _DEFAULT_CHUNK) -> list[Output[T]] | None:
        """See `RepoDriver.next_outputs`."""
        return await self.driver.next_outputs(n)

    async def next_keys(self, n: int = _DEFAULT_CHUNK) -> list[tuple[str, Cid]] | None:
        """See `RepoDriver.next_keys`."""
        return await self.driver.next_keys(n)

    async def seek(self, rkey: str) -> None:
        """See `RepoDriver.seek`."""
        await self.driver.seek(rkey)

    async def next_items(self, n: int = _DEFAULT_CHUNK) -> list[TreeNode | Output[T] | Gap] | None:
        """See `RepoDriver.next_items`."""
        return await self.driver.next_items(n)

    async def get(self, rkey: str) -> Output[T] | None:
        """See `RepoDriver.get`."""
        return await self.driver.get(rkey)

    async def prove(self, rkey: str) -> Present | Absent:
        """See `RepoDriver.prove`."""
        return await self.driver.prove(rkey)

    async def prove_range(self, start: str = "", stop: str | None = None) -> RangeProof:
        """See `RepoDriver.prove_range`."""
        return await self.driver.prove_range(start, stop)

    async def collections(self) -> list[str]:
        """See `RepoDriver.collections`."""
        return await self.driver.collections()

    @property
    def problems(self) -> Sequence[Problem]:
        """See `RepoDriver.problems`."""
        return self.driver.problems

    @property
    def problem_count(self) -> int:
        """See `RepoDriver.problem_count`."""
        return self.driver.problem_count


@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    spill: Spill = ...,
    collections: Iterable[str] | None = ...,
    key_range: KeyRange | None = ...,
    on_error: Literal["raise", "skip"] = ...,
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
    on_error: Literal["raise", "skip"] = ...,
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
    on_error: Literal["yield"],
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
    on_error: Literal["yield"],
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[T | ProcessError | MissingBlock]]: ...
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = 16,
    block_processor: Any = noop,
    spill: Spill = None,
    collections: Iterable[str] | None = None,
    key_range: KeyRange | None = None,
    on_error: OnError = "raise",
    verify_cids: bool = True,
    limits: Limits | None = None,
) -> AbstractAsyncContextManager[Repo[Any]]:
    """Open a repo: load its CAR, and have everything closed at the end.

    Args:
        source: see `Source`. It stays the caller's; only a path's file is opened and closed here. A
            repo that does not fit in memory is read again in such a file: do not write to it
            meanwhile. To have it copied, open it yourself.
        mem_limit_mb: how much memory the repo may take before it goes to disk, in MiB.
        block_processor: what to make of each record; see `DriverBuilder.with_block_processor`.
        spill: where a repo goes that does not fit: the path of a database, which is emptied before
            and after; a `DiskStore`, which is empty again at the end and stays open; or `None`, a
            temporary file.
        collections: see `DriverBuilder.with_collections`; `None` is all of them.
        key_range: `(start, stop)`, see `DriverBuilder.with_key_range`.
        on_error: see `DriverBuilder.with_on_error`.
        verify_cids: check every block against its CID.
        limits: bounds on what strangers may send.

    Returns:
        A context manager that gives the `Repo`, to be used within it. Entering it reads the CAR to
        its end.

    Raises:
        CarError, CidMismatch, LimitExceeded: where the file cannot be read.
        CommitError: where its commit is missing or not valid.
        ProcessError: where results of the processor cannot be stored on disk.
        DiskError: where the store fails.
        TypeError: where the source is none, or one text is given for `collections`.
        ValueError: where a name, a range or `on_error` is none.

    Example:
        >>> async def total(path: str) -> int:
        ...     async with open_car(path, block_processor=len) as repo:
        ...         return sum([size async for rkey, size in repo])
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
    return _opened(builder.with_on_error(on_error), source, spill)


def _refuse_text(*, collections: object, key_range: object) -> None:
    """Refuse one text where several are meant: it would be taken apart into its letters."""
    if isinstance(collections, str):
        raise TypeError(f"collections are a list of NSIDs, even of one: [{collections!r}]")
    if isinstance(key_range, str):
        raise TypeError(f"a key range is a pair, (start, stop), not {key_range!r}")


@asynccontextmanager
async def _opened(
    builder: DriverBuilder[T], source: Source, spill: Spill
) -> AsyncGenerator[Repo[T]]:
    match await builder.load_car(source):
        case Driver.Memory(commit, driver):
            yield Repo(commit, driver, spilled=False)
        case Driver.Disk(paused):
            async with paused, _store(spill) as store:
                commit, on_disk = await paused.finish_loading(store)
                try:
                    yield Repo(commit, on_disk, spilled=True)
                finally:
                    await on_disk.aclose()


@asynccontextmanager
async def _store(spill: Spill) -> AsyncGenerator[DiskStore]:
    """Give the store to spill to; what is opened for that is closed."""
    # SQLite takes half of the time of the import, and most repos stay in memory.
    from repo_stream.disk import DiskBuilder, DiskStore  # noqa: PLC0415

    if isinstance(spill, DiskStore):
        yield spill
    else:
        async with DiskBuilder().open(spill) as store:
            yield store


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
