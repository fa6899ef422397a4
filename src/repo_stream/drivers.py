"""Drivers: what walks a repo, and hands out its records.

`RepoDriver` is what all of them can do. They differ in one thing only, which is what they do when
the walker asks for blocks that are not at hand: a `MemDriver` has none to add, a `DiskDriver`
fetches them from a store, and the driver of `repo_stream.stream` reads on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, Literal, NamedTuple, TypeVar, cast

import anyio

from repo_stream.cid import Cid
from repo_stream.errors import (
    DiskError,
    IncompleteRange,
    MissingBlock,
    ProcessError,
    RepoStreamError,
    StoreClosed,
)
from repo_stream.fetch import FETCH, Shelf
from repo_stream.load import Unstored
from repo_stream.mst import Commit
from repo_stream.proofs import Absent, Present, RangeProof
from repo_stream.ranges import KeyRanges
from repo_stream.repo_log import RepoLog
from repo_stream.turn import Turn
from repo_stream.walk import Blocks, Gap, Output, Taken, TreeNode, Walker

if TYPE_CHECKING:
    from repo_stream.disk import DiskStore, Lease
    from repo_stream.drive import DriverBuilder

__all__ = [
    "LAZY_SLICE",
    "Channel",
    "DiskDriver",
    "MemDriver",
    "OnError",
    "Output",
    "Problem",
    "RepoDriver",
]

R = TypeVar("R")
T = TypeVar("T")

_DEFAULT_CHUNK: Final = 256
# Records that are walked between two looks at the clock.
_SLICE: Final = 512
#: The same if each of them is processed only then, which may take long.
LAZY_SLICE: Final = 64

# Problems that are listed. A hostile repo can have a million, each with its error.
_LISTED_PROBLEMS: Final = 1000

#: What to do about a record that cannot be had.
OnError = Literal["raise", "skip", "yield"]


class Problem(NamedTuple):
    """A record that could not be had, where the builder was told to go on.

    Attributes:
        rkey: its key.
        cid: the CID of its block.
        error: why: `ProcessError` where the processor failed on it, `MissingBlock` where the file
            does not hold it.
    """

    rkey: str
    cid: Cid
    error: ProcessError | MissingBlock


# --- Walking ------------------------------------------------------------------------------------


class RepoDriver(Generic[T]):
    """Walks a repo: what both kinds of driver can do, wherever the blocks are.

    Errors stick, and no record is lost: neither to a call that was cancelled nor to a loop that was
    left, and the ways of asking can be mixed.
    """

    def __init__(self, builder: DriverBuilder[T], commit: Commit, blocks: Blocks[T]) -> None:
        #: The repo's commit. Its signature has not been checked.
        self.commit: Commit = commit
        self._builder = builder
        self._root = commit.data
        self._walker = self._new_walker(builder.key_ranges)
        self._blocks = blocks
        self._guard = anyio.ResourceGuard("walking this repo with")
        self._turn = Turn()
        self._slice = LAZY_SLICE if builder.processes_late else _SLICE
        self._error: RepoStreamError | None = None
        self._trace: TracebackType | None = None
        # Records that have been taken from the walker, and how many of them have been given out.
        # They outlast a cancelled call and a loop that was left.
        self._ahead: Taken[T] = Taken([], [], [])
        self._given = 0
        # The same of `next_items`, where a call was cancelled.
        self._items: list[TreeNode | Output[T] | Gap] = []
        self._problems: list[Problem] = []
        self._problem_count = 0

    def _new_walker(self, ranges: KeyRanges) -> Walker[T]:
        builder = self._builder
        return Walker(self._root, builder.block_processor.process, builder.limits, ranges)

    @property
    def problems(self) -> Sequence[Problem]:
        """The records that were skipped or handed out as errors so far: the first 1,000 of them."""
        return tuple(self._problems)

    @property
    def problem_count(self) -> int:
        """How many records were skipped or handed out as errors so far."""
        return self._problem_count

    async def next_chunk(self, n: int = _DEFAULT_CHUNK) -> list[tuple[str, T]] | None:
        """Give the next records, in key order, as pairs of key and result.

        Args:
            n: the most to give. Fewer come only at the end, and before an error.

        Returns:
            Pairs `(rkey, value)`; `None` at the end, and ever after. Two keys that name one record
            share one result, unless it is made during the walk.

        Raises:
            ValueError: where `n` is less than 1.
            NodeError: where the tree breaks a rule; see its leaves.
            MissingBlock: where the file does not hold a block that the tree names.
            ProcessError: where the processor failed on a record.
            LimitExceeded: where a key or a node is over its limit.
            DiskError: where the store fails.
            CarChanged, OSError: if the repo is read again in its own file, and that was changed
                meanwhile (every call that needs blocks may raise that), or cannot be read.
            anyio.BusyResourceError: where another task is waiting for records of this driver.

            Records before an error come first, and every call after it raises it again.
        """
        return await self._next_shaped(n, _pairs)

    async def next_outputs(self, n: int = _DEFAULT_CHUNK) -> list[Output[T]] | None:
        """Do what `next_chunk` does, with the CID of each record beside it."""
        return await self._next_shaped(n, _outputs)

    async def next_keys(self, n: int = _DEFAULT_CHUNK) -> list[tuple[str, Cid]] | None:
        """Give the next keys, in order, each with the CID of its record; `None` at the end.

        No record is read, processed or needed. It goes on from where the last call of any kind
        ended, and moves all of them on. With `DriverBuilder.with_gaps`, a subtree that is missing
        has the key `""`, and the CID is that of its top node.

        Args:
            n: the most to give. Fewer come only at the end, and before an error.

        Raises:
            ValueError: where `n` is less than 1.
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
        """
        if n < 1:
            raise ValueError(f"a chunk has at least 1 key, not {n}")
        with self._guard:
            await self._turn.pause_if_over()
            self._take_items_back()
            # What has been taken already comes first. It is given once nothing is awaited any more.
            ahead = self._ahead.cut(self._given, self._given + n)
            keys = _keys(ahead.rkeys, ahead.cids)
            if len(keys) < n:
                keys += await self._next_keys(n - len(keys), first=not keys)
            self._given += len(ahead.rkeys)
            return keys or None

    async def _next_keys(self, n: int, *, first: bool) -> list[tuple[str, Cid]]:
        """Give keys from the walk; where they are the `first` of a chunk, an error is raised."""
        walker = self._walker
        if isinstance(self._error, (ProcessError, MissingBlock)):
            self._error = None  # it may have been a record's; a node's comes again
        rkeys: list[str] = []
        cids: list[bytes] = []
        before = walker.mark()
        try:
            while self._error is None and len(rkeys) < n and not walker.done:
                more, their_cids = self._take_keys(min(n - len(rkeys), _SLICE))
                rkeys += more
                cids += their_cids
                if not more and not walker.done:
                    await self._supply_keys(rkeys, cids)
                await self._turn.pause_if_over()
            if not rkeys and walker.done:
                await self._end()
        except RepoStreamError as error:
            self._error, self._trace = error, error.__traceback__
        except BaseException:
            walker.go_back(before)
            raise
        if self._error is not None and first and not rkeys:
            raise self._error.with_traceback(self._trace)
        return _keys(rkeys, cids)

    async def _supply_keys(self, rkeys: list[str], cids: list[bytes]) -> None:
        """Have the next node at hand, or go past it where gaps are asked for."""
        try:
            await self._supply(self._walker, self._blocks, FETCH, records=False)
        except MissingBlock:
            if not self._builder.gaps:
                raise
            rkeys.append("")
            cids.append(self._walker.gap().cid)

    async def next_items(self, n: int = _DEFAULT_CHUNK) -> list[TreeNode | Output[T] | Gap] | None:
        """Give what comes next in the tree: its nodes too, raw, each before all that is below it.

        It is for those who write repos in another form: the commit and these, in this order, are
        all of a repo. It goes on from where the last call of any kind ended, and moves all of them
        on; nodes that another call went past, or on disk has read ahead, do not come again.

        Args:
            n: the most to give. Fewer come only at the end, and before an error.

        Returns:
            `TreeNode`, `Output`, and with `DriverBuilder.with_gaps` also `Gap`; `None` at the end.

        Raises:
            ValueError: where `n` is less than 1.
            NodeError, MissingBlock, ProcessError, LimitExceeded, DiskError: as in `next_chunk`.
        """
        if n < 1:
            raise ValueError(f"a chunk has at least 1 item, not {n}")
        with self._guard:
            await self._turn.pause_if_over()
            self._items += _items(self._ahead.cut(self._given))
            self._ahead, self._given = Taken([], [], []), 0
            while len(self._items) < n and await self._more_items(n - len(self._items)):
                await self._turn.pause_if_over()
            if not self._items and self._error is not None:
                raise self._error.with_traceback(self._trace)
            items, self._items = self._items[:n], self._items[n:]
            return items or None

    async def _more_items(self, n: int) -> bool:
        """Take up to `n` items more; say whether there may be others."""
        if self._error is not None:
            return False
        try:
            if self._walker.done:
                await self._end()
                return False
            items = self._take_items(min(n, self._slice))
            if not items and not self._walker.done:
                await self._supply(self._walker, self._blocks, FETCH)
        except RepoStreamError as error:
            instead: Taken[T] = Taken([], [], [])
            if not self._put_up_with(error, instead):
                self._error, self._trace = error, error.__traceback__
                return False
            self._items += _items(instead)
        else:
            self._items += items
        return True

    async def seek(self, rkey: str) -> None:
        """Go on from a key, before or behind: the first with it or after it comes next.

        It brings back a walk that has ended, and goes past an error, which comes again where it is
        still in the way. Outside the builder's key ranges there is still nothing.

        Args:
            rkey: a full key, `collection/record-key`, or the beginning of one; it need not be
                there.

        Raises:
            DiskError: where the store had failed or was handed on.

        Example:
            >>> async def after(driver: RepoDriver[bytes], rkey: str) -> list[tuple[str, bytes]]:
            ...     await driver.seek(rkey + chr(0))
            ...     return await driver.next_chunk() or []
        """
        key = rkey.encode()
        with self._guard:
            await self._turn.pause_if_over()
            if isinstance(self._error, DiskError):
                raise self._error.with_traceback(self._trace)
            await self._go_to(key)
            self._error = self._trace = None

    async def get(self, rkey: str) -> Output[T] | None:
        """Give one record, wherever the walk stands and whatever its key ranges are.

        An error is raised, whatever `with_on_error` says.

        Returns:
            The record, or `None` where the tree proves that the repo has none with that key.

        Raises:
            NodeError, LimitExceeded: where a node on the way breaks a rule.
            IncompleteRange: where the file does not hold a node on the way, as in a slice.
            MissingBlock: where it does not hold the record.
            ProcessError: where the processor failed on the record.
            DiskError: where the store fails.
        """
        with self._guard:
            await self._gather()
            walker = self._new_walker(KeyRanges.key(rkey.encode()))
            blocks = self._own_blocks()
            while not (taken := walker.take(blocks, 1)).rkeys and not walker.done:
                try:
                    await self._supply(walker, blocks, 1)
                except MissingBlock as error:
                    raise _unproven(error, walker, rkey, rkey + "\0") from None
            await self._turn.pause_if_over()
        return _outputs(taken)[0] if taken.rkeys else None

    async def prove(self, rkey: str) -> Present | Absent:
        """Say whether the repo has a record with a key, by the nodes that lead there.

        The records themselves are not needed. Together with the commit's signature
        (`Commit.verify_signature`) it proves the account's own word, whoever gave you the CAR.

        Raises:
            IncompleteRange: where a node on the way is not in the CAR, as in a slice; it names the
                node that would be needed.
            NodeError, LimitExceeded: where a node on the way breaks a rule.
            DiskError: where the store fails.
        """
        keys, after, before = await self._proven(rkey, rkey + "\0")
        return Present(*keys[0]) if keys else Absent(rkey, after, before)

    async def prove_range(self, start: str = "", stop: str | None = None) -> RangeProof:
        """List the keys from `start` to before `stop`, sure that there are no others.

        All of them are held at once; the builder's key ranges do not matter. A range that ends
        where it starts is proven by no node, and names no key.

        Raises:
            ValueError: where `stop` comes before `start`.
            IncompleteRange, NodeError, LimitExceeded, DiskError: as in `prove`.
        """
        return await self._proven(start, stop)

    async def _proven(self, start: str, stop: str | None) -> RangeProof:
        ranges = KeyRanges.of(start, stop)
        if not ranges.ranges:
            return RangeProof([], None, None)
        with self._guard:
            await self._gather()
            walker = self._new_walker(ranges)
            blocks = self._own_blocks()
            keys: list[tuple[str, Cid]] = []
            while not walker.done:
                rkeys, cids = walker.take_keys(blocks, _SLICE)
                keys += _keys(rkeys, cids)
                if not rkeys and not walker.done:
                    try:
                        await self._supply(walker, blocks, FETCH, records=False)
                    except MissingBlock as error:
                        raise _unproven(error, walker, start, stop) from None
                await self._turn.pause_if_over()
            return RangeProof(keys, *walker.outer)

    async def collections(self) -> list[str]:
        """List the collections that have records within the key ranges, in the order of their keys.

        It looks for the first key of each and never walks through one.

        Raises:
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
        """
        names: list[str] = []
        with self._guard:
            await self._gather()
            walker = self._new_walker(self._builder.key_ranges)
            blocks = self._own_blocks()
            while not walker.done:
                rkeys, _cids = walker.take_keys(blocks, 1)
                if rkeys:
                    name, slash, _ = rkeys[0].partition("/")
                    if slash:
                        names.append(name)
                    # After the slash comes "0", and after a key without one, itself with a zero.
                    walker.skip_to(f"{name}0".encode() if slash else rkeys[0].encode() + b"\0")
                elif not walker.done:
                    await self._supply(walker, blocks, 1, records=False)
                await self._turn.pause_if_over()
        return names

    def __aiter__(self) -> AsyncIterator[tuple[str, T]]:
        return self

    async def __anext__(self) -> tuple[str, T]:
        """Give the next record as a pair of key and result."""
        at = await self._next_index()
        return self._ahead.rkeys[at], self._ahead.values[at]

    def outputs(self) -> AsyncIterator[Output[T]]:
        """Iterate over what is left, as `Output`."""
        return _Outputs(self._next_output)

    async def _next_output(self) -> Output[T]:
        at = await self._next_index()
        rkeys, cids, values = self._ahead
        return Output(rkeys[at], Cid(cids[at]), values[at])

    async def _next_index(self) -> int:
        """Say which record of `_ahead` comes next, filling it where it is used up."""
        at = self._given
        if at == len(self._ahead.rkeys):
            with self._guard:
                taken = await self._next_unguarded(_DEFAULT_CHUNK, fewer=True)
            if taken is None:
                raise StopAsyncIteration
            self._ahead, at = taken, 0
        self._given = at + 1
        return at

    async def _next_shaped(self, n: int, shape: Callable[[Taken[T]], list[R]]) -> list[R] | None:
        """Give the next records in the shape that is asked for.

        A hundred thousand `Output` take a tenth of a second to make, so other tasks get their turn
        meanwhile.
        """
        if n <= _SLICE:
            taken = await self._next(n)
            return None if taken is None else shape(taken)
        with self._guard:
            taken = await self._next_unguarded(n)
            if taken is None:
                return None
            shaped: list[R] = []
            try:
                for at in range(0, len(taken.rkeys), _SLICE):
                    shaped += shape(taken.cut(at, at + _SLICE))
                    await self._turn.pause_if_over()
            except BaseException:
                self._take_back([taken])
                raise
            return shaped

    async def _next(self, n: int) -> Taken[T] | None:
        if n < 1:
            raise ValueError(f"a chunk has at least 1 record, not {n}")
        with self._guard:
            return await self._next_unguarded(n)

    async def _next_unguarded(self, n: int, *, fewer: bool = False) -> Taken[T] | None:
        await self._turn.pause_if_over()
        self._take_items_back()
        if self._given == len(self._ahead.rkeys):
            self._ahead, self._given = Taken([], [], []), 0
        ahead = self._ahead
        while (left := n - (len(ahead.rkeys) - self._given)) > 0:
            # Of records as large as they may be, a chunk takes 500 MB. Who asks for one at a time
            # gets what is at hand.
            if fewer and left < n:
                break
            if not await self._advance(ahead, min(left, self._slice)):
                break
            if left > self._slice:
                await self._turn.pause_if_over()
        return self._give(n)

    async def _advance(self, ahead: Taken[T], n: int) -> bool:
        """Take up to `n` records more; say whether there may be others."""
        if self._error is not None:
            return False
        try:
            if self._walker.done:
                await self._end()
                return False
            taken = self._take(n)
            if not taken.rkeys and not self._walker.done:
                await self._supply(self._walker, self._blocks, FETCH)
        except RepoStreamError as error:
            if self._put_up_with(error, ahead):
                await self._turn.pause_if_over()
                return True
            self._error, self._trace = error, error.__traceback__
            return False
        ahead.extend(taken)
        return True

    def _put_up_with(self, error: RepoStreamError, ahead: Taken[T]) -> bool:
        """Go past a record that cannot be had, where that is asked for; say whether it was."""
        if self._builder.gaps and isinstance(error, MissingBlock):
            gap = self._walker.gap()
            ahead.extend(Taken([gap.rkey or ""], [gap.cid], [cast("T", gap)]))
            return True
        on_error = self._builder.on_error
        if on_error == "raise" or not isinstance(error, (ProcessError, MissingBlock)):
            return False
        if error.rkey is None:
            return False  # a node
        rkey, cid = self._walker.skip_record()
        self._problem_count += 1
        # Their tracebacks would hold on to what was at hand when they were raised.
        for raised in (error, error.__cause__):
            if raised is not None:
                raised.__traceback__ = None
        if len(self._problems) < _LISTED_PROBLEMS:
            self._problems.append(Problem(rkey, Cid(cid), error))
        if on_error == "yield":
            ahead.extend(Taken([rkey], [cid], [cast("T", error)]))
        return True

    def _give(self, n: int) -> Taken[T] | None:
        ahead, at = self._ahead, self._given
        if at == len(ahead.rkeys):
            if self._error is not None:
                # Without what earlier calls have added, or it would grow with each.
                raise self._error.with_traceback(self._trace)
            return None
        if at == 0 and len(ahead.rkeys) <= n:
            self._ahead = Taken([], [], [])
            return ahead
        self._given = min(at + n, len(ahead.rkeys))
        return ahead.cut(at, at + n)

    def _take_back(self, chunks: Sequence[Taken[T]]) -> None:
        """Put records that were taken ahead back in front of those still to come."""
        for chunk in reversed(chunks):
            chunk.extend(self._ahead.cut(self._given))
            self._ahead, self._given = chunk, 0

    def _forget_taken(self) -> None:
        """Let go of what was taken from the walker and not given out."""
        self._ahead, self._given = Taken([], [], []), 0
        self._items.clear()

    # What the drivers differ in.

    def _take(self, n: int) -> Taken[T]:
        """Take up to `n` records from what is at hand."""
        return self._walker.take(self._blocks, n)

    def _take_keys(self, n: int) -> tuple[list[str], list[bytes]]:
        """Take up to `n` keys and CIDs from what is at hand."""
        return self._walker.take_keys(self._blocks, n)

    def _take_items(self, n: int) -> list[TreeNode | Output[T]]:
        """Take up to `n` nodes and records from what is at hand."""
        return self._walker.take_items(self._blocks, n)

    async def _end(self) -> None:
        """Do what is left to do when the walk is over."""

    async def _go_to(self, key: bytes) -> None:
        """Put the walk before a key."""
        self._walker.seek(key)
        self._forget_taken()

    async def _gather(self) -> None:
        """Have the whole repo within reach, for a walk to anywhere in it."""

    def _take_items_back(self) -> None:
        """Put records that a cancelled `next_items` had taken in front of those still to come."""
        if not self._items:
            return
        taken: Taken[T] = Taken([], [], [])
        for item in self._items:
            if isinstance(item, Output):
                taken.extend(Taken([item.rkey], [item.cid], [item.data]))
            elif isinstance(item, Gap):
                taken.extend(Taken([item.rkey or ""], [item.cid], [cast("T", item)]))
        self._items = []
        self._take_back([taken])

    def _own_blocks(self) -> Blocks[T]:
        """Give blocks for a walk apart from the main one."""
        raise NotImplementedError

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Bring up to `n` blocks, that before which the walker stands first, or say it is missing.

        Without `records` only nodes are brought.
        """
        raise NotImplementedError


