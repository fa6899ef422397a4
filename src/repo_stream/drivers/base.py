"""`RepoDriver`: what all drivers can do.

A driver moves a walker through the tree of a repo (`mst.walker`) and returns the records. The
walker takes records as long as the blocks that it needs are there (`_take`); if one is not, the
driver supplies it (`_supply`). Drivers differ in that alone: a `MemDriver` has all blocks, a
`DiskDriver` fetches them from a log, and a `StreamDriver` reads on.

What was taken is added to the backlog first (`_ready`), and returned from there. So a call can be
cancelled at every `await` without losing records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Generic, NamedTuple, TypeVar, cast

from repo_stream.arguments import check_flag, check_whole
from repo_stream.car.damage import Damage, DamageLog, forget_traces
from repo_stream.drivers.backlog import Backlog, items_of
from repo_stream.drivers.ending import Ending
from repo_stream.drivers.fetch import FETCH
from repo_stream.drivers.guard import Guard
from repo_stream.drivers.options import Options
from repo_stream.errors import (
    BlockReleased,
    CarError,
    DiskError,
    IncompleteRange,
    LimitExceeded,
    MissingBlock,
    NodeError,
    ProcessError,
    RepoStreamError,
    UncheckableBlock,
)
from repo_stream.ipld.cid import Cid
from repo_stream.keys import parse_key, parse_start
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import (
    Absent,
    Common,
    Gap,
    Output,
    Present,
    RangeProof,
    Taken,
    TreeNode,
)
from repo_stream.mst.walker import Walker
from repo_stream.turn import Turn

__all__ = [
    "DEFAULT_CHUNK",
    "LAZY_SLICE",
    "Loop",
    "Problem",
    "RepoDriver",
    "loops_of",
    "some_items_of",
]

B = TypeVar("B", bound=bytes)
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_CHUNK: Final = 256
# Records to walk between two looks at the clock.
_SLICE: Final = 512
#: The same if each of them is processed then, which may take long.
LAZY_SLICE: Final = 64

# Problems to list. A hostile repo can have a million, each with its error.
_LISTED_PROBLEMS: Final = 1000

# How many bad nodes a walk goes past, and in how many places each of them.
_MOST_BAD_NODES: Final = 10_000
_MOST_PLACES: Final = 10
# How many places to remember, so that what is there counts once.
_KNOWN_PLACES: Final = _MOST_BAD_NODES * _MOST_PLACES


class Problem(NamedTuple):
    """A record that could not be read, if `on_error` is not `"raise"`.

    Attributes:
        key: its key.
        cid: the CID of its block.
        error: a `ProcessError` if the processor failed on it, a `MissingBlock` if its block is not
            in the CAR, or an `UncheckableBlock` (also a `MissingBlock`) if its hash cannot be
            checked.
    """

    key: str
    cid: Cid
    error: ProcessError | MissingBlock


class RepoDriver(Generic[T]):
    """Walks a repo. This is what all drivers have in common.

    If an error is raised, every further call that walks on raises it again; see `seek`. `next_keys`
    goes past the error of a record, which it does not need. `get`, `prove`, `prove_range` and
    `collections` walk by themselves, so such an error matters to them only if they come to it.
    No record is lost if a call is cancelled or a loop is left: it is returned by the next call, of
    whatever kind. All kinds of calls can be mixed.

    A driver walks once. A loop that begins after the end raises `AlreadyWalked`, and `next_chunk`
    and its siblings return `None` again; `await driver.seek("")` goes back to the beginning.
    """

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        blocks: Blocks[T],
        damages: DamageLog | None = None,
    ) -> None:
        #: The repo's commit. Its signature has not been checked.
        self.commit: Commit = commit
        self._options = options
        self._root = commit.data
        self._walker = self._new_walker(options.key_ranges)
        self._blocks = blocks
        self._guard = Guard("walking this repo with")
        self._turn = Turn()
        self._slice = LAZY_SLICE if options.processes_late else _SLICE
        self._error: RepoStreamError | None = None
        self._trace: TracebackType | None = None
        # What the outputs of this repo have in common.
        self._common: Common = {"did": commit.did}
        self._ready: Backlog[T] = Backlog(self._common)
        self._ending = Ending()
        self._problems: list[Problem] = []
        self._problem_count = 0
        # What is damaged in the CAR; `None` if nothing can be, as an error is raised then.
        self._damages = damages
        # In how many places each node is bad that the walk has gone past.
        self._bad_nodes: dict[bytes, int] = {}
        # Where in the tree they are, and records that cannot be checked: `Cursor.place_in_tree`.
        self._known_places: set[int] = set()

    def _new_walker(self, ranges: KeyRanges) -> Walker[T]:
        options = self._options
        return Walker(self._root, options.block_processor.process, options.limits, ranges)

    @property
    def problems(self) -> Sequence[Problem]:
        """The records that were skipped or yielded as errors so far: the first 1,000 of them.

        A record that the walk passes again, after a `seek` back, is counted again.
        """
        return tuple(self._problems)

    @property
    def problem_count(self) -> int:
        """How many records were skipped or yielded as errors so far."""
        return self._problem_count

    @property
    def damage(self) -> Sequence[Damage]:
        """What is damaged in the CAR, as far as it has been read: the first 1,000.

        It is empty unless the driver goes past damage; see `DriverBuilder.with_gaps` and
        `DriverBuilder.with_on_error`. What has no `offset`, such as a node that breaks a rule, is
        listed once for each place that it has in the tree.
        """
        return () if self._damages is None else self._damages.listed

    @property
    def damage_count(self) -> int:
        """How much damage was found in the CAR so far."""
        return 0 if self._damages is None else self._damages.count

    @property
    def damage_repaired(self) -> int:
        """How much of it was repaired, so that nothing is lost by it; see `Damage.repaired`."""
        return 0 if self._damages is None else self._damages.repaired

    async def next_chunk(self, n: int = DEFAULT_CHUNK) -> list[tuple[str, T]] | None:
        """Return the next records, in key order, as pairs of key and value.

        Args:
            n: how many records to return. There are fewer only at the end, and before an error.

        Returns:
            Pairs `(key, value)`; `None` at the end, and in every call after it. If two keys name
            one record, they share one value, unless it is made during the walk.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            NodeError: if the tree breaks a rule; see its subclasses.
            MissingBlock: if a block that the tree names is not in the CAR.
            ProcessError: if the processor failed on a record.
            LimitExceeded: if a key or a node exceeds its limit.
            DiskError: if the store fails.
            CarChanged, OSError: if the repo is read again in its own file, and the file was changed
                meanwhile or cannot be read. Every call that needs blocks can raise them.
            CarError, CidMismatch, LimitExceeded, MemLimitExceeded, BlockReleased: if the repo is
                walked while its CAR is read, as by `open_car`, and the file cannot be read on, or
                its blocks do not fit in memory and may not spill to disk. Every call that reads on
                can raise them.
            anyio.BusyResourceError: if another task is waiting for records of this driver.

            Records before an error are returned first, and every call that walks on raises it
            again.
        """
        return await self._next_shaped(n, Taken[T].pairs)

    async def next_outputs(self, n: int = DEFAULT_CHUNK) -> list[Output[T]] | None:
        """Do the same as `next_chunk`, with the CID of each record."""
        return await self._next_shaped(n, self._outputs_of)

    def _outputs_of(self, taken: Taken[T]) -> list[Output[T]]:
        return taken.outputs(self._common)

    async def next_keys(self, n: int = DEFAULT_CHUNK) -> list[tuple[str, Cid]] | None:
        """Return the next keys, in order, each with the CID of its record; `None` at the end.

        No record is read, processed or needed. It starts where the last call of any kind ended, and
        the next call of any kind starts where it ends. With `DriverBuilder.with_gaps`, a missing
        subtree has the key `""` and the CID of its top node.

        Args:
            n: how many keys to return. There are fewer only at the end, and before an error.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
        """
        return await self._next_keys_shaped(n, _keys)

    async def next_columns(
        self, n: int = DEFAULT_CHUNK, *, records: bool = True
    ) -> Taken[T] | None:
        """Do the same as `next_outputs` in columns, which suits code that makes tables.

        An object for each record would take longer than to read it.

        Args:
            n: how many records to return. There are fewer only at the end, and before an error.
            records: read the records; without them, do the same as `next_keys`.

        Returns:
            Three lists: `keys`, `cids`, which are plain `bytes`, and `values`, which is empty
            without records. `None` at the end.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            RepoStreamError: as `next_chunk` or `next_keys` do.
        """
        check_flag("records", records)
        if not records:
            pairs = await self._next_keys_shaped(n, _raw_keys)
            if pairs is None:
                return None
            keys, cids = zip(*pairs, strict=True)
            return Taken([*keys], [*cids], [])
        check_whole("n", n, least=1)
        with self._guard:
            taken = await self._next(n)
            self._ending.returned = taken is None
            return taken

    async def _next_keys_shaped(
        self, n: int, shape: Callable[[Sequence[str], Sequence[bytes]], list[tuple[str, B]]]
    ) -> list[tuple[str, B]] | None:
        """Return the next keys, paired with the CIDs that `shape` makes of the raw ones."""
        check_whole("n", n, least=1)
        with self._guard:
            await self._turn.pause_if_over()
            ready = self._ready
            ready.keep_records_only()
            pairs: list[tuple[str, B]] = []
            for taken in ready.slices(n, _SLICE):
                pairs += shape(taken.keys, taken.cids)
                await self._turn.pause_if_over()
            from_ready = len(pairs)
            if from_ready < n:
                pairs += await self._next_keys(n - from_ready, shape, first=not pairs)
            # Nothing is awaited any more, so those that were ready can be removed.
            ready.skip(from_ready)
            self._ending.returned = not pairs
            return pairs or None

    async def _next_keys(
        self,
        n: int,
        shape: Callable[[Sequence[str], Sequence[bytes]], list[tuple[str, B]]],
        *,
        first: bool,
    ) -> list[tuple[str, B]]:
        """Return keys from the walk; an error is raised if they would be the `first` of a chunk."""
        walker = self._walker
        error = self._error
        if isinstance(error, (ProcessError, MissingBlock, BlockReleased)) and error.key is not None:
            self._error = None  # it is that of a record
        pairs: list[tuple[str, B]] = []
        before = walker.mark()
        try:
            while self._error is None and len(pairs) < n and not walker.done:
                try:
                    keys, cids = self._take_keys(min(n - len(pairs), _SLICE))
                except RepoStreamError as error:
                    if not self._is_bad_node(error):
                        raise
                    pairs += shape([""], [self._gap_for_bad_node(error).cid])
                    continue
                pairs += shape(keys, cids)
                if not keys and not walker.done:
                    pairs += shape(*await self._supply_node())
                await self._turn.pause_if_over()
            if self._error is None and not pairs and walker.done:
                await self._end()
        except RepoStreamError as error:
            self._error, self._trace = error, error.__traceback__
        except BaseException:
            walker.go_back(before)
            raise
        if self._error is not None and first and not pairs:
            raise self._error.with_traceback(self._trace)
        return pairs

    async def _supply_node(self) -> tuple[list[str], list[bytes]]:
        """Supply the next node, or return a gap if it is missing and gaps are on."""
        try:
            await self._supply_next(self._walker, self._blocks, FETCH, records=False)
        except MissingBlock:
            if not self._options.gaps:
                raise
            return [""], [self._walker.gap().cid]
        return [], []

    async def next_items(self, n: int = DEFAULT_CHUNK) -> list[TreeNode | Output[T] | Gap] | None:
        """Return the next items of the tree: records, and the raw nodes, each before its subtree.

        With these items in this order after its commit, a repo can be written in another form. It
        starts where the last call of any kind ended, and the next call of any kind starts where it
        ends. Nodes are not repeated if another call went past them, or read them ahead on disk.

        Args:
            n: how many items to return. There are fewer only at the end, and before an error.

        Returns:
            `TreeNode`, `Output`, and with `DriverBuilder.with_gaps` also `Gap`; `None` at the end.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            NodeError, MissingBlock, ProcessError, LimitExceeded, DiskError: as in `next_chunk`.
        """
        check_whole("n", n, least=1)
        return await self._next_items(n)

    async def _next_items(
        self, n: int, *, at_once: bool = True
    ) -> list[TreeNode | Output[T] | Gap] | None:
        """Return the next `n` items; if not `at_once`, any are enough."""
        with self._guard:
            await self._turn.pause_if_over()
            ready = self._ready
            ready.keep_items_only()
            while (left := n - len(ready.items)) > 0 and (at_once or not ready.items):
                if not await self._advance(min(left, self._slice), items=True):
                    break
                await self._turn.pause_if_over()
            if not ready.items and self._error is not None:
                raise self._error.with_traceback(self._trace)
            taken = ready.take_items(n)
            self._ending.returned = not taken
            return taken or None

    async def seek(self, key: str | bytes) -> None:
        r"""Go on from a key, forward or back: the first key that is equal or greater comes next.

        This restarts a walk that has ended, and goes past an error, which is raised again if it is
        still in the way. Keys outside the builder's key ranges are still left out.

        Args:
            key: a key or the beginning of one, such as `app.bsky.feed.post/3k`, `app.bsky.feed.`
                or `""`, even if the repo has no such record. It can also be the `at://` URI of a
                record, a collection or the account. Bytes can be any UTF-8 at all.

        Raises:
            TypeError: if `key` is neither text nor bytes.
            ValueError: if `key` is text that no key begins with, such as an rkey without its
                collection, or bytes that are not UTF-8, or a URI of another account; see `get`.
            DiskError: if a call has raised it before; no `seek` goes past it.
            CarError, LimitExceeded, MemLimitExceeded, OSError: as in `next_chunk`, if the rest of
                the CAR has to be read for it.

        Example:
            >>> async def after(driver: RepoDriver[bytes], key: str) -> list[tuple[str, bytes]]:
            ...     await driver.seek(key.encode() + b"\0")
            ...     return await driver.next_chunk() or []
        """
        start = parse_start(key, self.commit.did).encode()
        with self._guard:
            self._ready.hold()
            await self._turn.pause_if_over()
            if isinstance(self._error, DiskError):
                raise self._error.with_traceback(self._trace)
            await self._go_to(start)
            self._error = self._trace = None
            self._ending.returned = False

    async def get(self, key: str | bytes) -> Output[T] | None:
        """Return one record, whatever the position of the walk and the builder's key ranges.

        Errors are raised, whatever `with_on_error` says.

        Args:
            key: the key of the record, `collection/rkey`, or its URI, `at://DID/collection/rkey`.
                Bytes can be any UTF-8 at all: some repos have keys that break the rules.

        Returns:
            The record, or `None` if the tree proves that the repo has none with that key; see
            `prove`.

        Raises:
            TypeError: if `key` is neither text nor bytes.
            ValueError: if `key` is text that is not a key, such as an rkey without its collection,
                or bytes that are not UTF-8; or if it is a URI that does not name the DID of this
                repo: that of another account, or one with a handle.
            NodeError, LimitExceeded: if a node on the way breaks a rule.
            IncompleteRange: if a node that the proof needs is not in the CAR, as in a slice.
            MissingBlock: if the record is not in the CAR.
            ProcessError: if the processor failed on the record.
            DiskError: if the store fails.
            CarError, LimitExceeded, MemLimitExceeded, OSError: as in `next_chunk`, if the rest of
                the CAR has to be read for it.
        """
        key = parse_key(key, self.commit.did)
        ranges = KeyRanges.key(key.encode())
        with self._guard:
            await self._gather()
            walker = self._new_walker(ranges)
            blocks = self._own_blocks()
            while not (taken := walker.take(blocks, 1)).keys and not walker.done:
                try:
                    await self._supply_next(walker, blocks, 1)
                except MissingBlock as error:
                    _go_past_unneeded(error, walker, ranges, key, key + "\0")
            await self._turn.pause_if_over()
        return taken.outputs(self._common)[0] if taken.keys else None

    async def prove(self, key: str | bytes) -> Present | Absent:
        """Return whether the repo has a record with a key, proven by the nodes that lead there.

        The records themselves are not needed. Together with the commit's signature
        (`Commit.verify_signature`), this proves what the account has published, whoever made the
        CAR.

        A key has a depth by its hash alone (`key_depth`), and a valid tree has it in a node of that
        depth or not at all. So the nodes from the root down to that depth are enough: if the last
        of them does not have the key, no node below it does. Some servers cut their proofs there.
        Nodes below are checked if they are in the CAR, and an error is raised if one of them breaks
        a rule. But a proof that ends above them does not say that they are valid: a repo whose
        author has put a key at a wrong depth is only found out by a reader who has the node.

        Args:
            key: a key, or the URI of a record; see `get`.

        Raises:
            TypeError, ValueError: if `key` is not a key, or a URI of another account; see `get`.
            IncompleteRange: if a node at the depth of the key or above is not in the CAR, as in a
                slice. The error has the CID of that node.
            NodeError, LimitExceeded: if a node on the way breaks a rule.
            DiskError, CarError, MemLimitExceeded, OSError: as in `get`.
        """
        key = parse_key(key, self.commit.did)
        keys, after, before = await self._proven(KeyRanges.key(key.encode()), key, key + "\0")
        return Present(*keys[0]) if keys else Absent(key, after, before)

    async def prove_range(self, start: str = "", stop: str | None = None) -> RangeProof:
        r"""List the keys from `start` to before `stop`, with the proof that there are no others.

        All of them are held in memory at once. The builder's key ranges do not matter. No node is
        needed for an empty range, and the proof of one names no key. For a range of one key, from
        `key` to before `key + "\0"`, the nodes that `prove` needs are enough. Any other range needs
        all nodes between its bounds.

        Args:
            start: the first key, or the beginning of one, or any other text, but no URI.
            stop: the first key beyond the range; `None` for the end of the repo.

        Raises:
            TypeError: if one of them is not text.
            ValueError: if `stop` is less than `start`, or if one of them is an `at://` URI.
            IncompleteRange, NodeError, LimitExceeded, DiskError, CarError, MemLimitExceeded,
                OSError: as in `prove`.
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
                        await self._supply_next(walker, blocks, FETCH, records=False)
                    except MissingBlock as error:
                        _go_past_unneeded(error, walker, ranges, start, stop)
                await self._turn.pause_if_over()
            return RangeProof(keys, *walker.outer)

    async def collections(self, *, whole_repo: bool = False) -> list[str]:
        """List the collections that have records, in the order of their first keys.

        This looks up the first key of each collection and skips the rest. A key without a slash, or
        with nothing before it, which breaks the rules, is in no collection: the empty name `""`
        stands for all of those, as it does in `Output.collection`.

        Args:
            whole_repo: list all collections of the repo, not only those within the builder's key
                ranges.

        Raises:
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
            CarError, MemLimitExceeded, OSError: as in `get`.
            TypeError: if `whole_repo` is not a `bool`.
        """
        check_flag("whole_repo", whole_repo)
        names: dict[str, None] = {}
        with self._guard:
            await self._gather()
            ranges = KeyRanges() if whole_repo else self._options.key_ranges
            walker = self._new_walker(ranges)
            blocks = self._own_blocks()
            while not walker.done:
                keys, _cids = walker.take_keys(blocks, 1)
                if keys:
                    name, slash, _ = keys[0].partition("/")
                    names[name if slash else ""] = None
                    # After the slash comes "0", and after a key without one, itself with a zero.
                    walker.skip_to(f"{name}0".encode() if slash else keys[0].encode() + b"\0")
                elif not walker.done:
                    await self._supply_next(walker, blocks, 1, records=False)
                await self._turn.pause_if_over()
        return [*names]

    def __aiter__(self) -> AsyncIterator[tuple[str, T]]:
        self._begin_loop()
        return self

    def _begin_loop(self) -> None:
        """Refuse a loop if the walk is over; if there is an error, the loop raises that."""
        if self._error is None:
            self._ending.refuse_new_loop()

    async def __anext__(self) -> tuple[str, T]:
        """Return the next record as a pair of key and value."""
        while (pair := self._ready.next_pair()) is None:
            await self._fill_ready()
        return pair

    def outputs(self) -> AsyncIterator[Output[T]]:
        """Iterate over the records that are left, as `Output`.

        Raises:
            AlreadyWalked: if a loop over them begins when the walk is over.
        """
        return _Outputs(self._begin_loop, self._next_output)

    async def _next_output(self) -> Output[T]:
        while (output := self._ready.next_output()) is None:
            await self._fill_ready()
        return output

    def _loops(self) -> tuple[Loop[tuple[str, T]], Loop[Output[T]]]:
        """Return the parts of a loop over pairs, and of one over outputs."""
        begin, ready, take, fill = (
            self._begin_loop,
            self._ready,
            self._take_at_hand,
            self._fill_ready,
        )
        return (
            Loop(begin, ready.next_pair, take, fill),
            Loop(begin, ready.next_output, take, fill),
        )

    async def _fill_ready(self) -> None:
        """Take some records to the backlog; raise `StopAsyncIteration` if there are no more."""
        with self._guard:
            await self._take_ahead(DEFAULT_CHUNK, at_once=False)
            if not self._ready:
                self._raise_if_failed()
                self._ending.returned = True
                raise StopAsyncIteration
            self._ready.offer()

    def _take_at_hand(self) -> bool:
        """Take records whose blocks are there, for a loop in another thread; see `Loop.take`."""
        ready, guard, me = self._ready, self._guard, object()
        try:
            guard.enter(me)
            ready.keep_records_only()
            took = bool(ready) or self._take_slice()
            ready.offer()
            return took
        finally:
            if guard.holder is me:
                guard.holder = None

    def _take_slice(self) -> bool:
        """Take a slice of records; return whether there may be more."""
        if self._error is not None or self._walker.done:
            return False
        ready = self._ready
        ready.clear()  # drop what was returned
        try:
            return ready.add(self._take(min(self._slice, DEFAULT_CHUNK)))
        except RepoStreamError as error:
            before = self._walker.mark_top()
            try:
                instead = self._go_past(error)
            except BaseException:  # Ctrl-C
                self._walker.go_back(before)
                raise
            if instead is None:
                return False
            ready.coming = instead  # in case Ctrl-C comes before it has been added
            ready.add(instead)
            return True

    async def _next_shaped(self, n: int, shape: Callable[[Taken[T]], list[R]]) -> list[R] | None:
        """Return the next records in the shape that `shape` makes of them.

        Making a hundred thousand `Output` takes a tenth of a second, so it is done in slices.
        """
        check_whole("n", n, least=1)
        with self._guard:
            taken = await self._next(n)
            if taken is None:
                self._ending.returned = True
                return None
            if n <= _SLICE:
                return shape(taken)
            shaped: list[R] = []
            try:
                for at in range(0, len(taken.keys), _SLICE):
                    shaped += shape(taken.cut(at, at + _SLICE))
                    await self._turn.pause_if_over()
            except BaseException:
                self._ready.put_back([taken])
                raise
            return shaped

    async def _next(self, n: int) -> Taken[T] | None:
        """Return the next `n` records, or fewer before an error; `None` at the end."""
        await self._take_ahead(n)
        taken = self._ready.take(n)
        if taken is None:
            self._raise_if_failed()
        return taken

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            # With the first traceback: each raise would add to it, and it would grow.
            raise self._error.with_traceback(self._trace)

    async def _take_ahead(self, n: int, *, at_once: bool = True) -> None:
        """Take records until the backlog has `n`, or up to the end or an error.

        If not `at_once`, any records are enough: a chunk of records of the largest size takes 500
        MB, and a caller that asks for one at a time can begin with what there is.
        """
        await self._turn.pause_if_over()
        ready = self._ready
        ready.keep_records_only()
        if not ready:
            ready.clear()  # drop what was returned before more is taken
        while (left := n - len(ready)) > 0 and (at_once or not ready):
            if not await self._advance(min(left, self._slice)):
                break
            if len(ready) < n:  # a slice was not enough, or large records came
                await self._turn.pause_if_over()

    async def _advance(self, n: int, *, items: bool = False) -> bool:
        """Take up to `n` records to the backlog, or items; return whether there may be more."""
        if self._error is not None:
            return False
        ready = self._ready
        try:
            if self._walker.done:
                await self._end()
                return False
            took = ready.add_items(self._take_items(n)) if items else ready.add(self._take(n))
            if not took and not self._walker.done:
                await self._supply_next(self._walker, self._blocks, FETCH)
        except RepoStreamError as error:
            instead = self._go_past(error)
            if instead is None:
                return False
            if items:
                ready.add_items(items_of(instead))
            else:
                ready.add(instead)
            await self._turn.pause_if_over()
        return True

    def _go_past(self, error: RepoStreamError) -> Taken[T] | None:
        """Go past what could not be read, if that is asked for, or keep the error to be raised.

        Returns:
            What to yield instead: a gap, an error, or nothing; `None` if the walk ends here.
        """
        gap: Gap | None = None
        if self._options.gaps and isinstance(error, MissingBlock):
            if isinstance(error, UncheckableBlock):
                self._note_damage(error.cid, error)
            gap = self._walker.gap()
        elif self._is_bad_node(error):
            gap = self._gap_for_bad_node(error)
        if gap is not None:
            return Taken([gap.key or ""], [gap.cid], [cast("T", gap)])
        if (
            self._options.on_error == "raise"
            or not isinstance(error, (ProcessError, MissingBlock))
            or error.key is None  # it is a node
        ):
            self._error, self._trace = error, error.__traceback__
            return None
        key, cid = self._walker.skip_record()
        self._note_problem(Problem(key, Cid(cid), error))
        if self._options.on_error == "skip":
            return Taken([], [], [])
        return Taken([key], [cid], [cast("T", error)])

    def _is_bad_node(self, error: RepoStreamError) -> bool:
        """Return whether the walk stands before a node that breaks a rule, and goes past those."""
        of_node = isinstance(error, (NodeError, LimitExceeded)) and self._walker.error is error
        if not of_node or self._options.gaps != "all":
            return False
        # A file can name one large node a million times, and it takes time to see what is wrong.
        if self._walker.place_in_tree() in self._known_places:
            return True
        times = self._bad_nodes.get(self._walker.nearest(), 0)
        return times < _MOST_PLACES and len(self._bad_nodes) < _MOST_BAD_NODES

    def _gap_for_bad_node(self, error: RepoStreamError) -> Gap:
        """Leave out the subtree whose top node breaks a rule."""
        cid = self._walker.nearest()
        if self._note_damage(Cid(cid), error):
            self._bad_nodes[cid] = self._bad_nodes.get(cid, 0) + 1
        return self._walker.gap()

    def _note_damage(self, cid: Cid, error: RepoStreamError) -> bool:
        """Add what the walk stands before to the damage; return whether it is new there."""
        place = self._walker.place_in_tree()
        if place in self._known_places:
            return False
        if len(self._known_places) < _KNOWN_PLACES:
            self._known_places.add(place)
        if self._damages is not None:
            self._damages.add(None, cid, error)
        return True

    def _note_problem(self, problem: Problem) -> None:
        self._problem_count += 1
        forget_traces(problem.error)
        if len(self._problems) < _LISTED_PROBLEMS:
            self._problems.append(problem)

    async def _supply_next(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Supply the blocks that a walk needs next; see `_supply`.

        Raises:
            UncheckableBlock: if the first of them cannot be checked, and so was not read.
            MissingBlock: if it is missing.
        """
        if self._options.verify_cids and (error := walker.uncheckable()) is not None:
            raise error
        try:
            await self._supply(walker, blocks, n, records=records)
        except (MissingBlock, BlockReleased) as error:
            if self._damages is None:
                raise
            await self._repair(error, blocks, self._damages)

    async def _repair(
        self, error: MissingBlock | BlockReleased, blocks: Blocks[T], damages: DamageLog
    ) -> None:
        """Supply a block that is missing, if it is damaged and can be repaired.

        Raises:
            MissingBlock: if it cannot; it says how the block is damaged.
            BlockReleased: `error`, if it cannot.
            CidMismatch: if it is a node that is damaged, and gaps are off.
        """
        for data in damages.rescue(error.cid):
            if data is not None:
                self._keep_repaired(blocks, error.cid, data)
                return
            await self._turn.pause_if_over()
        damaged = damages.error_of(error.cid)
        if damaged is not None and error.key is None and not self._options.gaps:
            raise damaged
        if isinstance(error, BlockReleased):
            raise error from damaged
        raise MissingBlock(
            cid=error.cid,
            kind=error.kind,
            key=error.key,
            damage=damaged if isinstance(damaged, CarError) else None,
            may_be_damaged=damages.has_unlisted,
        )

    def _keep_repaired(self, blocks: Blocks[T], cid: bytes, data: bytes) -> None:
        """Keep a block that was repaired, for the walk that needs it next."""
        blocks.raw[cid] = data

    # --- What the drivers differ in -------------------------------------------------------------

    def _take(self, n: int) -> Taken[T]:
        """Take up to `n` records, as far as their blocks are there: `Backlog.coming`."""
        return self._walker.take(self._blocks, n, self._ready.coming)

    def _take_keys(self, n: int) -> tuple[list[str], list[bytes]]:
        """Take up to `n` keys and CIDs, as far as the nodes are there."""
        return self._walker.take_keys(self._blocks, n)

    def _take_items(self, n: int) -> list[TreeNode | Output[T]]:
        """Take up to `n` nodes and records, as far as their blocks are there."""
        return self._walker.take_items(self._blocks, n)

    async def _supply(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Supply the blocks that a walk needs next.

        Args:
            walker: stands before a block that is not there.
            blocks: where to put the blocks.
            n: the most to supply.
            records: whether records are needed, or nodes alone.

        Raises:
            MissingBlock: if the first of the blocks is missing.
        """
        raise NotImplementedError

    async def _end(self) -> None:
        """Do what is left to do when the walk is over."""

    async def _go_to(self, key: bytes) -> None:
        """Continue the walk at a key."""
        self._walker.seek(key)
        self._ready.clear()

    async def _gather(self) -> None:
        """Make the whole repo available, for walks to any part of it."""

    def _own_blocks(self) -> Blocks[T]:
        """Return blocks for a walk of its own, apart from the main one."""
        raise NotImplementedError


def _go_past_unneeded(
    error: MissingBlock, walker: Walker[T], ranges: KeyRanges, start: str, stop: str | None
) -> None:
    """Go past a missing node that a proof can do without; see `RepoDriver.prove`.

    Raises:
        IncompleteRange: if the proof needs the node.
        MissingBlock: if a record is missing, or if the error itself says why the node is missing.
    """
    if error.key is not None:
        raise error
    key = ranges.only_key
    unneeded = key is not None and walker.is_too_low_for(key)
    if not unneeded and type(error) is not MissingBlock:
        raise error
    gap = walker.gap()
    if not unneeded:
        raise IncompleteRange(
            cid=error.cid, start=start, stop=stop, after=gap.after, before=gap.before
        ) from error.__cause__  # how the node is damaged, if it is


def loops_of(driver: RepoDriver[T]) -> tuple[Loop[tuple[str, T]], Loop[Output[T]]]:
    """Return the parts of a loop over the pairs of a driver, and of one over its outputs."""
    return driver._loops()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - not for users


async def some_items_of(driver: RepoDriver[T], n: int) -> list[TreeNode | Output[T] | Gap] | None:
    """Return the next items of a driver, up to `n`; fewer if they have to be read or are large."""
    return await driver._next_items(n, at_once=False)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - not for users


def _keys(keys: Sequence[str], cids: Sequence[bytes]) -> list[tuple[str, Cid]]:
    return list(zip(keys, map(Cid, cids), strict=True))


def _raw_keys(keys: Sequence[str], cids: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return list(zip(keys, cids, strict=True))


class Loop(NamedTuple, Generic[R]):
    """The parts of a loop over the records that are left, for code that waits in its own way.

    Attributes:
        begin: begins the loop, or raises `AlreadyWalked`.
        ready: returns the next record that has been taken, or `None`.
        take: takes more if their blocks are there, and returns whether they were.
        fill: waits for more, and raises `StopAsyncIteration` if there are no more.
    """

    begin: Callable[[], None]
    ready: Callable[[], R | None]
    take: Callable[[], bool]
    fill: Callable[[], Awaitable[None]]


class _Outputs(Generic[T]):
    """Iterates over records as `Output`. Unlike a generator, it can go on after a cancellation."""

    def __init__(
        self, begin: Callable[[], None], following: Callable[[], Awaitable[Output[T]]]
    ) -> None:
        self._begin = begin
        self._following = following

    def __aiter__(self) -> _Outputs[T]:
        self._begin()
        return self

    async def __anext__(self) -> Output[T]:
        return await self._following()
