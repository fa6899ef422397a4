"""`DriverBuilder`: how a repo is to be read, and the two ways to read it.

`load_car` reads a CAR to its end, or until the memory limit is reached. It returns a
`Driver.Memory`, ready to walk, or a `Driver.Disk`, which needs a store before it reads the rest.
Both end in a driver with the same methods. `stream_car` walks the repo while the CAR is read.
"""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, overload

from repo_stream.arguments import check_flag, check_kind, check_number
from repo_stream.car.reader import CarReader
from repo_stream.car.source import Source, check_source
from repo_stream.drivers.base import RepoDriver
from repo_stream.drivers.destination import check_spill
from repo_stream.drivers.keywords import BuilderKeywords, StreamKeywords, takes
from repo_stream.drivers.loaded import DiskDriver, MemDriver
from repo_stream.drivers.loading import Loading
from repo_stream.drivers.options import OnError, Options
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.drivers.writing import load_to_disk
from repo_stream.errors import MissingBlock, ProcessError, StoreClosed
from repo_stream.limits import DEFAULT_LIMITS, Limits, check_limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Gap
from repo_stream.process import BlockProcessor, as_processor, noop
from repo_stream.store.budget import Budget
from repo_stream.store.repo_log import RepoLog

if TYPE_CHECKING:
    from repo_stream.store.disk import DiskStore, Lease

__all__ = ["Driver", "DriverBuilder", "NeedDisk"]

T = TypeVar("T")
U = TypeVar("U")


