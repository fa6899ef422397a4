"""Where everything meets: a source is loaded, in memory or on disk, and walked.

`DriverBuilder.load_car` reads a CAR until it is over or the memory limit is reached. What it gives
is a `Driver.Memory`, ready to walk, or a `Driver.Disk`, which goes on once the caller has said
where the log of its blocks goes, unless that is its own file. Both end in a driver with
the same methods; the two differ in one thing only, which is what they do when the walker asks for
blocks that are not at hand.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from repo_stream.car.reader import CarReader
from repo_stream.car.source import Source
from repo_stream.drivers.base import RepoDriver
from repo_stream.drivers.incoming import Spill
from repo_stream.drivers.loaded import DiskDriver, MemDriver
from repo_stream.drivers.loading import Loading, spill
from repo_stream.drivers.options import OnError, Options
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.limits import Limits
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Gap
from repo_stream.process import Processor, as_processor, noop
from repo_stream.store.budget import Budget
from repo_stream.store.repo_log import RepoLog

if TYPE_CHECKING:
    from repo_stream.store.disk import DiskStore, Lease

__all__ = ["Driver", "DriverBuilder", "NeedDisk"]

T = TypeVar("T")
U = TypeVar("U")


class DriverBuilder(Options[T]):
    """How repos are to be read. It never changes, so one serves any number of them.

    Args:
        mem_limit_mb: how much memory a repo may take before it has to go to disk, in MiB; Python's
            own objects are counted. 0 sends every repo to disk.
        block_processor: what to make of each record: a function of its bytes, or a `Processor`. The
            default, `noop`, leaves them as they are.
        verify_cids: check every block against its CID.
        limits: bounds on what strangers may send.
        key_ranges: which keys are walked; see `with_key_range` and its siblings.
        on_error: see `with_on_error`.
        gaps: see `with_gaps`.

    Example:
        >>> builder = DriverBuilder().with_mem_limit_mb(10).with_block_processor(len)
        >>> async def total(source: Source) -> int:
        ...     match await builder.load_car(source):
        ...         case Driver.Memory(commit, driver):
        ...             return sum([size async for key, size in driver])
        ...         case Driver.Disk(paused):
        ...             async with DiskBuilder().open() as store:
        ...                 commit, driver = await paused.finish_loading(store)
        ...                 return sum([size async for key, size in driver])
    """

    @overload
    def __init__(
        self: DriverBuilder[bytes],
        *,
        mem_limit_mb: float = ...,
        verify_cids: bool = ...,
        limits: Limits = ...,
        key_ranges: KeyRanges = ...,
        on_error: Literal["raise", "skip"] = ...,
        gaps: Literal[False] = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        mem_limit_mb: float = ...,
        block_processor: Processor[T] | Callable[[bytes], T],
        verify_cids: bool = ...,
        limits: Limits = ...,
        key_ranges: KeyRanges = ...,
        on_error: Literal["raise", "skip"] = ...,
        gaps: Literal[False] = ...,
    ) -> None: ...
    def __init__(
        self,
        *,
        mem_limit_mb: float = 16,
        block_processor: Any = noop,
        verify_cids: bool = True,
        limits: Limits | None = None,
        key_ranges: KeyRanges | None = None,
        on_error: OnError = "raise",
        gaps: bool = False,
    ) -> None:
        if on_error not in {"raise", "skip", "yield"}:
            raise ValueError(f'on_error is "raise", "skip" or "yield", not {on_error!r}')
        if not mem_limit_mb >= 0:
            raise ValueError(f"mem_limit_mb must not be negative, not {mem_limit_mb}")
        # The class is frozen, so its own assignments go round it.
        object.__setattr__(self, "mem_limit_mb", mem_limit_mb)
        object.__setattr__(self, "block_processor", as_processor(block_processor))
        object.__setattr__(self, "verify_cids", verify_cids)
        object.__setattr__(self, "limits", limits if limits is not None else Limits())
        object.__setattr__(self, "key_ranges", key_ranges or KeyRanges())
        object.__setattr__(self, "on_error", on_error)
        object.__setattr__(self, "gaps", gaps)

    def with_mem_limit_mb(self, mem_limit_mb: float) -> DriverBuilder[T]:
        """Give a builder with another memory limit, in MiB."""
        return replace(self, mem_limit_mb=mem_limit_mb)

    def with_block_processor(
        self, block_processor: Processor[U] | Callable[[bytes], U]
    ) -> DriverBuilder[U]:
        """Give a builder whose drivers give out what `block_processor` makes of each record.

        Unless it is lazy (see `Processor`), it is called for every block that may be a record,
        needed or not, in any order, and never with a node of the tree. What it raises matters once
        the walk reaches the record. Of a file that does not fit in memory and stays where it is, it
        is called once more for each record that the walk gives out, as a lazy one.

        Raises:
            ValueError: after `with_on_error("yield")` or `with_gaps()`, which add to what comes out
                and so come last.
        """
        if self.on_error == "yield":
            raise ValueError('with_on_error("yield") has to come after with_block_processor')
        if self.gaps:
            raise ValueError("with_gaps() has to come after with_block_processor")
        processor: Any = as_processor(block_processor)  # another type of result than the builder's
        return cast("DriverBuilder[U]", replace(self, block_processor=processor))

    def with_cid_verification(self, verify_cids: bool) -> DriverBuilder[T]:
        """Give a builder that checks blocks against their CIDs, or does not.

        Without the check, whoever wrote the file can put any bytes under any CID.
        """
        return replace(self, verify_cids=verify_cids)

    def with_limits(self, limits: Limits) -> DriverBuilder[T]:
        """Give a builder with other bounds on what is read."""
        return replace(self, limits=limits)

    def with_key_range(self, start: str | None = None, stop: str | None = None) -> DriverBuilder[T]:
        """Give a builder whose drivers walk only the keys from `start` to before `stop`.

        `None` leaves that side open. Subtrees outside are not walked, and records outside are not
        processed. This method, `with_prefix` and `with_collections` narrow each other down.

        Raises:
            ValueError: where `stop` comes before `start`.

        Example:
            >>> builder = DriverBuilder().with_key_range("app.bsky.feed.post/3k", None)
        """
        return self._narrowed(KeyRanges.of(start, stop))

    def with_prefix(self, prefix: str) -> DriverBuilder[T]:
        """Give a builder whose drivers walk only the keys that start with `prefix`."""
        return self._narrowed(KeyRanges.prefixes([prefix]))

    def with_collections(self, *names: str) -> DriverBuilder[T]:
        """Give a builder whose drivers walk only some collections, named by their NSIDs.

        Raises:
            ValueError: where a name is empty or has a slash.

        Example:
            >>> builder = DriverBuilder().with_collections("app.bsky.feed.post")
        """
        return self._narrowed(KeyRanges.collections(names))

    def _narrowed(self, ranges: KeyRanges) -> DriverBuilder[T]:
        return replace(self, key_ranges=self.key_ranges & ranges)

    @overload
    def with_on_error(self, on_error: Literal["raise", "skip"]) -> DriverBuilder[T]: ...
    @overload
    def with_on_error(
        self, on_error: Literal["yield"]
    ) -> DriverBuilder[T | ProcessError | MissingBlock]: ...
    def with_on_error(self, on_error: OnError) -> DriverBuilder[Any]:
        """Give a builder whose drivers raise, skip or hand out the errors of single records.

        Those are `ProcessError` and the `MissingBlock` of a record. Nodes always raise, as nothing
        is known of what lies beyond them.

        Args:
            on_error: `"raise"` ends the walk there, which is the default; `"skip"` leaves the
                record out; `"yield"` gives the exception in the place of the value. The last two
                add it to `RepoDriver.problems`.
        """
        return replace(self, on_error=on_error)

    def with_gaps(self) -> DriverBuilder[T | Gap]:
        """Give a builder whose drivers go past what is missing, and say where: for CAR slices.

        A slice has a part of a repo's blocks, such as those that a commit has changed
        (https://atproto.com/specs/repository#repository-diffs). What is missing comes out as a
        `Gap` in the place of a value, in key order beside the records that are there: under its key
        where it is a record, and under the key `""`, which no record has, where it is a subtree.
        `get` and `collections` still raise what they lack, and `with_on_error` is for the processor
        alone then.

        Example:
            >>> async def changed(slice_of_repo: bytes) -> list[str]:
            ...     builder = DriverBuilder().with_gaps()
            ...     async with builder.stream_car(slice_of_repo) as (commit, driver):
            ...         return [key async for key, value in driver if not isinstance(value, Gap)]
        """
        return cast("DriverBuilder[T | Gap]", replace(self, gaps=True))

    async def load_car(self, source: Source) -> Driver.Memory[T] | Driver.Disk[T]:
        """Read a CAR until it is over, or until the memory limit is reached.

        Args:
            source: a path, bytes, an object with async `read(n)` or `receive(n)`, or an async
                iterable of bytes. It stays the caller's to close. Of a repo that goes to disk it
                has to stay open until `finish_loading` is done; it has been read as far as the
                limit. The file of a path is kept open then, and stays where its blocks are: see
                `NeedDisk.finish_loading`.

        Returns:
            `Driver.Memory(commit, driver)` where everything fit, else `Driver.Disk(paused)`.

        Raises:
            CarError, CidMismatch, LimitExceeded: where the file cannot be read.
            CommitError: where its commit is missing or not valid.
            TypeError: where the source is none.
        """
        budget = Budget.of(self.mem_limit_mb)
        reader = await CarReader.open(
            source,
            limits=self.limits,
            verify_cids=self.verify_cids,
            piece_size=budget.piece,
            rereadable=True,
        )
        try:
            late = self.processes_late
            # Only `spill` and `blocks` know the results' type, and late there are none yet.
            processor = cast("Processor[T]", Processor(noop)) if late else self.block_processor
            loading = Loading(reader, processor)
            whole = await loading.fill(budget.store)
            if whole:
                commit = loading.commit_found()
                blocks = loading.store.blocks
                if late:
                    blocks = Blocks[T](blocks.raw, {})
                await loading.aclose()
                return Driver.Memory(commit, MemDriver(self, commit, blocks))
        except BaseException:
            await reader.aclose()
            raise
        return Driver.Disk(NeedDisk(self, loading))

    def stream_car(
        self, source: Source, *, spill: Spill = None, drain: bool = True
    ) -> AbstractAsyncContextManager[tuple[Commit, StreamDriver[T]]]:
        """Walk a CAR while it comes in: records at once, and nothing kept that is not needed.

        The atproto specification knows an order of blocks that lets a reader do so: the commit,
        then each node before what is below it, and each record where its key comes. Such a file
        takes the same little memory whatever its size. In any other order it gives the same
        records: blocks that come early are kept in memory, and beyond `mem_limit_mb` the repo goes
        to disk, with the rest of the file.

        Nothing is read before it is needed, so that a slow consumer holds up the download.

        Args:
            source: see `Source`. It stays the caller's; only a path's file is closed here. Until
                then records that two keys share are read from it again, so do not write to it.
            spill: where blocks go that do not fit in memory: the path of a database, which is
                emptied before and after; a `DiskStore`, which is empty again at the end and stays
                open; `None`, a temporary file; or `False`, nowhere.
            drain: read the file to its end when the walk is over, and check that, too.

        Returns:
            A context manager that gives the commit and the driver. Entering it reads the file as
            far as its commit.

        Raises:
            CarError, CidMismatch, LimitExceeded: where the file cannot be read.
            CommitError: where its commit is missing or not valid.
            MemLimitExceeded: where what comes before the commit fills the memory, and `spill` is
                `False`.
            DiskError: where the store fails.
            TypeError: where the source is none.

        Example:
            >>> async def total(source: Source) -> int:
            ...     builder = DriverBuilder().with_block_processor(len)
            ...     async with builder.stream_car(source) as (commit, driver):
            ...         return sum([size async for key, size in driver])
        """
        return _with_commit(streamed(self, source, spill, drain=drain, kind=StreamDriver[T]))


@asynccontextmanager
async def _with_commit(
    opened: AbstractAsyncContextManager[StreamDriver[T]],
) -> AsyncGenerator[tuple[Commit, StreamDriver[T]]]:
    async with opened as driver:
        yield driver.commit, driver


class Driver:
    """The two outcomes of `DriverBuilder.load_car`, made for `match`."""

    @dataclass(frozen=True)
    class Memory(Generic[T]):
        """Everything fit: the repo is in memory and ready to walk.

        Attributes:
            commit: the repo's commit. Its signature has not been checked.
            driver: walks the repo. It is a `MemDriver`, declared as what it has in common with a
                `DiskDriver`, so that one variable can hold either.
        """

        commit: Commit
        driver: RepoDriver[T]

    @dataclass(frozen=True)
    class Disk(Generic[T]):
        """The memory limit was reached, and the rest of the file has not been read.

        Attributes:
            paused: goes on once it has a store.
        """

        paused: NeedDisk[T]


class NeedDisk(Generic[T]):
    """A repo that reached the memory limit, waiting for a disk store.

    It holds what has been read so far. Where it is not going to be finished, `aclose` it, or use it
    with `async with`, so that a file opened for a path is closed.

    Attributes:
        commit: the repo's commit, where it has been read already; most files start with it.
    """

    def __init__(self, builder: DriverBuilder[T], loading: Loading[T]) -> None:
        self._builder = builder
        self._loading: Loading[T] | None = loading
        self.commit = loading.commit

    async def finish_loading(self, store: DiskStore) -> tuple[Commit, DiskDriver[T]]:
        """Read the source to its end, and keep its blocks on disk.

        They are in a log: a file of sections, which the walk reads again as it needs them, and
        processes as it gives records out. If the source is the path of a regular file, that file is
        the log. It is closed with the store, or when that is reset or given to another repo; until
        then do not write to it. It may be deleted, if the system allows that. Any other source is
        copied to a log of the store's own, byte by byte, and so is a file that you open yourself
        (`anyio.open_file`), which is the way for file systems that are slow to read here and there.

        What is read again is checked again, if CIDs are verified. The store takes the places of
        blocks, 8 bytes each, if there are too many of them for the memory: at 16 MiB, more than
        450,000.

        Once only. Whatever goes wrong, a cancellation included, the store is empty and usable
        afterwards, and the source has been read as far as it came.

        Args:
            store: an open store. It stays the caller's to close, and must stay open for the walk.

        Returns:
            The commit, and the driver to walk the repo with.

        Raises:
            CarError, CidMismatch, LimitExceeded: where the file cannot be read.
            CommitError: where its commit is missing or not valid.
            ProcessError: if a result that was made before the memory was full cannot be stored.
            DiskError: where the store fails; see its leaves, `MaxSizeExceeded` among them.
            RuntimeError: where it was called before.
        """
        loading, self._loading = self._loading, None
        if loading is None:
            raise RuntimeError("this repo has been loaded, or closed, already")
        budget = Budget.of(self._builder.mem_limit_mb)
        try:
            lease = await store.begin(budget.cache)

            async def leased() -> Lease:
                return lease

            log = RepoLog(loading.reader, leased, budget.places, budget.write, loading.turn)
            try:
                await log.hold()
                await spill(loading, log)
                self.commit = loading.commit_found()
                lease.check()
                if log.is_the_car:
                    lease.held.at_end = loading.reader.aclose
                    loading.hand_over()
                return self.commit, DiskDriver(
                    self._builder, self.commit, log, lease, loading.unstored
                )
            except BaseException:
                await lease.abandon()
                raise
        finally:
            await loading.aclose()

    async def aclose(self) -> None:
        """Let go of what has been read; close the file where it was given as a path."""
        loading, self._loading = self._loading, None
        if loading is not None:
            await loading.aclose()

    async def __aenter__(self) -> NeedDisk[T]:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()
