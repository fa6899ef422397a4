"""The one cursor over the tree: depth first, in key order, on a stack of its own.

The stack holds what is still to be walked, nearest last, as frames of two kinds: *subtrees*, known
by the CID of their top node, and *runs* of records that follow each other without a subtree in
between. A subtree whose node is at hand is opened: its frame gives way to the frames of what is in
it. Everything that a node must obey is checked when it is opened, so no key comes out of a node
that breaks a rule.

A frame remembers the two keys between which its subtree hangs. Keys in order inside every node, and
every node within its bounds, make the whole walk ordered; nothing else is compared on the way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from hashlib import sha256
from typing import Generic, NamedTuple, TypeVar, cast

from repo_stream.cid import Cid
from repo_stream.errors import (
    BareRoot,
    ChildBelowLeaf,
    EmptyNode,
    InvalidKey,
    KeyOutOfRange,
    LimitExceeded,
    MalformedNode,
    MissingBlock,
    ProcessError,
    RepoStreamError,
    WrongDepth,
)
from repo_stream.limits import Limits
from repo_stream.mst import DEPTH_BOUNDS, decode_node, key_depth
from repo_stream.ranges import KeyRanges

__all__ = ["Blocks", "Taken", "Walker"]

T = TypeVar("T")

# A run: keys as text, and their CIDs. A subtree: its CID, its depth (None for the root, which may
# have any), and the keys on its left and right. Told apart by their length, for speed.
_Run = tuple[list[str], list[bytes]]
_Subtree = tuple[bytes, int | None, bytes, bytes | None]
_Frame = _Run | _Subtree

# How many blocks are looked at to name those that are not at hand. A driver asks for a thousand,
# and with less than twice as many it would get fewer of nearly every repo.
_LOOK_AHEAD = 2000


class Blocks(Generic[T]):
    """The blocks at hand, each in one of two states.

    Attributes:
        raw: blocks as they came: all that could be nodes, and records that could not be processed.
        processed: results for blocks that cannot be nodes. For a processor that changes nothing it
            is the same `dict` as `raw`.
    """

    __slots__ = ("processed", "raw")

    def __init__(self, raw: dict[bytes, bytes], processed: dict[bytes, T]) -> None:
        self.raw: dict[bytes, bytes] = raw
        self.processed: dict[bytes, T] = processed

    @classmethod
    def empty(cls, *, alike: bool) -> Blocks[T]:
        """Start with no blocks; `alike` where both states of a block are one."""
        raw: dict[bytes, bytes] = {}
        return cls(raw, cast("dict[bytes, T]", raw) if alike else {})

    def __contains__(self, cid: bytes) -> bool:
        return cid in self.processed or cid in self.raw


class Taken(NamedTuple, Generic[T]):
    """Records in key order, in columns.

    Attributes:
        rkeys: their keys.
        cids: their CIDs, raw.
        values: what the processor made of them.
    """

    rkeys: list[str]
    cids: list[bytes]
    values: list[T]

    @classmethod
    def nothing(cls) -> Taken[T]:
        """Start with no records."""
        return cls([], [], [])

    def extend(self, more: Taken[T]) -> None:
        """Add records that come after these."""
        self.rkeys.extend(more.rkeys)
        self.cids.extend(more.cids)
        self.values.extend(more.values)

    def cut(self, start: int, end: int | None = None) -> Taken[T]:
        """Give the records from index `start` to before `end`."""
        return Taken(self.rkeys[start:end], self.cids[start:end], self.values[start:end])


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
        self._root: _Subtree = (root, None, b"", None)
        self._stack: list[_Frame] = [self._root]
        self._process = process
        self._wanted_ranges = ranges if ranges is not None else KeyRanges()
        self._ranges = None if self._wanted_ranges.everything else self._wanted_ranges
        self._limits = limits
        self._error: RepoStreamError | None = None

    @property
    def done(self) -> bool:
        """Whether every record has been taken."""
        return not self._stack

    def mark(self) -> list[_Frame]:
        """Remember where the walk stands, for `go_back`."""
        return self._stack.copy()

    def go_back(self, mark: list[_Frame]) -> None:
        """Stand again where the walk stood at `mark`."""
        self._stack = mark

    def seek(self, key: bytes) -> None:
        """Go on from a key, before or behind, as if it were the first that is wanted.

        An error is forgotten. Where its node or record is still in the way it comes again.
        """
        ranges = self._wanted_ranges.starting_at(key)
        self._ranges = None if ranges.everything else ranges
        self._stack = [self._root]
        self._error = None

    def skip_to(self, key: bytes) -> None:
        """Leave out all that comes before a key that is still ahead.

        No node is opened again, so that however many keys are skipped to, the walk stays linear.
        """
        self._ranges = self._wanted_ranges.starting_at(key)
        stack = self._stack
        while stack:
            frame = stack[-1]
            if len(frame) == 2:
                rkeys, cids = frame
                if at := bisect_left(rkeys, key, key=str.encode):
                    stack[-1:] = [(rkeys[at:], cids[at:])] if at < len(rkeys) else []
                if at < len(rkeys):
                    return
            elif frame[3] is not None and frame[3] <= key:
                stack.pop()
            else:
                return

    def skip_record(self) -> tuple[str, bytes]:
        """Leave out the record that the walk stands before; give its key and CID."""
        rkeys, cids = cast("_Run", self._stack[-1])
        self._stack[-1:] = [(rkeys[1:], cids[1:])] if len(rkeys) > 1 else []
        self._error = None
        return rkeys[0], cids[0]

    def take_keys(self, blocks: Blocks[T], n: int) -> tuple[list[str], list[bytes]]:
        """Do what `take` does without the records: keys and CIDs, from nodes alone.

        Raises:
            NodeError, LimitExceeded: when the walk stands before the fault.
        """
        if self._error is not None and not isinstance(self._error, ProcessError):
            raise self._error
        stack, raw = self._stack, blocks.raw
        rkeys_out: list[str] = []
        cids_out: list[bytes] = []
        before = self.mark()
        try:
            while stack and (room := n - len(rkeys_out)):
                frame = stack[-1]
                if len(frame) == 2:
                    rkeys, cids = frame
                    rkeys_out += rkeys[:room]
                    cids_out += cids[:room]
                    stack[-1:] = [(rkeys[room:], cids[room:])] if len(rkeys) > room else []
                    self._error = None
                elif (block := raw.get(frame[0])) is not None:
                    stack[-1:] = self._opened(frame, block)
                elif frame[0] in blocks.processed:
                    raise _no_node(frame[0])  # noqa: TRY301 - it is an error of the walk
                else:
                    break
        except RepoStreamError as error:
            self._error = error
            if not rkeys_out:
                raise
        except BaseException:
            self._stack = before
            raise
        return rkeys_out, cids_out

    def take(self, blocks: Blocks[T], n: int) -> Taken[T]:
        """Walk on as far as `blocks` allow and take up to `n` records.

        Fewer come where the tree ends (`done`), where a block is missing (`wanted`), and before an
        error, which the next call raises; from then on every call does.

        Raises:
            NodeError, LimitExceeded, ProcessError: when the walk stands before the fault.
        """
        if self._error is not None:
            raise self._error
        taken = Taken[T].nothing()
        before = self.mark()
        try:
            self._take(blocks, n, taken)
        except RepoStreamError as error:
            self._error = error
            if not taken.rkeys:
                raise
        except BaseException:
            # Ctrl-C, in the processor as likely as not. What has been taken comes again.
            self._stack = before
            raise
        return taken

    def _take(self, blocks: Blocks[T], n: int, taken: Taken[T]) -> None:
        """Fill `taken` until it has `n` records or the walk cannot go on.

        Whole runs are moved by `list` methods, in C; only a run with something unusual in it is
        taken record by record.
        """
        stack = self._stack
        raw = blocks.raw
        processed = blocks.processed
        find = processed.__getitem__
        limits, ranges = self._limits, self._ranges
        rkeys_out, cids_out, values_out = taken
        room = n
        while stack and room:
            frame = stack[-1]
            if len(frame) == 2:
                rkeys, cids = frame
                if len(rkeys) > room:
                    stack[-1] = (rkeys[room:], cids[room:])
                    stack.append((rkeys[:room], cids[:room]))
                    continue
                try:
                    values_out.extend(map(find, cids))
                except KeyError:
                    del values_out[n - room :]
                    if not self._take_singly(frame, blocks, taken):
                        return
                    room = n - len(rkeys_out)
                    continue
                rkeys_out += rkeys
                cids_out += cids
                room -= len(rkeys)
                stack.pop()
            else:
                block = raw.get(frame[0])
                if block is None:
                    if frame[0] in processed:
                        raise _no_node(frame[0])
                    return
                frames = open_node(frame, block, limits)
                stack[-1:] = frames if ranges is None else _within(ranges, frames)

    def _take_singly(self, run: _Run, blocks: Blocks[T], taken: Taken[T]) -> bool:
        """Take the run on top record by record; say whether all of it was there."""
        rkeys, cids = run
        for at, (rkey, cid) in enumerate(zip(rkeys, cids, strict=True)):
            try:
                value = self._value(blocks, rkey, cid)
            except KeyError:
                self._stack[-1] = (rkeys[at:], cids[at:])
                return False
            except RepoStreamError:
                self._stack[-1] = (rkeys[at:], cids[at:])
                raise
            taken.rkeys.append(rkey)
            taken.cids.append(cid)
            taken.values.append(value)
        self._stack.pop()
        return True

    def _value(self, blocks: Blocks[T], rkey: str, cid: bytes) -> T:
        if cid in blocks.processed:
            return blocks.processed[cid]
        block = blocks.raw[cid]
        try:
            return self._process(block)
        except Exception as error:
            message = f"the block processor raised {type(error).__name__}: {error}"
            raise ProcessError(message, rkey=rkey, cid=Cid(cid)) from error

    def wanted(self, blocks: Blocks[T], n: int, *, records: bool = True) -> list[bytes]:
        """Name up to `n` blocks that are not at hand, in the order in which the walk needs them.

        It looks through nodes that are at hand, opening them where they hang, so that a driver can
        fetch records far ahead with one query. A node that turns out to be faulty is left for
        `take` to find when it stands before it, after all the records that come first. Nothing
        beyond it is named: the walk will end there.

        What is at hand is looked through only so far, too. Where the next records are large and
        come one at a time, a hostile tree would else be opened as a whole meanwhile.

        Without `records` it names nodes alone.
        """
        wanted: dict[bytes, None] = {}
        stack = self._stack
        at = len(stack) - 1
        seen = 0
        while at >= 0 and len(wanted) < n and (seen < _LOOK_AHEAD or not wanted):
            frame = stack[at]
            seen += len(frame[1]) if len(frame) == 2 else 1
            if len(frame) == 2:
                if records:
                    for cid in frame[1]:
                        if cid not in blocks:
                            wanted[cid] = None
            elif (block := blocks.raw.get(frame[0])) is None:
                if frame[0] in blocks.processed:
                    break
                wanted[frame[0]] = None
            else:
                try:
                    frames = self._opened(frame, block)
                except RepoStreamError:
                    break
                stack[at : at + 1] = frames
                at += len(frames)
            at -= 1
        return list(wanted)[:n]

    def prune(self, blocks: Blocks[T]) -> None:
        """Let go of the blocks at hand that the walk, as far as it looks ahead, does not name."""
        named: set[bytes] = set()
        for frame in self._stack:
            if len(frame) == 2:
                named.update(frame[1])
            else:
                named.add(frame[0])
        for table in (blocks.raw, blocks.processed):
            for cid in [cid for cid in table if cid not in named]:
                del table[cid]

    def nearest(self) -> bytes:
        """Name the block that the walk stands before."""
        frame = self._stack[-1]
        return frame[1][0] if len(frame) == 2 else frame[0]

    def missing(self) -> MissingBlock:
        """Give the error that says which block the walk stands before."""
        frame = self._stack[-1]
        if len(frame) == 2:
            return MissingBlock(cid=Cid(frame[1][0]), kind="record", rkey=frame[0][0])
        return MissingBlock(cid=Cid(frame[0]), kind="node", rkey=None)

    def _opened(self, subtree: _Subtree, block: bytes) -> list[_Frame]:
        frames = open_node(subtree, block, self._limits)
        return frames if self._ranges is None else _within(self._ranges, frames)


def open_node(subtree: _Subtree, block: bytes, limits: Limits) -> list[_Frame]:
    """Check a subtree's node and give the frames of what is in it, the first of them last."""
    cid, depth, lower, upper = subtree
    left, keys, values, trees = decode_node(block, cid, limits)
    if not keys:
        return _open_without_keys(subtree, left)
    if depth is None:
        depth = _root_depth(cid, keys[0], limits)
    lowest, beyond = DEPTH_BOUNDS[depth]
    for key in keys:
        if not lowest <= sha256(key).digest() < beyond:
            raise WrongDepth(cid=Cid(cid), key=key, depth=key_depth(key), expected=depth)
    if keys[0] <= lower or (upper is not None and keys[-1] >= upper):
        raise _out_of_range(cid, keys, lower, upper)
    try:
        rkeys = [*map(bytes.decode, keys)]
    except UnicodeDecodeError as error:
        raise InvalidKey(cid=Cid(cid), key=bytes(error.object), reason="is not UTF-8") from error
    if left is None and not trees:
        return [(rkeys, values)]
    if depth == 0:
        raise ChildBelowLeaf(cid=Cid(cid))
    frames: list[_Frame] = []
    end = len(keys)
    for at in reversed(trees):
        following = keys[at + 1] if at + 1 < len(keys) else upper
        if at + 1 < end:
            frames.append((rkeys[at + 1 : end], values[at + 1 : end]))
        frames.append((trees[at], depth - 1, keys[at], following))
        end = at + 1
    frames.append((rkeys[:end], values[:end]))
    if left is not None:
        frames.append((left, depth - 1, lower, keys[0]))
    return frames


