"""Which part of a tree a walk takes, and what it leaves out.

A walk may be limited to ranges of keys, and may skip to a later key. What its nodes name outside of
that is left out: its blocks are not needed. Two kinds of caller want to know more about it. A proof
needs the nearest keys on both sides of the ranges. A stream has to tell a block that the walk
leaves out from one that it may need later: the first can be dropped when it comes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress

from repo_stream.errors import RepoStreamError
from repo_stream.limits import Limits
from repo_stream.mst.frames import Frame, Subtree
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.rules import open_node

__all__ = ["Selection"]


# The most blocks that `Selection.passing` remembers. If the file is in walk order, a few nodes'
# worth are there at a time; otherwise it could be the whole repo, two keys of 1 KiB for each.
_MOST_PASSING = 4000


class Selection:
    """The part of a tree that a walk takes.

    Args:
        ranges: the keys that are wanted.
        limits: `mst_depth`, `node_entries` and `key_bytes` apply to nodes that are left out, too.

    Attributes:
        asked: the ranges as they were given.
        everything: whether no key is left out at present.
        outer: the nearest keys before and after the ranges that opened nodes name; `None` if none
            does. Once the walk is done, they are the neighbours of what it found.
        passing: blocks that opened nodes name and the walk leaves out, by CID, each with the
            subtree that it is the top node of, or `None` for a record. It is `None`, and nothing is
            noted, unless a caller sets it to a `dict`.
        left_out: whether anything was left out so far.
    """

    def __init__(self, ranges: KeyRanges, limits: Limits) -> None:
        self._limits = limits
        self.asked: KeyRanges = ranges
        self._ranges = ranges
        self.everything: bool = ranges.everything
        self.outer: tuple[str | None, str | None] = (None, None)
        self.passing: dict[bytes, Subtree | None] | None = None
        self.left_out: bool = False

    def start_at(self, key: bytes) -> None:
        """Leave out all keys before `key`, and those outside the ranges as before."""
        self._ranges = self.asked.starting_at(key)
        self.everything = self._ranges.everything

    def may_hold(self, subtree: Subtree) -> bool:
        """Return whether a wanted key can be in a subtree."""
        _cid, _depth, lower, upper = subtree
        return self._ranges.may_hold(lower, upper)

    def wanted_of(self, frames: list[Frame]) -> list[Frame]:
        """Return what is wanted of a node's frames, and note the rest as left out."""
        wanted: list[Frame] = []
        for frame in frames:
            if len(frame) == 2:
                keys, cids = frame
                spans = [*self._ranges.spans(keys)]
                wanted.extend([(keys[span], cids[span]) for span in reversed(spans)])
                self._note_outer(keys)
                self._leave_out_between(spans, cids)
            elif self.may_hold(frame):
                wanted.append(frame)
            else:
                self.leave_out_subtree(frame)
        return wanted

    def _note_outer(self, keys: list[str]) -> None:
        """Update `outer` with the keys of a run."""
        ranges = self._ranges.ranges
        if not ranges:
            return
        start, stop = ranges[0][0], ranges[-1][1]
        before, after = self.outer
        below = bisect_left(keys, start, key=str.encode)
        if below and (before is None or before < keys[below - 1]):
            before = keys[below - 1]
        if stop is not None:
            above = bisect_left(keys, stop, key=str.encode)
            if above < len(keys) and (after is None or after > keys[above]):
                after = keys[above]
        self.outer = before, after

    def _leave_out_between(self, spans: list[slice], cids: list[bytes]) -> None:
        """Note the records of a run that are in none of the spans as left out."""
        if self.passing is None or not self._ranges.ranges:
            return
        end = 0
        for span in (*spans, slice(len(cids), None)):
            self.leave_out_records(cids[end : span.start])
            end = span.stop

    def leave_out_records(self, cids: Sequence[bytes]) -> None:
        """Note records that the walk leaves out."""
        self.left_out = self.left_out or bool(cids)
        if self.passing is not None and len(self.passing) < _MOST_PASSING:
            self.passing.update(dict.fromkeys(cids))

    def leave_out_subtree(self, subtree: Subtree) -> None:
        """Note a subtree that the walk leaves out."""
        self.left_out = True
        if self.passing is not None and len(self.passing) < _MOST_PASSING:
            self.passing[subtree[0]] = subtree

    def passes(self, cid: bytes, block: bytes) -> bool:
        """Return whether a block is one of those in `passing`, and forget it.

        If it is a node, all that it names is added instead.
        """
        passing = self.passing
        if not passing or cid not in passing:
            return False
        subtree = passing.pop(cid)
        if subtree is not None:
            # The walk never gets there, so an invalid node does not matter.
            with suppress(RepoStreamError):
                for frame in open_node(subtree, block, self._limits):
                    if len(frame) == 2:
                        _keys, cids = frame
                        self.leave_out_records(cids)
                    else:
                        self.leave_out_subtree(frame)
        return True

    def want(self, cid: bytes) -> None:
        """Remove a block from `passing`: the walk needs it elsewhere in the tree."""
        if self.passing:
            self.passing.pop(cid, None)
