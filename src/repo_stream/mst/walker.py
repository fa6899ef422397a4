"""Walk a tree, depth first and in key order, as far as its blocks are available.

**The stack.** A walk keeps what is still ahead of it on a stack of *frames*, the next one on top
(the last in the list). A frame is a subtree that has not been opened, or a run of records; `frames`
says what they look like. A walk always looks at the frame on top. If it is a run, its records are
taken. If it is a subtree, it is *opened*: its top node is checked, and the frame is replaced by the
frames of what is in the node. Every rule that a node has to obey is checked at that moment
(`rules`), so no key comes out of a node that breaks one, and nothing recurses. Each subtree frame
has the two keys between which all its keys must lie. As keys are in order inside every node, that
is enough to make the whole walk ordered.

**Where blocks come from.** There are two sources: tables of blocks that were kept (`Blocks`), and
the blocks of the piece of the file that was read last (`Arrivals`), which in a file in walk order
come exactly as the walk needs them. `_open_top` and `_take_one_by_one` look in both. `_take` and
`_take_along` add a fast path, one for each source: they open ordinary nodes without a detour, and
look up, compare and process the records of whole runs by the list, in C.

**Stopping and going on.** If a block is missing, a take ends early. The frame on top then says what
is missing (`nearest`, `missing`), and the next take goes on from there. A frame is replaced only
after its node was checked or its records were taken, so a take that fails leaves the walk before
the fault. `_Attempt` then returns what was taken before it, and has every further take raise the
error. If anything else interrupts a take (Ctrl-C in the processor), the caller gets nothing, and
`_Attempt` puts the walk back to where it stood before. Ctrl-C can also come when a take is over and
its caller has not received the result: a caller that goes on after that passes the lists to fill.

**Large records.** A record of 2 MiB can take seconds to process and 150 MB in memory, and a million
keys can name it. So a take also ends once it has processed `_BYTES` of records, and its caller can
let others run, or return what there is.

**Looking ahead.** `wanted` names the blocks that the walk needs next. It opens nodes ahead of the
walk, on the same stack, so that none is opened twice. A walk that hands out nodes as well
(`take_items`) has to open them one by one; it leaves its stack alone, and keeps what is ahead in
`_ahead`.

What moves a walk without taking anything is in `cursor`, what it leaves out in `selection`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, cast

from repo_stream._compiled import COMPILED
from repo_stream.errors import MalformedNode, ProcessError, RepoStreamError
from repo_stream.ipld.cid import Cid
from repo_stream.limits import KIB, Limits
from repo_stream.mst.blocks import Arrivals, Blocks
from repo_stream.mst.cursor import Cursor
from repo_stream.mst.frames import Run, Subtree
from repo_stream.mst.lookahead import LookAhead, keep_only, look_ahead
from repo_stream.mst.node import decode_node
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Output, Taken, TreeNode
from repo_stream.mst.rules import key_depth, open_ordinary
from repo_stream.mst.tables import expect_all_of, finder, total_size

__all__ = ["Walker"]

T = TypeVar("T")

# A take ends when it has processed so many bytes. 64 usual records have a tenth of that.
_BYTES: Final = 256 * KIB


class Walker(Cursor, Generic[T]):
    """A walk that takes records, as far as its blocks are available.

    Args:
        root: the CID of the tree's root node, the commit's `data`.
        process: turns the bytes of a record into the result. It is called for records that were
            kept raw, once the walk reaches them.
        limits: `mst_depth`, `node_entries` and `key_bytes` apply.
        ranges: the keys that are wanted, all by default. Subtrees that can hold none of them are
            not opened, and their blocks are not needed.

    Attributes:
        opened: the nodes that were opened from tables, each with the number of records that the
            same call had taken before it. Nothing is noted unless a caller sets it to a list.
        hands_out_nodes: whether nodes are handed out, so that none may be opened before the walk
            gets there. What `wanted` has found ahead is then kept beside the stack, and is found
            again each time. `take_items` sets it; a caller that takes records from then on can
            unset it.
    """

    def __init__(
        self,
        root: bytes,
        process: Callable[[bytes], T],
        limits: Limits,
        ranges: KeyRanges | None = None,
    ) -> None:
        super().__init__(root, limits, ranges)
        self.opened: list[tuple[bytes, int]] | None = None
        self._process = process
        self.hands_out_nodes: bool = False
        self._ahead = LookAhead([], [], [])

    # --- Taking records -------------------------------------------------------------------------

    def take(self, blocks: Blocks[T], n: int, taken: Taken[T] | None = None) -> Taken[T]:
        """Take up to `n` records, as far as `blocks` allow.

        Fewer come now and then, and if they are large. None come at the end (`done`), if a block is
        missing (`wanted`), and before an error, which every further call raises.

        Args:
            blocks: the available blocks.
            n: the most records to take.
            taken: empty lists to put them in, which are returned; new ones by default. They have
                the records even if Ctrl-C comes before the caller has received the result.

        Raises:
            NodeError, LimitExceeded, ProcessError: if the walk stands before the fault.
        """
        if taken is None:
            taken = Taken([], [], [])
        try:
            while True:
                # Only the top `n` frames are remembered for the case of an interruption, and the
                # others left alone: all of a long stack takes 1.05 of the whole time of a walk in
                # place. The top `n` frames hold `n` records, unless they are nodes of which none is
                # wanted.
                floor = max(len(self._stack) - max(n, 1), 0)
                with _Attempt(self, taken, floor=floor):
                    self._take(blocks, n, taken, floor)
                if taken.keys or not floor or len(self._stack) > floor:
                    return taken
        finally:
            if taken.keys:
                self._last = taken.keys[-1]

    def _take(self, blocks: Blocks[T], n: int, taken: Taken[T], floor: int) -> None:
        """Take records until there are `n`, a block is missing, or only `floor` frames are left."""
        stack, limits = self._stack, self._limits
        none = Arrivals()
        raw, processed = blocks.raw, blocks.processed
        find_processed, find_raw = finder(processed), finder(raw)
        opens_all = self._selection.everything and self.opened is None
        # In place there are none, so that looking for them would only take time.
        any_processed = len(processed) > 0
        keys_out, cids_out, values_out = taken
        room, bytes_left = n, _BYTES
        while room and len(stack) > floor:
            frame = stack[-1]
            if len(frame) == 4:
                # Nearly every node is opened here: by `_open_top` it takes 1.1 of the time.
                block = raw.get(frame[0]) if opens_all else None
                if block is not None and (frames := open_ordinary(frame, block, limits)):
                    stack[-1:] = frames
                    expect_all_of(frames, raw, processed)
                elif self._open_top(frame, blocks, none, n - room) is None:
                    return
                continue
            keys, cids = frame
            if len(keys) > room:
                self._split_run(room)
                continue
            if any_processed:
                try:
                    values_out.extend(find_processed(cids))
                except KeyError:
                    del values_out[n - room :]
                else:
                    keys_out += keys
                    cids_out += cids
                    room -= len(keys)
                    stack.pop()
                    continue
            size = self._process_run(frame, find_raw, bytes_left, taken)
            if size is None:
                size = self._take_one_by_one(blocks, none, room, bytes_left, taken)
                if size is None:
                    return
            bytes_left -= size
            room = n - len(keys_out) if bytes_left > 0 else 0

    def _process_run(
        self,
        run: Run,
        find_raw: Callable[[Sequence[bytes]], Iterable[bytes]],
        most: int,
        taken: Taken[T],
    ) -> int | None:
        """Take the run on top if all of it is available and raw, and has `most` bytes at most.

        The records are processed in C, which takes 0.9 of the time of a walk that processes them
        one by one.

        Returns:
            How many bytes were processed; `None` if it was not taken.
        """
        keys, cids = run
        try:
            blocks = [*find_raw(cids)]
        except KeyError:
            return None
        size = total_size(blocks)
        if size > most:
            return None
        keys_out, cids_out, values_out = taken
        known = len(values_out)
        failure: Exception | None = None
        try:
            values_out.extend(map(self._process, blocks))
        except Exception as error:  # noqa: BLE001 - raised below, with its key
            failure = error
        done = len(values_out) - known
        if done == len(keys):
            keys_out += keys
            cids_out += cids
            self._stack.pop()
            return size
        keys_out += keys[:done]
        cids_out += cids[:done]
        self._drop_records(done)
        if failure is not None:
            raise _failed(failure, keys[done], cids[done]) from failure
        return None  # the processor raised `StopIteration`, which ends `map`

    def take_along(
        self, arrivals: Arrivals, blocks: Blocks[T], n: int, taken: Taken[T] | None = None
    ) -> Taken[T]:
        """Do what `take` does with blocks that come in the order in which the walk needs them.

        Arrivals are used as they come and are not kept. If the walk needs a block that is not the
        next of them, it is looked for in `blocks`.

        Raises:
            NodeError, LimitExceeded, ProcessError: if the walk stands before the fault.
        """
        if taken is None:
            taken = Taken([], [], [])
        try:
            with _Attempt(self, taken, arrivals):
                self._take_along(arrivals, blocks, n, taken)
            return taken
        finally:
            if taken.keys:
                self._last = taken.keys[-1]

    def _take_along(self, arrivals: Arrivals, blocks: Blocks[T], n: int, taken: Taken[T]) -> None:
        """Take records until there are `n`, or the next block is not available.

        Whole runs are compared and processed in C: 300,000 records take 0.7 of the time that they
        take if they are looked up in a table.
        """
        stack, process, limits = self._stack, self._process, self._limits
        cids_in, data_in = arrivals.cids, arrivals.data
        opens_all = self._selection.everything
        # A usual piece has hardly more bytes than a take may process; to count them takes time.
        counts = arrivals.size > 2 * _BYTES
        end = len(cids_in)
        keys_out, cids_out, values_out = taken
        room, bytes_left = n, _BYTES
        while stack and room:
            frame = stack[-1]
            at = arrivals.at
            if len(frame) == 4:
                comes = opens_all and at < end and cids_in[at] == frame[0]  # as in `_take`
                if comes and (frames := open_ordinary(frame, data_in[at], limits)):
                    stack[-1:] = frames
                    arrivals.nodes.append(at)
                    arrivals.at = at + 1
                elif self._open_top(frame, blocks, arrivals, len(keys_out)) is None:
                    return
                continue
            keys, cids = frame
            count = len(cids)
            after = at + count
            if count > room or after > end:
                count = min(room, end - at)
                if count and cids_in[at : at + count] == cids[:count]:
                    self._split_run(count)
                    continue
            elif cids_in[at:after] == cids and (
                not counts or total_size(data_in[at:after]) <= bytes_left
            ):
                try:  # noqa: SIM105 - `suppress` takes 1.06 of the whole time of a stream
                    values_out.extend(map(process, data_in[at:after]))
                except Exception:  # noqa: BLE001, S110 - raised again below, with its key
                    pass
                # If the processor raises `StopIteration`, that ends `map`, and nothing is raised.
                if len(values_out) == len(keys_out) + count:
                    keys_out += keys
                    cids_out += cids
                    room -= count
                    if counts:
                        bytes_left -= total_size(data_in[at:after])
                    arrivals.at = after
                    stack.pop()
                    continue
                del values_out[len(keys_out) :]
            size = self._take_one_by_one(blocks, arrivals, room, bytes_left, taken)
            if size is None:
                return
            bytes_left -= size
            room = n - len(keys_out) if bytes_left > 0 else 0

    def _take_one_by_one(
        self, blocks: Blocks[T], arrivals: Arrivals, room: int, most: int, taken: Taken[T]
    ) -> int | None:
        """Take up to `room` records of the run on top, from either source.

        It ends early if a block is not available, or with the record that makes it `most` bytes.

        Returns:
            How many bytes were processed; `None` if no record was taken.
        """
        keys, cids = cast("Run", self._stack[-1])
        done = size = 0
        try:
            for key, cid in zip(keys[:room], cids[:room], strict=True):
                if arrivals.next == cid:
                    block = arrivals.data[arrivals.at]
                    value = self._processed(block, key, cid)
                    arrivals.at += 1
                    size += len(block)
                elif cid in blocks.processed:
                    value = blocks.processed[cid]
                elif cid in blocks.raw:
                    block = blocks.raw[cid]
                    value = self._processed(block, key, cid)
                    size += len(block)
                else:
                    break
                taken.keys.append(key)
                taken.cids.append(cid)
                taken.values.append(value)
                done += 1
                if size >= most:
                    break
        finally:
            self._drop_records(done)
        return size if done else None

    def _processed(self, block: bytes, key: str, cid: bytes) -> T:
        try:
            return self._process(block)
        except Exception as error:
            raise _failed(error, key, cid) from error

    def _open_top(
        self, subtree: Subtree, blocks: Blocks[T], arrivals: Arrivals, records: int
    ) -> bytes | None:
        """Open the subtree on top of the stack if its node is in either source; return that node.

        Args:
            subtree: the frame on top.
            blocks: the blocks that were kept.
            arrivals: the blocks that have just come.
            records: how many records this call has taken so far, for `opened`.

        Raises:
            MalformedNode: if the block has been processed, which is only done if it is not a node.
            NodeError, LimitExceeded: if the node breaks a rule.
        """
        cid = subtree[0]
        at = arrivals.at
        came = at < len(arrivals.cids) and arrivals.cids[at] == cid
        block = arrivals.data[at] if came else blocks.raw.get(cid)
        if block is None:
            if cid in blocks.processed:
                raise _not_a_node(cid)
            return None
        frames = self._frames_in(subtree, block)
        self._stack[-1:] = frames
        if came:
            arrivals.nodes.append(at)
            arrivals.at += 1
        else:
            expect_all_of(frames, blocks.raw, blocks.processed)
            if self.opened is not None:
                self.opened.append((cid, records))
        return block

    # --- Taking keys alone ----------------------------------------------------------------------

    def take_keys(
        self, blocks: Blocks[T], n: int, arrivals: Arrivals | None = None
    ) -> tuple[list[str], list[bytes]]:
        """Do what `take` or `take_along` does without records: take up to `n` keys and their CIDs.

        Only nodes are needed.

        Raises:
            NodeError, LimitExceeded: if the walk stands before the fault.
        """
        self.forget_record_error()  # the record is not needed here; `take` will raise it again
        if arrivals is None:
            arrivals = Arrivals()
        keys_out: list[str] = []
        cids_out: list[bytes] = []
        with _Attempt(self, (keys_out, cids_out), arrivals):
            while self._stack and (room := n - len(keys_out)):
                frame = self._stack[-1]
                if len(frame) == 2:
                    keys, cids = frame
                    keys_out += keys[:room]
                    cids_out += cids[:room]
                    self._drop_records(room)
                elif self._open_top(frame, blocks, arrivals, len(keys_out)) is None:
                    break
        if keys_out:
            self._last = keys_out[-1]
        return keys_out, cids_out

    # --- Taking nodes and records ---------------------------------------------------------------

    def take_items(
        self, blocks: Blocks[T], n: int, arrivals: Arrivals | None = None
    ) -> list[TreeNode | Output[T]]:
        """Do what `take` or `take_along` does with the nodes, each before all that is below it.

        Raises:
            NodeError, LimitExceeded, ProcessError: if the walk stands before the fault.
        """
        if arrivals is None:
            arrivals = Arrivals()
        self.hands_out_nodes = True
        items: list[TreeNode | Output[T]] = []
        records, bytes_left = 0, _BYTES
        with _Attempt(self, (items,), arrivals):
            while self._stack and (room := n - len(items)):
                frame = self._stack[-1]
                if len(frame) == 2:
                    outputs, size = self._take_outputs(blocks, arrivals, room, bytes_left)
                    items += outputs
                    records += len(outputs)
                    bytes_left -= size
                    if not outputs or bytes_left <= 0:
                        break
                else:
                    block = self._open_top(frame, blocks, arrivals, records)
                    if block is None:
                        break
                    items.append(self._tree_node(frame, block))
        return items

    def _take_outputs(
        self, blocks: Blocks[T], arrivals: Arrivals, room: int, most: int
    ) -> tuple[list[Output[T]], int]:
        """Do what `_take_one_by_one` does; return the records, and how many bytes were processed.

        An error is raised only if it comes before the first record.
        """
        taken: Taken[T] = Taken([], [], [])
        size: int | None = None
        try:
            size = self._take_one_by_one(blocks, arrivals, room, most, taken)
        except RepoStreamError:
            if not taken.keys:
                raise  # otherwise it is raised when the walk stands before it, which is next
        if taken.keys:
            self._last = taken.keys[-1]
        return taken.outputs({}), size or 0

    def _tree_node(self, subtree: Subtree, block: bytes) -> TreeNode:
        """Return the top node of a subtree, with its depth."""
        cid, depth, _lower, _upper = subtree
        if depth is None:
            _left, keys, _values, _trees = decode_node(block, cid, self._limits)
            depth = key_depth(keys[0]) if keys else 0
        return TreeNode(Cid(cid), depth, block)

    # --- Looking ahead --------------------------------------------------------------------------

    def wanted(self, blocks: Blocks[T], n: int, *, records: bool = True) -> list[bytes]:
        """Name up to `n` unavailable blocks, in the order in which the walk needs them.

        If anything interrupts it, the walk stays as it was.

        Args:
            blocks: the available blocks.
            n: the most blocks to name.
            records: whether records are named, or nodes alone.
        """
        ahead = look_ahead(self._stack, blocks, n, self._frames_in, records=records)
        if self.hands_out_nodes:
            self._ahead = ahead
        else:
            self._stack[:] = ahead.stack
        return ahead.wanted

    def prune(self, blocks: Blocks[T]) -> None:
        """Remove the blocks that the walk, as far as it has looked ahead, does not name."""
        ahead = self._ahead if self.hands_out_nodes else LookAhead([], self._stack, [])
        named = ahead.named()
        for table in blocks.tables:
            keep_only(table, named)
        blocks.fetched = 0


class _Attempt:
    """One attempt to take something, which keeps the walk sound whatever happens in it.

    - If an earlier attempt failed, its error is raised before anything is done.
    - If the attempt fails with a `RepoStreamError`, that becomes the walk's error. If anything has
      been taken before, that is handed over first, and the error is not raised yet.
    - If the attempt is interrupted by any other exception, the walk goes back to where it stood,
      and what has been taken is dropped.

    It is a class because a generator takes three times as long to enter and leave, which matters
    for small repos.

    Args:
        walker: the walk.
        taken: lists of what has been taken, which are as long as each other.
        arrivals: the blocks that the walk uses as they come, if any; they go back with the walk.
        floor: how many frames at the bottom of the stack will not be touched.
    """

    __slots__ = ("_arrivals", "_at", "_floor", "_mark", "_nodes", "_taken", "_walker")

    def __init__(
        self,
        walker: Walker[Any],
        taken: Sequence[list[Any]],  # Any: of whatever was taken
        arrivals: Arrivals | None = None,
        *,
        floor: int = 0,
    ) -> None:
        self._walker = walker
        self._taken = taken
        self._arrivals = arrivals
        self._floor = floor

    def __enter__(self) -> None:
        walker, arrivals = self._walker, self._arrivals
        if walker.error is not None:
            raise walker.error
        self._mark = walker.mark(self._floor)
        if arrivals is not None:
            self._at, self._nodes = arrivals.at, len(arrivals.nodes)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if error is None:
            return False
        if isinstance(error, RepoStreamError):
            self._walker.error = error
            return bool(self._taken[0])
        for column in self._taken:
            column.clear()
        self._walker.go_back(self._mark)
        if self._arrivals is not None:
            self._arrivals.at = self._at
            del self._arrivals.nodes[self._nodes :]
        return False


def _failed(error: Exception, key: str, cid: bytes) -> ProcessError:
    message = f"the block processor raised {type(error).__name__}: {error}"
    return ProcessError(message, key=key, cid=Cid(cid))


def _not_a_node(cid: bytes) -> MalformedNode:
    return MalformedNode(cid=Cid(cid), reason='it does not start as a map of "e" and "l"', offset=0)


if COMPILED:
    from repo_stream.mst._walker import Walker