def _unproven(error: MissingBlock, walker: Walker[T], start: str, stop: str | None) -> MissingBlock:
    """Give the error for a node that a proof needs; that of a record stays as it is."""
    if error.rkey is not None:
        return error
    gap = walker.gap()
    return IncompleteRange(
        cid=error.cid, start=start, stop=stop, after=gap.after, before=gap.before
    )


def _items(taken: Taken[T]) -> list[TreeNode | Output[T] | Gap]:
    return [each.data if isinstance(each.data, Gap) else each for each in _outputs(taken)]


def _keys(rkeys: Sequence[str], cids: Sequence[bytes]) -> list[tuple[str, Cid]]:
    return list(zip(rkeys, map(Cid, cids), strict=True))


def _pairs(taken: Taken[T]) -> list[tuple[str, T]]:
    return list(zip(taken.rkeys, taken.values, strict=True))


def _outputs(taken: Taken[T]) -> list[Output[T]]:
    return [Output(rkey, Cid(cid), value) for rkey, cid, value in zip(*taken, strict=True)]


class _Outputs(Generic[T]):
    """A driver's records as `Output`, one by one."""

    def __init__(self, following: Callable[[], Awaitable[Output[T]]]) -> None:
        self._following = following

    def __aiter__(self) -> _Outputs[T]:
        return self

    async def __anext__(self) -> Output[T]:
        return await self._following()