def _within(ranges: KeyRanges, frames: list[_Frame]) -> list[_Frame]:
    """Keep of a node's frames what is wanted."""
    wanted: list[_Frame] = []
    for frame in frames:
        if len(frame) == 2:
            rkeys, cids = frame
            spans = [(rkeys[span], cids[span]) for span in ranges.spans(rkeys)]
            wanted.extend(reversed(spans))
        elif ranges.may_hold(frame[2], frame[3]):
            wanted.append(frame)
    return wanted


def _root_depth(cid: bytes, key: bytes, limits: Limits) -> int:
    depth = key_depth(key)
    if depth > limits.mst_depth:
        raise LimitExceeded(
            limit="mst_depth",
            maximum=limits.mst_depth,
            actual=depth,
            where=f"the root of the tree, MST node {Cid(cid)}",
        )
    return depth


def _open_without_keys(subtree: _Subtree, left: bytes | None) -> list[_Frame]:
    """Open a node that only leads to a subtree, or that is the root of an empty repo."""
    cid, depth, lower, upper = subtree
    if depth is None:
        if left is not None:
            raise BareRoot(cid=Cid(cid))
        return []
    if left is None:
        raise EmptyNode(cid=Cid(cid), depth=depth)
    if depth == 0:
        raise ChildBelowLeaf(cid=Cid(cid))
    return [(left, depth - 1, lower, upper)]


def _no_node(cid: bytes) -> MalformedNode:
    return MalformedNode(cid=Cid(cid), reason='it does not start as a map of "e" and "l"', offset=0)


def _out_of_range(
    cid: bytes, keys: list[bytes], lower: bytes, upper: bytes | None
) -> KeyOutOfRange:
    key = keys[0] if keys[0] <= lower else keys[-1]
    return KeyOutOfRange(cid=Cid(cid), key=key, lower=lower or None, upper=upper)
