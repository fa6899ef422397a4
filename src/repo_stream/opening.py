"""One line from a source to its records: memory or disk is decided here, and closed here."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from repo_stream.drive import Driver, DriverBuilder, Output, RepoDriver
from repo_stream.limits import Limits
from repo_stream.mst import Commit
from repo_stream.process import Processor, noop
from repo_stream.source import Source

if TYPE_CHECKING:
    from repo_stream.disk import DiskStore

__all__ = ["Repo", "open_car"]

T = TypeVar("T")

#: Where a repo goes that does not fit in memory: a file, an open store, or a temporary file.
Spill: TypeAlias = "str | os.PathLike[str] | DiskStore | None"


class Repo(Generic[T]):
    """A repo that is ready to be read; `open_car` makes it.

    Everything that gives records goes on where the last call stopped, as on the driver.

    Attributes:
        commit: the repo's commit. Its signature has not been checked.
        driver: walks the repo; the methods here are short ways to its own.
        spilled: whether the repo was too large for the memory limit and lies on disk.
    """

    def __init__(self, commit: Commit, driver: RepoDriver[T], *, spilled: bool) -> None:
        self.commit = commit
        self.driver = driver
        self.spilled = spilled

    def __aiter__(self) -> AsyncIterator[tuple[str, T]]:
        return aiter(self.driver)

    def outputs(self) -> AsyncIterator[Output[T]]:
        """Iterate over what is left, as `Output`."""
        return self.driver.outputs()

    async def next_chunk(self, n: int = 256) -> list[tuple[str, T]] | None:
        """Give the next records as pairs; see `RepoDriver.next_chunk`."""
        return await self.driver.next_chunk(n)

    async def next_outputs(self, n: int = 256) -> list[Output[T]] | None:
        """Give the next records as `Output`; see `RepoDriver.next_outputs`."""
        return await self.driver.next_outputs(n)


@overload
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = ...,
    spill: Spill = ...,
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
    verify_cids: bool = ...,
    limits: Limits | None = ...,
) -> AbstractAsyncContextManager[Repo[T]]: ...
def open_car(
    source: Source,
    *,
    mem_limit_mb: float = 16,
    block_processor: Any = noop,
    spill: Spill = None,
    verify_cids: bool = True,
    limits: Limits | None = None,
) -> AbstractAsyncContextManager[Repo[Any]]:
    """Open a CAR as a repo, in memory or through the disk as its size demands.

    Args:
        source: see `Source`. It stays the caller's to close; it has been read to its end when the
            block is entered.
        mem_limit_mb: how much memory the repo may take before it goes to disk, in MiB.
        block_processor: what to make of each record: a function of its bytes, or a `Processor`.
        spill: where a repo over the limit goes: the path of a file that is made or reused, an open
            `DiskStore`, which is emptied at the end and stays open, or `None` for a temporary file.
        verify_cids: check every block against its CID.
        limits: bounds on what strangers may send.

    Returns:
        An async context manager that gives a `Repo`. What it opened is closed when it is left.

    Raises:
        CarError, CidMismatch, LimitExceeded: where the file cannot be read.
        CommitError: where its commit is missing or not valid.
        ProcessError: where a result of the processor cannot be stored.
        DiskError: where the store fails, or `spill` names a file of somebody else.
        TypeError, OSError: where the source is none, or cannot be opened.

    Example:
        >>> async def example() -> None:
        ...     async with open_car("repo.car", block_processor=len) as repo:
        ...         print(repo.commit.did)
        ...         async for rkey, size in repo:
        ...             print(rkey, size)
    """
    builder = DriverBuilder(
        mem_limit_mb=mem_limit_mb,
        block_processor=block_processor,
        verify_cids=verify_cids,
        limits=limits or Limits(),
    )
    return _opened(builder, source, spill)


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
    # SQLite takes half of the time of the import, and most repos stay in memory.
    from repo_stream.disk import DiskBuilder, DiskStore  # noqa: PLC0415

    if isinstance(spill, DiskStore):
        yield spill
    else:
        async with DiskBuilder().open(spill) as store:
            yield store
