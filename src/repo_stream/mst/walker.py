"""The one cursor over the tree: depth first, in key order, on a stack of its own.

The stack holds what is still to be walked, nearest last, as frames: subtrees, and runs of records.
A subtree whose node is at hand is opened: its frame gives way to the frames of what is in it.
Everything that a node must obey is checked when it is opened, so no key comes out of a node that
breaks a rule.

A frame remembers the two keys between which its subtree hangs. Keys in order inside every node, and
every node within its bounds, make the whole walk ordered; nothing else is compared on the way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from repo_stream.errors import MalformedNode, MissingBlock, ProcessError, RepoStreamError
from repo_stream.ipld.cid import Cid
from repo_stream.limits import Limits
from repo_stream.mst.blocks import Arrivals, Blocks
from repo_stream.mst.frames import Frame, Run, Subtree
from repo_stream.mst.node import decode_node
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Gap, Output, Taken, TreeNode
from repo_stream.mst.rules import key_depth, open_node
from repo_stream.mst.tables import Table, expect_all_of, finder

__all__ = ["Walker"]

T = TypeVar("T")

# Where a walk stands: how many frames lie under what is remembered of its stack, that, the key that
# was taken last, and the first that is ahead.
_Mark = tuple[int, list[Frame], str | None, bytes]

# It comes after all keys, which are UTF-8.
_BEYOND = b"\xff"

# How many blocks are looked at to name those that are not at hand. A driver asks for a thousand,
# and with less than twice as many it would get fewer of nearly every repo.
_LOOK_AHEAD = 2000

# How much is remembered of what is named and not wanted. In a file that is in order there are a few
# nodes' worth of it, in others it may be all; and each entry may hold two keys of 1 KiB.
_MOST_PASSING = 4000


class Walker(Generic[T]):
    """Walk a tree as far as its blocks are at hand.

    Args:
        root: the CID of the tree's root node, the commit's `data`.
        process: turns a record's bytes into the result; it is called for records that were kept
            raw, once they are reached.
        limits: `mst_depth`, `node_entries` and `key_bytes` apply.
        ranges: the keys that are wanted, all by default. Subtrees that can hold none of them are
            not opened, and their blocks are not needed.
    """

    def __init__(
        self,
        root: bytes,
        process: Callable[[bytes], T],
        limits: Limits,
        ranges: KeyRanges | None = None,
    ) -> None:
        self._root: Subtree = (root, None, b"", None)
        self._stack: list[Frame] = [self._root]
        self._process = process
        self._wanted_ranges = ranges if ranges is not None else KeyRanges()
        self._ranges = None if self._wanted_ranges.everything else self._wanted_ranges
        self._limits = limits
        #: What the walk stands before, and every further take raises.
        self.error: RepoStreamError | None = None
        self._last: str | None = None
        # Before it nothing is left, as the walk has gone there, or past what is missing before it.
        self._start = b""
        # Whether nodes are given too, so that none may be opened before the walk is there. Then
        # there is a stack beside it as `wanted` would leave it, and the nodes it looked through.
        self._gives_nodes = False
        self._looked_at: list[Frame] = []
        self._looked_through: list[bytes] = []
        # The keys on both sides of the ranges, as far as opened nodes name them.
        self._outer: tuple[str | None, str | None] = (None, None)
        #: The nodes that were opened, each with the number of records that the same call had taken
        #: before it, for whoever wants to let go of them and puts a list here.
        self.opened: list[tuple[bytes, int]] | None = None
        #: What the walk names but does not want, with the subtree that a block is the top of, for
        #: whoever wants to know such blocks when they come and puts a `dict` here.
        self.passing: dict[bytes, Subtree | None] | None = None
        #: Whether the walk has gone past anything that it did not take.
        self.left_out: bool = False

    @property
    def done(self) -> bool:
        """Whether every record has been taken."""
        return not self._stack

    def mark(self, under: int = 0) -> _Mark:
        """Remember where the walk stands, for `go_back`; as many frames as are `under` it stay."""
        return under, self._stack[under:], self._last, self._start

    def go_back(self, mark: _Mark) -> None:
        """Stand again where the walk stood at `mark`."""
        under, frames, self._last, self._start = mark
        self._stack[under:] = frames

    def has_ahead(self, key: bytes) -> bool:
        """Say whether all from a key on is still ahead, so that it can be skipped to."""
        return key >= self._start and (self._last is None or key > self._last.encode())

    def seek(self, key: bytes) -> None:
        """Go on from a key, before or behind, as if it were the first that is wanted.

        An error is forgotten. Where its node or record is still in the way it comes again.
        """
        ranges = self._wanted_ranges.starting_at(key)
        self._ranges = None if ranges.everything else ranges
        self._stack = [self._root]
        self._start = key
        self.error = self._last = None

    def skip_to(self, key: bytes) -> None:
        """Leave out all that comes before a key that is still ahead; forget an error, as `seek`.

        No node is opened again, so that however many keys are skipped to, the walk stays linear.
        """
        self._start = key
        self.error = self._last = None
        self._ranges = self._wanted_ranges.starting_at(key)
        self.left_out = True
        stack = self._stack
        while stack:
            frame = stack[-1]
            if len(frame) == 2:
                keys, cids = frame
                if at := bisect_left(keys, key, key=str.encode):
                    stack[-1:] = [(keys[at:], cids[at:])] if at < len(keys) else []
                    self.pass_by(cids[:at])
                if at < len(keys):
                    return
            elif frame[1] is None or self._ranges.may_hold(frame[2], frame[3]):
                return  # the root is opened whatever is wanted, as when the walk began
            else:
                self._pass_subtree(frame)
                stack.pop()

    def skip_record(self) -> tuple[str, bytes]:
        """Leave out the record that the walk stands before; give its key and CID."""
        keys, cids = cast("Run", self._stack[-1])
        self._stack[-1:] = [(keys[1:], cids[1:])] if len(keys) > 1 else []
        self.error = None
        self._last = keys[0]
        self.pass_by(cids[:1])
        return keys[0], cids[0]

    def take_keys(
        self, blocks: Blocks[T], n: int, arrivals: Arrivals | None = None
    ) -> tuple[list[str], list[bytes]]:
        """Do what `take` or `take_along` does without the records: keys and CIDs, from nodes alone.

        Raises:
            NodeError, LimitExceeded: when the walk stands before the fault.
        """
        if isinstance(self.error, ProcessError):
            self.error = None  # a record's, which comes again
        stack, raw = self._stack, blocks.raw
        if arrivals is None:
            arrivals = Arrivals()
        keys_out: list[str] = []
        cids_out: list[bytes] = []
        with _Taking(self, keys_out, arrivals):
            while stack and (room := n - len(keys_out)):
                frame = stack[-1]
                if len(frame) == 2:
                    keys, cids = frame
                    keys_out += keys[:room]
                    cids_out += cids[:room]
                    stack[-1:] = [(keys[room:], cids[room:])] if len(keys) > room else []
                elif arrivals.next == frame[0]:
                    stack[-1:] = self._opened(frame, arrivals.data[arrivals.at])
                    arrivals.nodes.append(arrivals.at)
                    arrivals.at += 1
                elif (block := raw.get(frame[0])) is not None:
                    stack[-1:] = self._opened(frame, block)
                    self._note(frame[0], len(keys_out))
                elif frame[0] in blocks.processed:
                    raise _no_node(frame[0])
                else:
                    break
        if keys_out:
            self._last = keys_out[-1]
        return keys_out, cids_out

    def take(self, blocks: Blocks[T], n: int) -> Taken[T]:
        """Walk on as far as `blocks` allow and take up to `n` records.

        Fewer come now and then; none where the tree ends (`done`), where a block is missing
        (`wanted`), and before an error, which then every call raises.

        Raises:
            NodeError, LimitExceeded, ProcessError: when the walk stands before the fault.
        """
        taken: Taken[T] = Taken([], [], [])
        while True:
            # In so many frames are as many records, unless nodes have none that are wanted. To
            # remember all of a long stack takes 1.05 of the whole time of a walk in place.
            under = max(len(self._stack) - max(n, 1), 0)
            with _Taking(self, taken.keys, under=under):
                self._take(blocks, n, taken, under)
            if taken.keys or not under or len(self._stack) > under:
                break
        if taken.keys:
            self._last = taken.keys[-1]
        return taken

    def _take(self, blocks: Blocks[T], n: int, taken: Taken[T], under: int) -> None:
        """Fill `taken` until it has `n` records, the walk cannot go on, or only `under` are left.

        Whole runs are moved by `list` methods, in C; only a run with something unusual in it is
        taken record by record.
        """
        stack = self._stack
        raw = blocks.raw
        processed = blocks.processed
        find, find_raw = finder(processed), finder(raw)
        any_processed = len(processed) > 0  # none are in place, where looking for each is in vain
        limits, ranges, opened = self._limits, self._ranges, self.opened
        keys_out, cids_out, values_out = taken
        room = n
        while room and len(stack) > under:
            frame = stack[-1]
            if len(frame) == 2:
                keys, cids = frame
                if len(keys) > room:
                    stack[-1] = (keys[room:], cids[room:])
                    stack.append((keys[:room], cids[:room]))
                    continue
                if any_processed:
                    try:
                        values_out.extend(find(cids))
                    except KeyError:
                        del values_out[n - room :]
                    else:
                        keys_out += keys
                        cids_out += cids
                        room -= len(keys)
                        stack.pop()
                        continue
                if not self._process_run(frame, find_raw, taken):
                    run = cast("Run", stack[-1])
                    if not self._take_singly(run, blocks, taken):
                        return
                room = n - len(keys_out)
            else:
                block = raw.get(frame[0])
                if block is None:
                    if frame[0] in processed:
                        raise _no_node(frame[0])
                    return
                frames = open_node(frame, block, limits)
                if ranges is not None:
                    frames = self._within(ranges, frames)
                expect_all_of(frames, raw, processed)
                stack[-1:] = frames
                if opened is not None:
                    opened.append((frame[0], n - room))

    def _process_run(
        self, run: Run, find: Callable[[Sequence[bytes]], Iterable[bytes]], taken: Taken[T]
    ) -> bool:
        """Take the run on top where all of it is there as it came; say whether it was.

        Its records are processed in C, which takes 0.9 of the time of a walk that does so singly.
        """
        keys, cids = run
        try:
            blocks = [*find(cids)]
        except KeyError:
            return False
        keys_out, cids_out, values = taken
        known = len(values)
        failure: Exception | None = None
        try:
            values.extend(map(self._process, blocks))
        except Exception as error:  # noqa: BLE001 - raised below, with its key
            failure = error
        done = len(values) - known
        if done == len(keys):
            keys_out += keys
            cids_out += cids
            self._stack.pop()
            return True
        # Those before a failure are there.
        keys_out += keys[:done]
        cids_out += cids[:done]
        self._stack[-1] = keys[done:], cids[done:]
        if failure is not None:
            raise _failed(failure, keys[done], cids[done]) from failure
        return False  # by `StopIteration` a processor ends it early, and nothing is raised

    def _take_singly(self, run: Run, blocks: Blocks[T], taken: Taken[T]) -> bool:
        """Take the run on top record by record; say whether all of it was there."""
        keys, cids = run
        for at, (key, cid) in enumerate(zip(keys, cids, strict=True)):
            try:
                value = self._value(blocks, key, cid)
            except KeyError:
                self._stack[-1] = (keys[at:], cids[at:])
                return False
            except RepoStreamError:
                self._stack[-1] = (keys[at:], cids[at:])
                raise
            taken.keys.append(key)
            taken.cids.append(cid)
            taken.values.append(value)
        self._stack.pop()
        return True

    def take_along(self, arrivals: Arrivals, blocks: Blocks[T], n: int) -> Taken[T]:
        """Do what `take` does with blocks that come in the order in which the walk needs them.

        They are used as they come and kept nowhere. A block that the walk needs and that is not
        the next to come may be among `blocks`; where it is not, the walk goes no further.

        Raises:
            NodeError, LimitExceeded, ProcessError: when the walk stands before the fault.
        """
        taken: Taken[T] = Taken([], [], [])
        with _Taking(self, taken.keys, arrivals):
            self._take_along(arrivals, blocks, n, taken)
        if taken.keys:
            self._last = taken.keys[-1]
        return taken

    def _take_along(self, arrivals: Arrivals, blocks: Blocks[T], n: int, taken: Taken[T]) -> None:
        """Fill `taken` until it has `n` records, or the order breaks.

        Whole runs are compared and processed in C: 300,000 records take 0.7 of the time that they
        take by way of a table.
        """
        stack = self._stack
        cids_in, data_in = arrivals.cids, arrivals.data
        process, limits, ranges = self._process, self._limits, self._ranges
        keys_out, cids_out, values_out = taken
        room = n
        at, end = arrivals.at, len(cids_in)
        try:
            while stack and room:
                frame = stack[-1]
                if len(frame) == 2:
                    keys, cids = frame
                    count = len(cids)
                    after = at + count
                    if count > room or after > end:
                        count = min(room, end - at)
                        after = at + count
                        if count and cids_in[at:after] == cids[:count]:
                            stack[-1] = (keys[count:], cids[count:])
                            stack.append((keys[:count], cids[:count]))
                            continue
                    elif cids_in[at:after] == cids:
                        try:  # noqa: SIM105 - `suppress` takes 1.06 of the whole time of a stream
                            values_out.extend(map(process, data_in[at:after]))
                        except Exception:  # noqa: BLE001, S110 - it comes again, with its key
                            pass
                        # By `StopIteration` a processor ends it early, and nothing is raised.
                        if len(values_out) == len(keys_out) + count:
                            keys_out += keys
                            cids_out += cids
                            room -= count
                            at = after
                            stack.pop()
                            continue
                        del values_out[len(keys_out) :]
                    arrivals.at = at
                    try:
                        if not self._take_either(frame, arrivals, blocks, room, taken):
                            return
                    finally:
                        at = arrivals.at
                    room = n - len(keys_out)
                elif at < end and cids_in[at] == frame[0]:
                    frames = open_node(frame, data_in[at], limits)
                    stack[-1:] = frames if ranges is None else self._within(ranges, frames)
                    arrivals.nodes.append(at)
                    at += 1
                elif (block := blocks.raw.get(frame[0])) is not None:
                    stack[-1:] = self._opened(frame, block)
                    self._note(frame[0], len(keys_out))
                elif frame[0] in blocks.processed:
                    raise _no_node(frame[0])
                else:
                    return
        finally:
            arrivals.at = at

    def _take_either(
        self, run: Run, arrivals: Arrivals, blocks: Blocks[T], room: int, taken: Taken[T]
    ) -> bool:
        """Take records of the run on top one by one, from either side; say whether any was."""
        keys, cids = run
        done = 0
        try:
            for key, cid in zip(keys[:room], cids[:room], strict=True):
                if arrivals.next == cid:
                    value = self._processed(arrivals.data[arrivals.at], key, cid)
                    arrivals.at += 1
                elif cid in blocks:
                    value = self._value(blocks, key, cid)
                else:
                    break
                taken.keys.append(key)
                taken.cids.append(cid)
                taken.values.append(value)
                done += 1
        finally:
            self._stack[-1:] = [(keys[done:], cids[done:])] if done < len(keys) else []
        return done > 0

    def take_items(
        self, blocks: Blocks[T], n: int, arrivals: Arrivals | None = None
    ) -> list[TreeNode | Output[T]]:
        """Do what `take` or `take_along` does, with the nodes, each before all that is below it.

        Raises:
            NodeError, LimitExceeded, ProcessError: when the walk stands before the fault.
        """
        if arrivals is None:
            arrivals = Arrivals()
        self._gives_nodes = True
        items: list[TreeNode | Output[T]] = []
        records = 0
        with _Taking(self, items, arrivals):
            while self._stack and (room := n - len(items)):
                frame = self._stack[-1]
                known = len(items)
                if len(frame) == 2:
                    items += self._run_items(frame, arrivals, blocks, room)
                    records += len(items) - known
                else:
                    items += self._node_items(frame, arrivals, blocks, records)
                if len(items) == known:
                    break
        return items

    def _run_items(
        self, run: Run, arrivals: Arrivals, blocks: Blocks[T], room: int
    ) -> list[Output[T]]:
        taken: Taken[T] = Taken([], [], [])
        try:
            self._take_either(run, arrivals, blocks, room, taken)
        except RepoStreamError:
            if not taken.keys:
                raise  # else it is raised when the walk stands before it, which is next
        if taken.keys:
            self._last = taken.keys[-1]
        return [Output(key, Cid(cid), value) for key, cid, value in zip(*taken, strict=True)]

    def _node_items(
        self, subtree: Subtree, arrivals: Arrivals, blocks: Blocks[T], records: int
    ) -> list[TreeNode]:
        cid = subtree[0]
        came = arrivals.next == cid
        block = arrivals.data[arrivals.at] if came else blocks.raw.get(cid)
        if block is None:
            if cid in blocks.processed:
                raise _no_node(cid)
            return []
        self._stack[-1:] = self._opened(subtree, block)
        if came:
            arrivals.nodes.append(arrivals.at)
            arrivals.at += 1
        else:
            self._note(cid, records)
        return [TreeNode(Cid(cid), self._depth_of(subtree, block), block)]

    def _depth_of(self, subtree: Subtree, block: bytes) -> int:
        if subtree[1] is not None:
            return subtree[1]
        keys = decode_node(block, subtree[0], self._limits)[1]
        return key_depth(keys[0]) if keys else 0

    def _note(self, node: bytes, records: int) -> None:
        if self.opened is not None:
            self.opened.append((node, records))

    def _value(self, blocks: Blocks[T], key: str, cid: bytes) -> T:
        if cid in blocks.processed:
            return blocks.processed[cid]
        return self._processed(blocks.raw[cid], key, cid)

    def _processed(self, block: bytes, key: str, cid: bytes) -> T:
        try:
            return self._process(block)
        except Exception as error:
            raise _failed(error, key, cid) from error

    def wanted(self, blocks: Blocks[T], n: int, *, records: bool = True) -> list[bytes]:
        """Name up to `n` blocks that are not at hand, in the order in which the walk needs them.

        It looks through nodes that are at hand, opening them where they hang unless nodes are given
        too, so that a driver can fetch records far ahead with one query. A node that turns out to
        be faulty is left for `take` to find when it stands before it, after all the records that
        come first. Nothing beyond it is named: the walk will end there.

        What is at hand is looked through only so far, too. Where the next records are large and
        come one at a time, a hostile tree would else be opened as a whole meanwhile.

        Without `records` it names nodes alone.
        """
        wanted: dict[bytes, None] = {}
        raw, processed, opened = blocks.raw, blocks.processed, self._opened
        # Whoever interrupts this leaves the walk as it was. What has been looked at goes on a list
        # of its own, as a node that is opened deep in a long stack moves all that is above it.
        ahead = self._stack.copy()
        looked_at: list[Frame] = []
        looked_through: list[bytes] = []
        seen = 0
        while ahead and len(wanted) < n and (seen < _LOOK_AHEAD or not wanted):
            frame = ahead.pop()
            if len(frame) == 2:
                looked_at.append(frame)
                cids = frame[1]
                seen += len(cids)
                if records:
                    for cid in cids:
                        if cid not in processed and cid not in raw:
                            wanted[cid] = None
                continue
            seen += 1
            block = raw.get(frame[0])
            if block is None:
                looked_at.append(frame)
                if frame[0] in processed:
                    break
                wanted[frame[0]] = None
                continue
            try:
                ahead += opened(frame, block)
            except RepoStreamError:
                looked_at.append(frame)
                break
            looked_through.append(frame[0])
        looked_at.reverse()
        ahead += looked_at
        if self._gives_nodes:
            self._looked_at, self._looked_through = ahead, looked_through
        else:
            self._stack[:] = ahead
        return list(wanted)[:n]

    def prune(self, blocks: Blocks[T]) -> None:
        """Let go of the blocks at hand that the walk, as far as it looks ahead, does not name."""
        named = list(self._looked_through)
        for frame in self._looked_at if self._gives_nodes else self._stack:
            if len(frame) == 2:
                named += frame[1]
            else:
                named.append(frame[0])
        for table in blocks.tables:
            _keep_only(table, named)
        blocks.brought = 0

    def nearest(self) -> bytes:
        """Name the block that the walk stands before."""
        frame = self._stack[-1]
        return frame[1][0] if len(frame) == 2 else frame[0]

    def missing(self) -> MissingBlock:
        """Give the error that says which block the walk stands before."""
        frame = self._stack[-1]
        if len(frame) == 2:
            return MissingBlock(cid=Cid(frame[1][0]), kind="record", key=frame[0][0])
        return MissingBlock(cid=Cid(frame[0]), kind="node", key=None)

    def gap(self) -> Gap:
        """Leave out the record or the subtree that the walk stands before, as it is missing."""
        frame = self._stack[-1]
        if len(frame) == 2:
            after = self._last
            key, cid = self.skip_record()
            return Gap(Cid(cid), key, after, self._following(key))
        self._stack.pop()
        self.error = None
        cid, _depth, lower, upper = frame
        self._start = _BEYOND if upper is None else upper
        return Gap(
            Cid(cid), None, lower.decode() or None, None if upper is None else upper.decode()
        )

    def _following(self, key: str) -> str | None:
        """Give the key that comes after another in its node, or after that node.

        How far nodes ahead have been opened, for their blocks to be fetched, does not matter: what
        lies between two such keys is of less depth.
        """
        depth = key_depth(key.encode())
        stop = self._wanted_ranges.stop_after(key.encode())
        for frame in reversed(self._stack):
            next_key = frame[0][0].encode() if len(frame) == 2 else frame[3]
            if next_key is None or (stop is not None and next_key >= stop):
                return None
            if key_depth(next_key) >= depth:
                return next_key.decode()
        return None

    @property
    def outer(self) -> tuple[str | None, str | None]:
        """The keys on both sides of the ranges, the nearest that opened nodes name.

        Once the walk is done they are the neighbours of what it found, with nothing in between.
        """
        return self._outer

    def passes(self, cid: bytes, block: bytes) -> bool:
        """Say whether a block is one that the walk names but does not want; each counts once."""
        passing = self.passing
        if not passing or cid not in passing:
            return False
        subtree = passing.pop(cid)
        if subtree is not None:
            # What is wrong with it is nobody's concern: the walk never gets there.
            with suppress(RepoStreamError):
                for frame in open_node(subtree, block, self._limits):
                    if len(frame) == 2:
                        self.pass_by(frame[1])
                    else:
                        self._pass_subtree(frame)
        return True

    def want(self, cid: bytes) -> None:
        """Name a block that the walk wants, should it be one that it did not want elsewhere."""
        if self.passing:
            self.passing.pop(cid, None)

    def pass_by(self, cids: Sequence[bytes]) -> None:
        """Name records that the walk does not want, should they come."""
        self.left_out = self.left_out or bool(cids)
        if self.passing is not None and len(self.passing) < _MOST_PASSING:
            self.passing.update(dict.fromkeys(cids))

    def _pass_subtree(self, subtree: Subtree) -> None:
        self.left_out = True
        if self.passing is not None and len(self.passing) < _MOST_PASSING:
            self.passing[subtree[0]] = subtree

    def _opened(self, subtree: Subtree, block: bytes) -> list[Frame]:
        frames = open_node(subtree, block, self._limits)
        return frames if self._ranges is None else self._within(self._ranges, frames)

    def _within(self, ranges: KeyRanges, frames: list[Frame]) -> list[Frame]:
        """Keep of a node's frames what is wanted."""
        wanted: list[Frame] = []
        for frame in frames:
            if len(frame) == 2:
                keys, cids = frame
                spans = [*ranges.spans(keys)]
                wanted.extend([(keys[span], cids[span]) for span in reversed(spans)])
                self._leave_out(keys, cids, spans)
            elif ranges.may_hold(frame[2], frame[3]):
                wanted.append(frame)
            else:
                self._pass_subtree(frame)
        return wanted

    def _leave_out(self, keys: list[str], cids: list[bytes], spans: list[slice]) -> None:
        """Remember the keys beside the ranges, and what is named between and around them."""
        ranges = cast("KeyRanges", self._ranges).ranges
        if not ranges:
            return
        first, beyond = ranges[0][0], ranges[-1][1]
        after, before = self._outer
        below = bisect_left(keys, first, key=str.encode)
        if below and (after is None or after < keys[below - 1]):
            after = keys[below - 1]
        if beyond is not None:
            above = bisect_left(keys, beyond, key=str.encode)
            if above < len(keys) and (before is None or before > keys[above]):
                before = keys[above]
        self._outer = after, before
        if self.passing is not None:
            end = 0
            for span in (*spans, slice(len(keys), None)):
                self.pass_by(cids[end : span.start])
                end = span.stop