class DriverBuilder(Options[T]):
    """How repos are to be read. Builders are immutable, so one serves any number of repos.

    The methods `with_...` return a changed copy.

    Args:
        block_processor: what to make of each record: a function of its bytes, or a `Processor`. The
            default, `noop`, leaves it as it is; that of `open_car` is `record`. See
            `with_block_processor`.
        on_error: what to do about a record that cannot be read; see `with_on_error`.
        gaps: go past missing blocks and damage; see `with_gaps`. `"all"` is the same with
            `bad_nodes`.
        **keywords: with their defaults

            - `mem_limit_mb=16`: how much memory a repo may take before it goes to disk, in MiB.
              Python's own objects are counted. 0 sends every repo to disk.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input; `None` is `Limits()`.
            - `key_ranges=None`: the keys to walk; `None` is all of them. Use `with_key_range`.

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
        on_error: Literal["raise", "skip"] = "raise",
        gaps: Literal[False] = False,
        **keywords: Unpack[BuilderKeywords],
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        block_processor: BlockProcessor[T],
        on_error: Literal["raise", "skip"] = "raise",
        gaps: Literal[False] = False,
        **keywords: Unpack[BuilderKeywords],
    ) -> None: ...
    @takes(BuilderKeywords)
    def __init__(
        self,
        *,
        block_processor: BlockProcessor[Any] = noop,  # Any: the overloads say which results
        on_error: OnError = "raise",
        gaps: bool | Literal["all"] = False,
        **keywords: Unpack[BuilderKeywords],
    ) -> None:
        mem_limit_mb = keywords["mem_limit_mb"]
        if on_error not in ("raise", "skip", "yield"):
            raise ValueError(f'on_error must be "raise", "skip" or "yield", not {on_error!r}')
        check_number("mem_limit_mb", mem_limit_mb, unit=" of MiB, such as 16")
        check_flag("verify_cids", keywords["verify_cids"])
        check_flag("gaps", gaps, third="all")
        limits, key_ranges = keywords["limits"], keywords["key_ranges"]
        if limits is not None:
            check_limits(limits)
        if key_ranges is not None:
            such_as = "what with_key_range(...) sets"
            check_kind("key_ranges", key_ranges, KeyRanges, such_as=such_as)
        super().__init__(
            mem_limit_mb=mem_limit_mb,
            block_processor=as_processor(block_processor),
            verify_cids=keywords["verify_cids"],
            limits=limits or DEFAULT_LIMITS,
            key_ranges=key_ranges or KeyRanges(),
            on_error=on_error,
            gaps=gaps,
        )

    def with_mem_limit_mb(self, mem_limit_mb: float) -> DriverBuilder[T]:
        """Return a builder with another memory limit, in MiB."""
        return replace(self, mem_limit_mb=mem_limit_mb)

    def with_block_processor(self, block_processor: BlockProcessor[U]) -> DriverBuilder[U]:
        """Return a builder whose drivers yield what `block_processor` makes of each record.

        It is called for every block that may be a record, in any order, whether the tree reaches
        the block or not, and never with a node of the tree. If it raises, that matters only if the
        walk reaches the record. If it is lazy (see `Processor`), or if only some of the keys are
        walked, it is called when the walk reaches a record, and for no other block. If a repo is
        read again in its own file, it is called once more for each record that the walk reaches.

        Args:
            block_processor: a function of a record's bytes, or a `Processor`.

        Raises:
            ValueError: after `with_on_error("yield")` or `with_gaps()`, which add to the types of
                values and so come last.
        """
        if self.on_error == "yield":
            raise ValueError('with_on_error("yield") must come after with_block_processor')
        if self.gaps:
            raise ValueError("with_gaps() must come after with_block_processor")
        # Any: `replace` expects results of the builder's type.
        processor: Any = as_processor(block_processor)
        return cast("DriverBuilder[U]", replace(self, block_processor=processor))

    def with_cid_verification(self, verify_cids: bool) -> DriverBuilder[T]:
        """Return a builder that checks blocks against their CIDs, or does not.

        Without the check, a file may have any bytes under any CID.
        """
        return replace(self, verify_cids=verify_cids)

    def with_limits(self, limits: Limits) -> DriverBuilder[T]:
        """Return a builder with other limits on the input."""
        return replace(self, limits=limits)

    def with_key_range(self, start: str | None = None, stop: str | None = None) -> DriverBuilder[T]:
        """Return a builder whose drivers walk only the keys from `start` to before `stop`.

        `None` leaves that side open. Subtrees outside the range are not walked, and records outside
        it are not processed. If it is combined with `with_prefix` or `with_collections`, only keys
        that all of them include are walked.

        Raises:
            ValueError: if `stop` comes before `start`, or if one of them is an `at://` URI: both
                are keys or beginnings of keys.

        Example:
            >>> builder = DriverBuilder().with_key_range("app.bsky.feed.post/3k", None)
        """
        return self._narrowed(KeyRanges.of(start, stop))

    def with_prefix(self, prefix: str) -> DriverBuilder[T]:
        """Return a builder whose drivers walk only the keys that start with `prefix`.

        Raises:
            ValueError: if `prefix` is an `at://` URI.
        """
        return self._narrowed(KeyRanges.prefixes([prefix]))

    def with_collections(self, *names: str) -> DriverBuilder[T]:
        """Return a builder whose drivers walk only some collections.

        Args:
            *names: NSIDs, such as `app.bsky.feed.post`; and wildcards: `app.bsky.feed.*` is every
                collection whose NSID begins with `app.bsky.feed.`, and `app.bsky.*` includes these.
                Names are compared exactly, upper and lower case included.

        Raises:
            TypeError: if a name is not a string.
            ValueError: if a name is neither an NSID nor a wildcard. For a collection of a repo that
                does not follow the rules for NSIDs, use `with_prefix("its name/")`.

        Example:
            >>> builder = DriverBuilder().with_collections("app.bsky.feed.post", "app.bsky.graph.*")
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
    def with_on_error(self, on_error: OnError) -> DriverBuilder[Any]:  # Any: see the overloads
        """Return a builder whose drivers raise, skip or yield the errors of single records.

        Those errors are `ProcessError`, and `MissingBlock` for a record. An error in a node is
        always raised, as nothing is known about what is below it.

        Args:
            on_error: `"raise"` ends the walk with the error, and is the default; `"skip"` leaves
                the record out; `"yield"` yields the exception instead of the value. The last two
                also add it to `RepoDriver.problems`.

        With the last two, a block in the file that does not match its CID does not end the file
        either. It is listed in `RepoDriver.damage`. If it is a record, that is a `MissingBlock` of
        this record, whose cause is the `CidMismatch`; if it is a node, the `CidMismatch` is raised
        when the walk needs it. Any other damage is raised; `with_gaps` goes past all of it.
        """
        return replace(self, on_error=on_error)

    def with_gaps(self, *, bad_nodes: bool = False) -> DriverBuilder[T | Gap]:
        """Return a builder whose drivers go past missing blocks and damage, and report them.

        This is for CAR slices, and to get everything out of a damaged file that can be reached.

        A slice has some of a repo's blocks, such as those that a commit has changed
        (https://atproto.com/specs/repository#repository-diffs). A missing block is yielded as a
        `Gap` instead of a value, in key order among the records. The key of a missing record is its
        own; that of a missing subtree is `""`, which no record has. `get` and `collections` still
        raise an error if they need a missing block, and `with_on_error` then only applies to errors
        of the processor.

        A gap does not mean that nothing has changed there. It only says that the block is not in
        this CAR. A server leaves out a block that the repo had before, be it under another key: if
        somebody posts the same record again, or goes back to an earlier one, the key is a gap. To
        tell what has changed, compare keys and CIDs with those of the repo as you know it.

        What is damaged in the file is left out, as if it were not there: blocks that do not match
        their CIDs, sections that cannot be read, and an end that is missing. It is listed in
        `RepoDriver.damage`, and what the tree lacks because of it is a `Gap`, too. So look at
        `damage_count` before you take the gaps of a slice for blocks that it need not have. Blocks
        after the damage are found by their hashes. If the header is damaged, the commit is found
        among the blocks; and whatever is damaged in one byte alone is repaired, if it is short: by
        its hash it is known to be right. Nothing comes out that does not have the right hash, if
        CIDs are verified.

        Args:
            bad_nodes: also go past nodes that break a rule, or exceed one of the limits on nodes,
                and list them in `RepoDriver.damage`. They are not damaged, as their hash is right:
                the author of the repo has made them so. Otherwise their error is raised, and so it
                is if there are more than 10,000 of them, or if one is in more than 10 places.

        Raises:
            TypeError: if `bad_nodes` is not a `bool`.

        Example:
            >>> async def changed(slice_of_repo: bytes, known: dict[str, Cid]) -> list[str]:
            ...     builder = DriverBuilder().with_gaps()
            ...     async with builder.stream_car(slice_of_repo) as (commit, driver):
            ...         keys: list[str] = []
            ...         while some := await driver.next_keys():  # of missing records, too
            ...             keys += [key for key, cid in some if key and known.get(key) != cid]
            ...         return keys
            >>> import anyio
            >>> from repo_stream import Cid
            >>> from repo_stream.testing import build_repo
            >>> old = build_repo({"a.b.c/1": {"text": "hi"}})
            >>> new = build_repo({"a.b.c/1": {"text": "hi"}, "a.b.c/2": {"text": "hi"}})
            >>> slice_of_repo = new.to_car(omit=new.blocks.keys() & old.blocks.keys())
            >>> known = {key: Cid(cid) for key, cid in old.records.items()}
            >>> anyio.run(changed, slice_of_repo, known)
            ['a.b.c/2']
        """
        check_flag("bad_nodes", bad_nodes)
        return cast("DriverBuilder[T | Gap]", replace(self, gaps="all" if bad_nodes else True))

    async def load_car(self, source: Source) -> Driver.Memory[T] | Driver.Disk[T]:
        """Read a CAR to its end, or until the memory limit is reached.

        Args:
            source: a path, bytes, an object with async `read(n)` or `receive(n)`, or an async
                iterable of bytes. It is not closed. If the repo goes to disk, only the part of the
                source that fits in memory has been read, and it must stay open until
                `finish_loading` returns. If it is a path, the file is kept open, and the blocks are
                read again in it: see `NeedDisk.finish_loading`.

        Returns:
            `Driver.Memory(commit, driver)` if the repo fits in memory, else `Driver.Disk(paused)`.

        Raises:
            CarError, CidMismatch, LimitExceeded: if the file cannot be read.
            CommitError: if its commit is missing or not valid; see `NothingNew`.
            OSError: if `source` is a path that cannot be opened or read.
            TypeError: if `source` is not a supported source.
        """
        budget = Budget.of(self.mem_limit_mb)
        reader = await CarReader.open(
            source,
            limits=self.limits,
            verify_cids=self.verify_cids,
            piece_size=budget.piece,
            rereadable=True,
            past_damage=self.past_damage,
        )
        damages = reader.damages if self.past_damage else None
        try:
            loading = Loading(
                reader, self.block_processor, late=self.processes_late, damages=damages
            )
            if await loading.fill(budget.store):
                commit = loading.commit_found()
                await loading.aclose()
                driver = MemDriver(self, commit, loading.store.blocks, damages)
                return Driver.Memory(commit, driver)
        except BaseException:
            await reader.aclose()
            raise
        return Driver.Disk(NeedDisk(self, loading))

    @takes(StreamKeywords)
    def stream_car(
        self, source: Source, **keywords: Unpack[StreamKeywords]
    ) -> AbstractAsyncContextManager[tuple[Commit, StreamDriver[T]]]:
        """Walk a repo while its CAR is read: only blocks that are still needed are kept.

        If the CAR is in streamable order
        (https://atproto.com/specs/repository#car-file-serialization), that takes the same little
        memory whatever its size: first the commit, then each node before what is below it, and each
        record where its key comes. A CAR in any other order gives the same records: blocks that
        come early are kept in memory, and if they exceed `mem_limit_mb`, the repo goes to disk with
        the rest of the file.

        Nothing is read before it is needed, so a slow consumer slows down the download.

        Args:
            source: see `Source`. It is not closed. The file of a path is closed at the end; until
                then records that two keys share are read again in it, so do not write to it.
            **keywords: with their defaults

                - `spill=None`: where blocks go that do not fit in memory: the path of a database,
                  which is emptied before and after; a `DiskStore`, which is empty again at the end
                  and stays open; `None`, a temporary file; or `False`, nowhere. Then a `next_keys`
                  that is cancelled after it has read more than the memory limit cannot be made
                  again: it needs its nodes once more, which were dropped.
                - `drain=True`: read the file to its end when the walk is over, and check the rest
                  too.

        Returns:
            A context manager that returns the commit and the driver. Entering it reads the file as
            far as its commit.

        Raises:
            CarError, CidMismatch, LimitExceeded: if the file cannot be read.
            CommitError: if its commit is missing or not valid; see `NothingNew`.
            MemLimitExceeded: if the blocks before the commit exceed the limit, and `spill` is
                `False`.
            DiskError: if the store fails.
            OSError: if `source` is a path that cannot be opened or read.
            TypeError: if `source` is not a supported source, or `spill` is of the wrong type.

        Example:
            >>> async def total(source: Source) -> int:
            ...     builder = DriverBuilder().with_block_processor(len)
            ...     async with builder.stream_car(source) as (commit, driver):
            ...         return sum([size async for key, size in driver])
        """
        check_source(source)
        check_spill(keywords["spill"])
        check_flag("drain", keywords["drain"])
        return _with_commit(
            streamed(self, source, keywords["spill"], drain=keywords["drain"], kind=StreamDriver[T])
        )


