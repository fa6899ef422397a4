"""Where a walk stands in a tree, and the ways to move it that take nothing.

`Cursor` holds the stack; `walker` says what is on it, and takes from it. Here a walk is sent to
another key (`seek`, `skip_to`), past what is missing or failed (`skip_record`, `gap`), or back to
where it was (`mark`, `go_back`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias, cast

from repo_stream._compiled import COMPILED
from repo_stream.errors import MissingBlock, ProcessError, RepoStreamError, UncheckableBlock
from repo_stream.ipld.cid import Cid, can_verify
from repo_stream.limits import Limits
from repo_stream.mst.frames import Frame, Run, Subtree
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Gap
from repo_stream.mst.rules import key_depth, open_node_plainly, open_ordinary
from repo_stream.mst.selection import Selection

__all__ = ["Cursor", "Mark"]


#: A remembered position: how many frames at the bottom of the stack are not in it, the frames above
#: those, the key that was taken last, the first key that may still come, and the error.
Mark: TypeAlias = tuple[int, list[Frame], str | None, bytes, RepoStreamError | None]

# It sorts after all keys, which are UTF-8.
_AFTER_ALL_KEYS = b"\xff"


class Cursor:
    """A position in a tree.

    Args:
        root: the CID of the tree's root node, the commit's `data`.
        limits: `mst_depth`, `node_entries` and `key_bytes` apply.
        ranges: the keys that are wanted, all by default. Subtrees that can hold none of them are
            not opened, and their blocks are not needed.

    Attributes:
        error: the error that the walk stands before, which every further take raises.
    """

    def __init__(self, root: bytes, limits: Limits, ranges: KeyRanges | None = None) -> None:
        self.error: RepoStreamError | None = None
        self._limits = limits
        self._selection = Selection(ranges if ranges is not None else KeyRanges(), limits)
        self._root: Subtree = (root, None, b"", None)
        self._stack: list[Frame] = [self._root]
        self._last: str | None = None
        # No key before this one can still come: it was taken, skipped, or is in a gap.
        self._start = b""

    # --- Where the walk stands ------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every record has been taken."""
        return not self._stack

    def nearest(self) -> bytes:
        """Return the CID of the block that the walk needs next."""
        frame = self._stack[-1]
        return frame[1][0] if len(frame) == 2 else frame[0]

    def place_in_tree(self) -> int:
        """Return a number for the place of the block that the walk needs next.

        It is the same whenever the walk comes there, and practically always another one for each
        other place, of this block or another: it is a hash.
        """
        frame = self._stack[-1]
        return hash((frame[1][0], frame[0][0]) if len(frame) == 2 else (frame[0], frame[2]))

    def missing(self) -> MissingBlock:
        """Return the error that says that the block that the walk needs next is missing."""
        frame = self._stack[-1]
        if len(frame) == 2:
            keys, cids = frame
            return MissingBlock(cid=Cid(cids[0]), kind="record", key=keys[0])
        return MissingBlock(cid=Cid(frame[0]), kind="node", key=None)

    def is_too_low_for(self, key: bytes) -> bool:
        """Return whether the walk stands before a subtree whose depth is less than that of a key.

        No valid tree has the key there. That the root is missing says nothing about a key.
        """
        frame = self._stack[-1]
        return len(frame) == 4 and frame[1] is not None and frame[1] < key_depth(key)

    def uncheckable(self) -> UncheckableBlock | None:
        """Return an error if the walk stands before a record whose block cannot be checked."""
        frame = self._stack[-1]
        if len(frame) == 2:
            cid = Cid(frame[1][0])
            if not can_verify(cid):
                return UncheckableBlock(cid=cid, key=frame[0][0])
        return None

    def has_ahead(self, key: bytes) -> bool:
        """Return whether everything from `key` on is still ahead, so that `skip_to` can be used."""
        return key >= self._start and (self._last is None or key > self._last.encode())

    def mark(self, floor: int = 0) -> Mark:
        """Return the position, for `go_back`.

        Args:
            floor: how many frames at the bottom of the stack will not change until then. They need
                not be copied.
        """
        return floor, self._stack[floor:], self._last, self._start, self.error

    def mark_top(self) -> Mark:
        """Return the position, for `go_back` if no more than the frame on top is left out."""
        return self.mark(len(self._stack) - 1)

    def go_back(self, mark: Mark) -> None:
        """Go back to where the walk stood at `mark`."""
        floor, frames, self._last, self._start, self.error = mark
        self._stack[floor:] = frames

    # --- To another key -------------------------------------------------------------------------

    def seek(self, key: bytes) -> None:
        """Go to a key, before or behind, as if it were the first that is wanted.

        An error is forgotten. It is raised again if its node or record is still in the way.
        """
        self._selection.start_at(key)
        self._stack = [self._root]
        self._start = key
        self.error = self._last = None

    def skip_to(self, key: bytes) -> None:
        """Leave out everything before a key that is still ahead; forget an error, as `seek` does.

        No node is opened twice, so that a walk takes linear time however often it skips.
        """
        self._selection.start_at(key)
        self._selection.left_out = True
        self._start = key
        self.error = self._last = None
        while self._stack:
            frame = self._stack[-1]
            if len(frame) == 2:
                keys, cids = frame
                before = bisect_left(keys, key, key=str.encode)
                self._drop_records(before)
                self.pass_by(cids[:before])
                if before < len(keys):
                    return
            elif frame is self._root or self._selection.may_hold(frame):
                return  # the root is opened whatever is wanted, as in every walk
            else:
                self._stack.pop()
                self._selection.leave_out_subtree(frame)

    # --- Past a record or a subtree -------------------------------------------------------------

    def skip_record(self) -> tuple[str, bytes]:
        """Leave out the record that the walk stands before; return its key and CID."""
        keys, cids = cast("Run", self._stack[-1])
        self._drop_records(1)
        self.error = None
        self._last = keys[0]
        self.pass_by(cids[:1])
        return keys[0], cids[0]

    def gap(self) -> Gap:
        """Leave out the record or the subtree that the walk stands before, as it is missing."""
        frame = self._stack[-1]
        if len(frame) == 2:
            after = self._last
            key, cid = self.skip_record()
            return Gap(Cid(cid), key, after, self._next_key_beside(key))
        cid, _depth, lower, upper = frame
        self._stack.pop()
        self.error = None
        self._start = _AFTER_ALL_KEYS if upper is None else upper
        before = None if upper is None else upper.decode()
        return Gap(Cid(cid), None, lower.decode() or None, before)

    def _next_key_beside(self, key: str) -> str | None:
        """Return the key after `key` in its node, or after that node; `None` if none is wanted.

        The answer does not depend on which nodes ahead have been opened already: all keys between
        those two have less depth.
        """
        depth = key_depth(key.encode())
        stop = self._selection.asked.stop_after(key.encode())
        for frame in reversed(self._stack):
            next_key = frame[0][0].encode() if len(frame) == 2 else frame[3]
            if next_key is None or (stop is not None and next_key >= stop):
                return None
            if key_depth(next_key) >= depth:
                return next_key.decode()
        return None

    def forget_record_error(self) -> None:
        """Forget an error of the processor; any other stays."""
        if isinstance(self.error, ProcessError):
            self.error = None

    # --- The frame on top -----------------------------------------------------------------------

    def _drop_records(self, count: int) -> None:
        """Remove the first `count` records of the run on top, and it as well if it has no more."""
        keys, cids = cast("Run", self._stack[-1])
        self._stack[-1:] = [(keys[count:], cids[count:])] if count < len(keys) else []

    def _split_run(self, count: int) -> None:
        """Make the first `count` records of the run on top a run of their own."""
        keys, cids = cast("Run", self._stack[-1])
        self._stack[-1:] = [(keys[count:], cids[count:]), (keys[:count], cids[:count])]

    def _frames_in(self, subtree: Subtree, block: bytes) -> list[Frame]:
        """Check a subtree's top node; return the frames of what is wanted in it, the first last."""
        # As `open_node` does, but without one more call for each node of a repo.
        frames = open_ordinary(subtree, block, self._limits)
        if frames is None:
            frames = open_node_plainly(subtree, block, self._limits)
        return frames if self._selection.everything else self._selection.wanted_of(frames)

    # --- What is left out -----------------------------------------------------------------------

    @property
    def outer(self) -> tuple[str | None, str | None]:
        """The nearest keys on both sides of the ranges; see `Selection`."""
        return self._selection.outer

    @property
    def left_out(self) -> bool:
        """Whether the walk has gone past anything that it did not take."""
        return self._selection.left_out

    @property
    def passing(self) -> dict[bytes, Subtree | None] | None:
        """The blocks that opened nodes name and the walk leaves out; see `Selection`."""
        return self._selection.passing

    @passing.setter
    def passing(self, passing: dict[bytes, Subtree | None] | None) -> None:
        self._selection.passing = passing

    def passes(self, cid: bytes, block: bytes) -> bool:
        """Return whether a block is one of those in `passing`; each counts once."""
        return self._selection.passes(cid, block)

    def pass_by(self, cids: Sequence[bytes]) -> None:
        """Note records that the walk leaves out."""
        self._selection.leave_out_records(cids)

    def want(self, cid: bytes) -> None:
        """Remove a block from `passing`: the walk needs it elsewhere in the tree."""
        self._selection.want(cid)


if COMPILED:
    from repo_stream.mst._cursor import Cursor