class _Taking:
    """Takes what there is before an error, which the next take raises; then every one does.

    A class, as a generator takes three times as long to enter and leave, which small repos notice.
    """

    __slots__ = ("_arrivals", "_at", "_before", "_nodes", "_taken", "_under", "_walker")

    def __init__(
        self,
        walker: Walker[Any],
        taken: Sequence[object],
        arrivals: Arrivals | None = None,
        *,
        under: int = 0,
    ) -> None:
        self._walker = walker
        self._taken = taken
        self._arrivals = arrivals
        self._under = under

    def __enter__(self) -> None:
        walker, arrivals = self._walker, self._arrivals
        if walker.error is not None:
            raise walker.error
        self._before = walker.mark(self._under)
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
            return bool(self._taken)
        # Ctrl-C, in the processor as likely as not. What has been taken comes again.
        self._walker.go_back(self._before)
        if self._arrivals is not None:
            self._arrivals.at = self._at
            del self._arrivals.nodes[self._nodes :]
        return False


def _keep_only(table: Table[Any], cids: Iterable[bytes]) -> None:
    """Take all out of a table but these: 0.65 of the time of naming the others one by one."""
    kept = {cid: table[cid] for cid in cids if cid in table}
    table.clear()
    table.update(kept)


def _failed(error: Exception, key: str, cid: bytes) -> ProcessError:
    message = f"the block processor raised {type(error).__name__}: {error}"
    return ProcessError(message, key=key, cid=Cid(cid))


def _no_node(cid: bytes) -> MalformedNode:
    return MalformedNode(cid=Cid(cid), reason='it does not start as a map of "e" and "l"', offset=0)