class MemDriver(RepoDriver[T]):
    """Walks a repo that is in memory. `DriverBuilder.load_car` makes it."""

    def _own_blocks(self) -> Blocks[T]:
        return self._blocks

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        raise walker.missing()


class DiskDriver(RepoDriver[T]):
    """Walks a repo that is on disk: in a store, or in its file. `NeedDisk.finish_loading` makes it.

    With the store, by `aclose` and `reset_store` as well, the file is closed.
    """

    def __init__(
        self,
        builder: DriverBuilder[T],
        commit: Commit,
        log: RepoLog,
        lease: Lease,
        unstored: Mapping[bytes, Unstored],
    ) -> None:
        processor = builder.block_processor
        self._alike = processor.keeps_bytes
        super().__init__(builder, commit, self._own_blocks())
        if not self._alike:
            self._slice = LAZY_SLICE
        self._lease: Lease | None = lease
        self._shelf: Shelf[T] = Shelf(log, processor, unstored)

    def _own_blocks(self) -> Blocks[T]:
        return Blocks[T].empty(alike=self._alike)

    @asynccontextmanager
    async def to_channel(self, n: int = _DEFAULT_CHUNK) -> AsyncGenerator[Channel[T]]:
        """Walk ahead in a task of its own while the caller works on the chunk before.

        Args:
            n: the most records a chunk may have.

        Yields:
            An async iterable of chunks, as `next_chunk(n)` gives them. It raises what `next_chunk`
            would raise. At most one chunk is ready beyond the one that the walk is working on; what
            has not been taken when the block is left comes from the driver again. Until then every
            other use of the driver is an `anyio.BusyResourceError`.

        Raises:
            ValueError: where `n` is less than 1.

        Example:
            >>> async def example(driver: DiskDriver[int]) -> None:
            ...     async with driver.to_channel(512) as chunks:
            ...         async for chunk in chunks:
            ...             for rkey, size in chunk:
            ...                 print(rkey, size)
        """
        if n < 1:
            raise ValueError(f"a chunk has at least 1 record, not {n}")
        channel: Channel[T] = Channel()
        failure: BaseException | None = None

        async def fill() -> None:
            nonlocal failure
            try:
                await self._fill(channel, n)
            except KeyboardInterrupt as error:  # trio raises it in whichever task is at work
                failure = error
                tasks.cancel_scope.cancel()

        with self._guard:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fill)
                    try:
                        yield channel
                    except anyio.get_cancelled_exc_class():
                        raise
                    except BaseException as error:  # noqa: BLE001 - raised again below
                        # Out of the task group's reach, which would wrap it.
                        failure = error
                    tasks.cancel_scope.cancel()
            finally:
                self._take_back(channel.close())
        if failure is not None:
            raise failure

    async def _fill(self, channel: Channel[T], n: int) -> None:
        try:
            while (taken := await self._next_unguarded(n)) is not None:
                # Nothing is awaited between taking and putting, so no cancellation can come
                # between.
                channel.put(taken)
                await channel.room()
            channel.end(None)
        except (RepoStreamError, OSError) as error:  # what reading the CAR again may raise
            channel.end(error)

    async def reset_store(self) -> DiskStore:
        """Empty the store and hand it back, for the next repo. The driver is at its end with it.

        Raises:
            StoreClosed: where it was called before, or the store has been closed.
            DiskError: where the store cannot be emptied.
        """
        with self._guard:
            store = self._require_lease().store
            await store.reset()
            self._lease = None
            self._error = StoreClosed("its driver handed it on with reset_store", path=store.path)
            self._forget_taken()
            return store

    async def aclose(self) -> None:
        """Leave the walk: empty the store, unless another repo has it by now. The store stays open.

        Afterwards the driver raises `StoreClosed`. A cancellation waits until it is done.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            self._error = StoreClosed("its driver has been closed", path=lease.store.path)
            self._forget_taken()
            await lease.abandon()

    def _require_lease(self) -> Lease:
        if self._lease is None:
            raise StoreClosed("its driver handed it on with reset_store", path=None)
        return self._lease

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        self._require_lease()
        await self._shelf.bring(walker, blocks, n, records=records)


class Channel(Generic[T]):
    """Chunks that a walk has ready; `DiskDriver.to_channel` makes it."""

    def __init__(self) -> None:
        self._ready: deque[Taken[T]] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._guard = anyio.ResourceGuard("receiving chunks from")

    def put(self, chunk: Taken[T]) -> None:
        """Add a chunk, on the walk's side."""
        self._ready.append(chunk)
        self._filled.set()

    async def room(self) -> None:
        """Wait until the chunk before has been taken, on the walk's side."""
        while self._ready:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    def end(self, error: Exception | None) -> None:
        """Say that no chunk will follow, and why, on the walk's side."""
        self._ended, self._error = True, error
        self._filled.set()

    def close(self) -> Sequence[Taken[T]]:
        """End the channel and give back what nobody took."""
        left = tuple(self._ready)
        self._ready.clear()
        self._ended = True
        return left

    def __aiter__(self) -> Channel[T]:
        return self

    async def __anext__(self) -> list[tuple[str, T]]:
        """Give the next chunk, as pairs of key and result."""
        with self._guard:
            while not self._ready:
                if self._error is not None:
                    raise self._error
                if self._ended:
                    raise StopAsyncIteration
                self._filled = anyio.Event()
                await self._filled.wait()
            taken = self._ready.popleft()
            self._emptied.set()
            return _pairs(taken)