@asynccontextmanager
async def _with_commit(
    opened: AbstractAsyncContextManager[StreamDriver[T]],
) -> AsyncGenerator[tuple[Commit, StreamDriver[T]]]:
    async with opened as driver:
        yield driver.commit, driver


class Driver:
    """The two outcomes of `DriverBuilder.load_car`, for use with `match`."""

    @dataclass(frozen=True)
    class Memory(Generic[T]):
        """The repo fits in memory and is ready to walk.

        Attributes:
            commit: the repo's commit. Its signature has not been checked.
            driver: walks the repo. It is a `MemDriver`; its declared type is `RepoDriver`, so that
                one variable can have either kind of driver.
        """

        commit: Commit
        driver: RepoDriver[T]

    @dataclass(frozen=True)
    class Disk(Generic[T]):
        """The memory limit was reached, and the rest of the file has not been read.

        Attributes:
            paused: reads the rest, once it has a store.
        """

        paused: NeedDisk[T]


class NeedDisk(Generic[T]):
    """A repo that reached the memory limit, waiting for a disk store.

    It has the blocks that have been read so far. If you do not finish it, call `aclose` or use it
    with `async with`, so that the file of a path is closed.

    Attributes:
        commit: the repo's commit, or `None` if it has not been read yet. Most files start with it.
    """

    def __init__(self, builder: DriverBuilder[T], loading: Loading[T]) -> None:
        self._builder = builder
        self._loading: Loading[T] | None = loading
        self.commit = loading.commit

    async def finish_loading(self, store: DiskStore) -> tuple[Commit, DiskDriver[T]]:
        """Read the source to its end, and keep its blocks on disk.

        Blocks are in a log, which is a file of sections. The walk reads them there as it needs
        them, and processes each record when it reaches it. If the source is the path of a regular
        file, that file is the log. It is closed when the store is closed, reset or given to another
        repo. Do not write to it before; it may be deleted, if the system allows that. Any other
        source is copied to a log of the store's own, byte by byte. So is a file that you open
        yourself (`anyio.open_file`), which is better if random reads in the file are slow.

        If CIDs are verified, blocks are verified again when they are read again. The places of
        blocks take 8 bytes each; if they do not fit in memory, they go to the store's database: at
        16 MiB, if there are more than 450,000.

        It can be called once. If it fails or is cancelled, the store is empty and can be used
        again, and a part of the source has been read.

        Args:
            store: an open store. It is not closed, and must stay open for the walk.

        Returns:
            The commit, and the driver to walk the repo with.

        Raises:
            CarError, CidMismatch, LimitExceeded: if the file cannot be read.
            CommitError: if its commit is missing or not valid; see `NothingNew`.
            ProcessError: if results that were made before memory was full cannot be stored.
            DiskError: if the store fails, or is full (`MaxSizeExceeded`).
            RuntimeError: if it was called or closed before.
            TypeError, StoreClosed: if `store` is not a store, or was closed. Then it can be called
                again.
        """
        _check_store(store)
        loading, self._loading = self._loading, None
        if loading is None:
            raise RuntimeError("this repo has already been loaded or closed")
        budget = Budget.of(self._builder.mem_limit_mb)
        try:
            lease = await store.begin(budget.cache)
            try:
                return await self._load_to(lease, loading, budget)
            except BaseException:
                await lease.abandon()
                raise
        finally:
            await loading.aclose()

    async def _load_to(
        self, lease: Lease, loading: Loading[T], budget: Budget
    ) -> tuple[Commit, DiskDriver[T]]:
        async def leased() -> Lease:
            return lease

        log = RepoLog(
            loading.reader,
            leased,
            budget.places,
            budget.write,
            loading.turn,
            damages=loading.damages,
        )
        await log.hold()
        await load_to_disk(loading, log)
        self.commit = loading.commit_found()
        lease.check()
        if log.is_the_car:
            lease.held.at_end = loading.reader.aclose
            loading.hand_over()
        driver = DiskDriver(
            self._builder, self.commit, log, lease, loading.unstored, damages=loading.damages
        )
        return self.commit, driver

    async def aclose(self) -> None:
        """Discard what has been read, and close the file if the source is a path."""
        loading, self._loading = self._loading, None
        if loading is not None:
            await loading.aclose()

    async def __aenter__(self) -> NeedDisk[T]:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()


def _check_store(store: DiskStore) -> None:
    # SQLite is imported only if there is a store.
    from repo_stream.store.disk import DiskStore  # noqa: PLC0415 - see above

    such_as = "an open DiskStore, as in `async with DiskBuilder().open(path) as store`"
    check_kind("store", store, DiskStore, such_as=such_as)
    if store.closed:
        raise StoreClosed("it is closed; open another store", path=store.path)
