"""Drivers: what walks a repo, and hands out its records.

`RepoDriver` is what all of them can do. They differ in one thing only, which is what they do when
the walker asks for blocks that are not at hand: a `MemDriver` has none to add, a `DiskDriver`
fetches them from a store, and the driver of `repo_stream.drivers.stream` reads on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Generic, NamedTuple, TypeVar, cast

import anyio

from repo_stream.drivers.fetch import FETCH
from repo_stream.drivers.options import Options
from repo_stream.errors import (
    DiskError,
    IncompleteRange,
    MissingBlock,
    ProcessError,
    RepoStreamError,
)
from repo_stream.ipld.cid import Cid
from repo_stream.keys import parse_key, parse_start
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Absent, Gap, Output, Present, RangeProof, Taken, TreeNode
from repo_stream.mst.walker import Walker
from repo_stream.turn import Turn

__all__ = ["DEFAULT_CHUNK", "LAZY_SLICE", "Problem", "RepoDriver"]

R = TypeVar("R")
T = TypeVar("T")

DEFAULT_CHUNK: Final = 256
# Records that are walked between two looks at the clock.
_SLICE: Final = 512
#: The same if each of them is processed only then, which may take long.
LAZY_SLICE: Final = 64

# Problems that are listed. A hostile repo can have a million, each with its error.
_LISTED_PROBLEMS: Final = 1000


class Problem(NamedTuple):
    """A record that could not be had, where the builder was told to go on.

    Attributes:
        key: its key.
        cid: the CID of its block.
        error: why: `ProcessError` where the processor failed on it, `MissingBlock` where the file
            does not hold it.
    """

    key: str
    cid: Cid
    error: ProcessError | MissingBlock


# --- Walking ------------------------------------------------------------------------------------


class RepoDriver(Generic[T]):
    """Walks a repo: what both kinds of driver can do, wherever the blocks are.

    Errors stick, and no record is lost: neither to a call that was cancelled nor to a loop that was
    left, and the ways of asking can be mixed.
    """

    def __init__(self, options: Options[T], commit: Commit, blocks: Blocks[T]) -> None:
        #: The repo's commit. Its signature has not been checked.
        self.commit: Commit = commit
        self._options = options
        self._root = commit.data
        self._walker = self._new_walker(options.key_ranges)
        self._blocks = blocks
        self._guard = anyio.ResourceGuard("walking this repo with")
        self._turn = Turn()
        self._slice = LAZY_SLICE if options.processes_late else _SLICE
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
        options = self._options
        return Walker(self._root, options.block_processor.process, options.limits, ranges)

    @property
    def problems(self) -> Sequence[Problem]:
        """The records that were skipped or handed out as errors so far: the first 1,000 of them."""
        return tuple(self._problems)

    @property
    def problem_count(self) -> int:
        """How many records were skipped or handed out as errors so far."""
        return self._problem_count

    async def next_chunk(self, n: int = DEFAULT_CHUNK) -> list[tuple[str, T]] | None:
        """Give the next records, in key order, as pairs of key and result.

        Args:
            n: the most to give. Fewer come only at the end, and before an error.

        Returns:
            Pairs `(key, value)`; `None` at the end, and ever after. Two keys that name one record
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
        return await self._next_shaped(n, Taken[T].pairs)

    async def next_outputs(self, n: int = DEFAULT_CHUNK) -> list[Output[T]] | None:
        """Do what `next_chunk` does, with the CID of each record beside it."""
        return await self._next_shaped(n, Taken[T].outputs)

    async def next_keys(self, n: int = DEFAULT_CHUNK) -> list[tuple[str, Cid]] | None:
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
            keys = _keys(ahead.keys, ahead.cids)
            if len(keys) < n:
                keys += await self._next_keys(n - len(keys), first=not keys)
            self._given += len(ahead.keys)
            return keys or None

    async def _next_keys(self, n: int, *, first: bool) -> list[tuple[str, Cid]]:
        """Give keys from the walk; where they are the `first` of a chunk, an error is raised."""
        walker = self._walker
        if isinstance(self._error, (ProcessError, MissingBlock)):
            self._error = None  # it may have been a record's; a node's comes again
        keys: list[str] = []
        cids: list[bytes] = []
        before = walker.mark()
        try:
            while self._error is None and len(keys) < n and not walker.done:
                more, their_cids = self._take_keys(min(n - len(keys), _SLICE))
                keys += more
                cids += their_cids
                if not more and not walker.done:
                    await self._supply_keys(keys, cids)
                await self._turn.pause_if_over()
            if not keys and walker.done:
                await self._end()
        except RepoStreamError as error:
            self._error, self._trace = error, error.__traceback__
        except BaseException:
            walker.go_back(before)
            raise
        if self._error is not None and first and not keys:
            raise self._error.with_traceback(self._trace)
        return _keys(keys, cids)

    async def _supply_keys(self, keys: list[str], cids: list[bytes]) -> None:
        """Have the next node at hand, or go past it where gaps are asked for."""
        try:
            await self._supply(self._walker, self._blocks, FETCH, records=False)
        except MissingBlock:
            if not self._options.gaps:
                raise
            keys.append("")
            cids.append(self._walker.gap().cid)

    async def next_items(self, n: int = DEFAULT_CHUNK) -> list[TreeNode | Output[T] | Gap] | None:
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

    async def seek(self, key: str | bytes) -> None:
        r"""Go on from a key, forward or back: the first key that is equal or greater comes next.

        This restarts a walk that has ended, and goes past an error, which is raised again if it is
        still in the way. Keys outside the builder's key ranges are still left out.

        Args:
            key: a key or the beginning of one, such as `app.bsky.feed.post/3k`, `app.bsky.feed.`
                or `""`; no record has to have it. It can also be the `at://` URI of a record, a
                collection or the account. Bytes can be any key or beginning at all.

        Raises:
            ValueError: if `key` is text that no key begins with, such as an rkey without its
                collection, or a URI of another account; see `get`.
            DiskError: if the store has failed or was handed on.

        Example:
            >>> async def after(driver: RepoDriver[bytes], key: str) -> list[tuple[str, bytes]]:
            ...     await driver.seek(key.encode() + b"\0")
            ...     return await driver.next_chunk() or []
        """
        start = parse_start(key, self.commit.did).encode()
        with self._guard:
            await self._turn.pause_if_over()
            if isinstance(self._error, DiskError):
                raise self._error.with_traceback(self._trace)
            await self._go_to(start)
            self._error = self._trace = None

    async def get(self, key: str | bytes) -> Output[T] | None:
        """Return one record, whatever the position of the walk and the builder's key ranges.

        Errors are raised, whatever `with_on_error` says.

        Args:
            key: the key of the record, `collection/rkey`, or its URI, `at://DID/collection/rkey`.
                Bytes can be any key at all: some repos have keys that break the rules.

        Returns:
            The record, or `None` if the tree proves that the repo has none with that key.

        Raises:
            ValueError: if `key` is text that is not a key, such as an rkey without its collection,
                or if it is a URI that does not name the DID of this repo: that of another account,
                or one with a handle.
            NodeError, LimitExceeded: if a node on the way breaks a rule.
            IncompleteRange: if a node on the way is not in the CAR, as in a slice.
            MissingBlock: if the record is not in the CAR.
            ProcessError: if the processor failed on the record.
            DiskError: if the store fails.
        """
        key = parse_key(key, self.commit.did)
        with self._guard:
            await self._gather()
            walker = self._new_walker(KeyRanges.key(key.encode()))
            blocks = self._own_blocks()
            while not (taken := walker.take(blocks, 1)).keys and not walker.done:
                try:
                    await self._supply(walker, blocks, 1)
                except MissingBlock as error:
                    raise _unproven(error, walker, key, key + "\0") from None
            await self._turn.pause_if_over()
        return taken.outputs()[0] if taken.keys else None

    async def prove(self, key: str | bytes) -> Present | Absent:
        """Return whether the repo has a record with a key, proven by the nodes that lead there.

        The records themselves are not needed. Together with the commit's signature
        (`Commit.verify_signature`), this proves what the account has published, whoever made the
        CAR.

        Args:
            key: a key, or the URI of a record; see `get`.

        Raises:
            ValueError: if `key` is not a key, or a URI of another account; see `get`.
            IncompleteRange: if a node on the way is not in the CAR, as in a slice. The error has
                the CID of that node.
            NodeError, LimitExceeded: if a node on the way breaks a rule.
            DiskError: if the store fails.
        """
        key = parse_key(key, self.commit.did)
        keys, after, before = await self._proven(KeyRanges.key(key.encode()), key, key + "\0")
        return Present(*keys[0]) if keys else Absent(key, after, before)

    async def prove_range(self, start: str = "", stop: str | None = None) -> RangeProof:
        """List the keys from `start` to before `stop`, with the proof that there are no others.

        All of them are held in memory at once. The builder's key ranges do not matter. No node is
        needed for an empty range, and the proof of one names no key.

        Args:
            start: the first key, or the beginning of one, or any other text, but no URI.
            stop: the first key beyond the range; `None` for the end of the repo.

        Raises:
            ValueError: if `stop` is less than `start`, or if one of them is an `at://` URI.
            IncompleteRange, NodeError, LimitExceeded, DiskError: as in `prove`.
        """
        return await self._proven(KeyRanges.of(start, stop), start, stop)

    async def _proven(self, ranges: KeyRanges, start: str, stop: str | None) -> RangeProof:
        if not ranges.ranges:
            return RangeProof([], None, None)
        with self._guard:
            await self._gather()
            walker = self._new_walker(ranges)
            blocks = self._own_blocks()
            keys: list[tuple[str, Cid]] = []
            while not walker.done:
                found, cids = walker.take_keys(blocks, _SLICE)
                keys += _keys(found, cids)
                if not found and not walker.done:
                    try:
                        await self._supply(walker, blocks, FETCH, records=False)
                    except MissingBlock as error:
                        raise _unproven(error, walker, start, stop) from None
                await self._turn.pause_if_over()
            return RangeProof(keys, *walker.outer)

    async def collections(self, *, whole_repo: bool = False) -> list[str]:
        """List the collections that have records, in the order of their keys.

        This looks up the first key of each collection and skips the rest.

        Args:
            whole_repo: list all collections of the repo, not only those within the builder's key
                ranges.

        Raises:
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
        """
        names: list[str] = []
        with self._guard:
            await self._gather()
            ranges = KeyRanges() if whole_repo else self._options.key_ranges
            walker = self._new_walker(ranges)
            blocks = self._own_blocks()
            while not walker.done:
                keys, _cids = walker.take_keys(blocks, 1)
                if keys:
                    name, slash, _ = keys[0].partition("/")
                    if slash:
                        names.append(name)
                    # After the slash comes "0", and after a key without one, itself with a zero.
                    walker.skip_to(f"{name}0".encode() if slash else keys[0].encode() + b"\0")
                elif not walker.done:
                    await self._supply(walker, blocks, 1, records=False)
                await self._turn.pause_if_over()
        return names

    def __aiter__(self) -> AsyncIterator[tuple[str, T]]:
        return self

    async def __anext__(self) -> tuple[str, T]:
        """Give the next record as a pair of key and result."""
        at = await self._next_index()
        return self._ahead.keys[at], self._ahead.values[at]

    def outputs(self) -> AsyncIterator[Output[T]]:
        """Iterate over what is left, as `Output`."""
        return _Outputs(self._next_output)

    async def _next_output(self) -> Output[T]:
        at = await self._next_index()
        keys, cids, values = self._ahead
        return Output(keys[at], Cid(cids[at]), values[at])

    async def _next_index(self) -> int:
        """Say which record of `_ahead` comes next, filling it where it is used up."""
        at = self._given
        if at == len(self._ahead.keys):
            with self._guard:
                taken = await self._next_unguarded(DEFAULT_CHUNK, fewer=True)
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
                for at in range(0, len(taken.keys), _SLICE):
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
        if self._given == len(self._ahead.keys):
            self._ahead, self._given = Taken([], [], []), 0
        ahead = self._ahead
        while (left := n - (len(ahead.keys) - self._given)) > 0:
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
            if not taken.keys and not self._walker.done:
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
        if self._options.gaps and isinstance(error, MissingBlock):
            gap = self._walker.gap()
            ahead.extend(Taken([gap.key or ""], [gap.cid], [cast("T", gap)]))
            return True
        on_error = self._options.on_error
        if on_error == "raise" or not isinstance(error, (ProcessError, MissingBlock)):
            return False
        if error.key is None:
            return False  # a node
        key, cid = self._walker.skip_record()
        self._problem_count += 1
        # Their tracebacks would hold on to what was at hand when they were raised.
        for raised in (error, error.__cause__):
            if raised is not None:
                raised.__traceback__ = None
        if len(self._problems) < _LISTED_PROBLEMS:
            self._problems.append(Problem(key, Cid(cid), error))
        if on_error == "yield":
            ahead.extend(Taken([key], [cid], [cast("T", error)]))
        return True

    def _give(self, n: int) -> Taken[T] | None:
        ahead, at = self._ahead, self._given
        if at == len(ahead.keys):
            if self._error is not None:
                # Without what earlier calls have added, or it would grow with each.
                raise self._error.with_traceback(self._trace)
            return None
        if at == 0 and len(ahead.keys) <= n:
            self._ahead = Taken([], [], [])
            return ahead
        self._given = min(at + n, len(ahead.keys))
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
                taken.extend(Taken([item.key], [item.cid], [item.value]))
            elif isinstance(item, Gap):
                taken.extend(Taken([item.key or ""], [item.cid], [cast("T", item)]))
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
    if error.key is not None:
        return error
    gap = walker.gap()
    return IncompleteRange(
        cid=error.cid, start=start, stop=stop, after=gap.after, before=gap.before
    )


def _items(taken: Taken[T]) -> list[TreeNode | Output[T] | Gap]:
    return [each.value if isinstance(each.value, Gap) else each for each in taken.outputs()]


def _keys(keys: Sequence[str], cids: Sequence[bytes]) -> list[tuple[str, Cid]]:
    return list(zip(keys, map(Cid, cids), strict=True))


class _Outputs(Generic[T]):
    """A driver's records as `Output`, one by one."""

    def __init__(self, following: Callable[[], Awaitable[Output[T]]]) -> None:
        self._following = following

    def __aiter__(self) -> _Outputs[T]:
        return self

    async def __anext__(self) -> Output[T]:
        return await self._following()
