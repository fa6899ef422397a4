"""Look ahead of a walk: which blocks does it need next, and which does it no longer need?

A driver that fetches blocks from a log asks for a thousand at a time. To name so many, nodes that
are available are opened before the walk gets there, and what they name is looked through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from repo_stream._compiled import COMPILED
from repo_stream.errors import RepoStreamError
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.frames import Frame, Subtree
from repo_stream.mst.tables import Table

__all__ = ["LookAhead", "keep_only", "look_ahead"]

T = TypeVar("T")

#: Checks the top node of a subtree and returns the frames of what is in it.
OpenNode: TypeAlias = Callable[[Subtree, bytes], list[Frame]]

# How many records and subtrees are looked at to name the blocks that are not available. A driver
# asks for a thousand; with less than twice as many it would get fewer for nearly every repo.
_LOOK_AHEAD = 2000


class LookAhead(NamedTuple):
    """What is ahead of a walk.

    Attributes:
        wanted: the CIDs of blocks that are not available, in the order of the walk, each once.
        stack: the stack of the walk, with the available nodes opened, the next frame last.
        nodes: the CIDs of those nodes.
    """

    wanted: list[bytes]
    stack: list[Frame]
    nodes: list[bytes]

    def named(self) -> list[bytes]:
        """Return the CIDs of all that is ahead, as far as it was looked through."""
        named = list(self.nodes)
        for frame in self.stack:
            if len(frame) == 2:
                _keys, cids = frame
                named += cids
            else:
                named.append(frame[0])
        return named


def look_ahead(
    stack: list[Frame], blocks: Blocks[T], n: int, open_node: OpenNode, *, records: bool
) -> LookAhead:
    """Name the blocks that a walk needs next and that are not available.

    It ends before a node that is not valid: the walk will end there. `take` raises the error once
    the walk stands before the node, after all the records that come first.

    It also ends after `_LOOK_AHEAD` records and subtrees, if any block has been named by then.
    Without that, a hostile tree would be opened as a whole: one whose nodes are all available, and
    whose records are so large that they are fetched one at a time.

    Args:
        stack: what is ahead of the walk, the next frame last. It is not changed.
        blocks: the available blocks.
        n: the most blocks to name.
        open_node: opens a node for the walk.
        records: whether records are named, or nodes alone.
    """
    wanted: dict[bytes, None] = {}
    nodes: list[bytes] = []
    raw, processed = blocks.raw, blocks.processed
    # Frames that have been looked at go on a list of their own: to replace a subtree deep in a long
    # stack would move all frames above it.
    ahead = stack.copy()
    looked_at: list[Frame] = []
    seen = 0
    while ahead and len(wanted) < n and (seen < _LOOK_AHEAD or not wanted):
        frame = ahead.pop()
        if len(frame) == 2:
            looked_at.append(frame)
            _keys, cids = frame
            seen += len(cids)
            if records:
                for cid in cids:
                    if cid not in processed and cid not in raw:
                        wanted[cid] = None
            continue
        seen += 1
        cid = frame[0]
        block = raw.get(cid)
        if block is None:
            looked_at.append(frame)
            if cid in processed:
                break  # it cannot be a node
            wanted[cid] = None
            continue
        try:
            ahead += open_node(frame, block)
        except RepoStreamError:
            looked_at.append(frame)
            break
        nodes.append(cid)
    looked_at.reverse()
    ahead += looked_at
    return LookAhead(list(wanted)[:n], ahead, nodes)


def keep_only(table: Table[Any], cids: Iterable[bytes]) -> None:
    """Remove all blocks from a table but these.

    It takes 0.65 of the time of removing the others one by one.
    """
    kept = {cid: table[cid] for cid in cids if cid in table}
    table.clear()
    table.update(kept)


if COMPILED:
    from repo_stream.mst._lookahead import keep_only, look_ahead
