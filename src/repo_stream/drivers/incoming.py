"""A CAR that is walked while it is read: the pieces as they come, and what becomes of their blocks.

The walk needs one block at a time, in key order. There are three cases:

- it is the next block of the piece: the walk takes it from there (`Walker.take_along`), and it is
  released (`used_arrivals`). In a CAR in streamable order, every block goes this way;
- it comes later: the rest of the piece is kept in memory, and the next piece is read
  (`keep_arrivals`, `read_on`);
- it was kept: the walk takes it from memory (`used_kept`).

`spilling` decides what becomes of blocks that are kept or released when memory is full. `order`
measures how far the file is from streamable order.

All methods can be cancelled at every `await`, and called again. What has been done is noted block
by block: `Arrivals.at` says how far a piece has been used or kept, and `Kept.resume` goes on with a
move to disk. A loop without async takes records in its own thread, where Ctrl-C can come anywhere:
`Piece.noted` says how far their blocks have been released, and `catch_up` releases the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Generic, TypeVar

from repo_stream.drivers.loading import BATCH, Loading
from repo_stream.drivers.order import OrderMeter, in_walk_order, left_of
from repo_stream.drivers.spilling import Kept
from repo_stream.mst.blocks import Arrivals
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Taken
from repo_stream.mst.walker import Walker

__all__ = ["Incoming"]

T = TypeVar("T")


class Incoming(Generic[T]):
    """Reads a CAR for a walk, piece by piece.

    Args:
        loading: reads the file.
        kept: the blocks that have been read.
    """

    def __init__(self, loading: Loading[T], kept: Kept[T]) -> None:
        #: In which order the blocks have come so far.
        self.order: OrderMeter = OrderMeter()
        self._loading = loading
        self._kept = kept
        self._at_end = False

    @property
    def arrivals(self) -> Arrivals:
        """The blocks of the piece that was read last, and how far the walk has come in them."""
        return self._kept.piece.arrivals

    @property
    def over(self) -> bool:
        """Whether the file has been read to its end."""
        return self._at_end or self._kept.on_disk

    @property
    def blocks(self) -> int:
        """How many blocks of the file have been read."""
        return self._loading.blocks

    @property
    def unchecked(self) -> int:
        """How many of them could not be checked against their CIDs."""
        return self._loading.reader.unchecked

    @property
    def offset(self) -> int:
        """How many bytes of the file have been read."""
        return self._loading.offset

    @property
    def unused(self) -> int | None:
        """How many blocks of the file the walk has not used; `None` if that is not known."""
        if not self._kept.counts:
            return None
        # A block that was damaged and repaired has been used and was not counted.
        return max(self.blocks - self._kept.used_count, 0)

    # --- Reading --------------------------------------------------------------------------------

    async def commit(self) -> Commit:
        """Read as far as the commit, and keep the blocks before it.

        Raises:
            MissingCommit, NothingNew: if it is not in the file.
        """
        loading, kept = self._loading, self._kept
        while loading.commit is None and await self.read_on():
            if loading.commit is None:
                await self.keep_arrivals()
        commit = loading.commit_found()
        if kept.on_disk:
            kept.used_count += 1
        else:
            self.used_kept([commit.cid])
        self.order.in_order = loading.commit_first
        if before := loading.before_commit:
            new = kept.new_among(self.arrivals.cids[:before])
            self.order.had_to_keep(kept.early + len(new))
        return commit

    async def read_on(self, needed: bytes | None = None) -> bool:
        """Read the next piece, because a block is needed; return `False` at the end of the file.

        Args:
            needed: the CID of the block. A released block need not be waited for; a copy of it may
                come next, though.
        """
        early = self._kept.early
        if early > self.order.most_early and not (
            needed is not None and await self._kept.has_released(needed)
        ):
            self.order.had_to_keep(early)
        return await self._read_piece()

    async def _read_piece(self) -> bool:
        await self._kept.limit_released()
        columns = None if self.over else await self._loading.next_columns()
        if columns is None:
            self._at_end = True
            return False
        self._kept.piece.replace(Arrivals(*columns), self._kept.log_end, self._loading.left_out)
        self._kept.note_short_sections(self._kept.piece.start)
        return True

    async def drain(self, *, keep: bool) -> None:
        """Read the file to its end, and check its blocks.

        Args:
            keep: release the blocks, for walks to other parts of the repo. Else they are dropped,
                as no walk can need them.
        """
        while self.arrivals.next is not None or await self._read_piece():
            while keep and self.arrivals.next is not None:
                at = self.arrivals.at
                count = len(self.arrivals.some(BATCH)[0])
                self._kept.pass_by(range(at, at + count))
                self._go_past(count)
            self._kept.piece.drop()
            await self.pause()

    async def settle(self) -> None:
        """Read the file to its end, and keep all blocks, in memory or on disk.

        That is for walks to any part of the repo.
        """
        kept = self._kept
        if kept.everything and self.over and kept.is_settled:
            return
        kept.everything = True
        await kept.resume()
        await kept.move_if_only_logged()
        await kept.make_room()  # memory may be full since an earlier call that failed
        while not kept.on_disk:
            if kept.released_in_memory:
                kept.put_released_back()
                await self.pause()
                await kept.make_room()
            elif self.arrivals.next is not None or await self._read_piece():
                await self.keep_arrivals()
            else:
                break
            await kept.move_if_only_logged()

    async def pause(self) -> None:
        """Let other tasks run, if this one has run for long enough."""
        await self._loading.turn.pause_if_over()

    # --- Keeping and passing --------------------------------------------------------------------

    async def keep_arrivals(self, walker: Walker[T] | None = None) -> bool:
        """Keep the rest of the piece, except for blocks that the walk goes past.

        Args:
            walker: the walk that needs a later block; `None` if all blocks are to be kept.

        Returns:
            Whether they are in memory. Else the repo has moved to disk.
        """
        self._measure_piece(walker)
        while self.arrivals.next is not None:
            cids, blocks = self.arrivals.some(BATCH)
            self._keep(cids, blocks, walker)
            self._go_past(len(cids))
            await self.pause()
        await self._kept.make_room()
        return not self._kept.on_disk

    def _keep(
        self, cids: Sequence[bytes], blocks: Sequence[bytes], walker: Walker[T] | None
    ) -> None:
        if walker is not None and walker.passing:
            wanted = [not walker.passes(*block) for block in zip(cids, blocks, strict=True)]
            passed = [n for n, each in enumerate(wanted, self.arrivals.at) if not each]
            self._kept.pass_by(passed)
            cids, blocks = [*compress(cids, wanted)], [*compress(blocks, wanted)]
        self._kept.keep(cids, blocks)

    def _measure_piece(self, walker: Walker[T] | None) -> None:
        """Measure how many blocks of a piece that is to be kept come early."""
        arrivals, kept = self.arrivals, self._kept
        if self.order.has_seen(arrivals):
            return  # an earlier call was cancelled
        rest, early = arrivals.cids[arrivals.at :], kept.early
        may_be_more = not kept.everything and early + len(rest) > self.order.most_early
        new = kept.new_among(rest) if may_be_more else None
        self.order.keep(arrivals, new, early, None if walker is None else walker.nearest())

    def let_pass(self, walker: Walker[T]) -> bool:
        """Go past blocks that the walk names but does not need; return whether there were any."""
        if not walker.passing:
            return False
        cids, blocks = self.arrivals.some(BATCH)
        passed = 0
        while passed < len(cids) and walker.passes(cids[passed], blocks[passed]):
            passed += 1
        at = self.arrivals.at
        self._kept.pass_by(range(at, at + passed))
        self._go_past(passed)
        return passed > 0

    def _go_past(self, count: int) -> None:
        """Go past blocks of the piece that were kept, or released without being used."""
        piece = self._kept.piece
        piece.arrivals.at += count
        piece.noted = piece.arrivals.at

    # --- Using ----------------------------------------------------------------------------------

    def used_kept(self, cids: Sequence[bytes]) -> None:
        """Note that the walk has used kept records, and the nodes in `Kept.opened`."""
        kept = self._kept
        if not kept.on_disk and (cids or kept.opened):
            used = in_walk_order(cids, kept.opened)
            self.order.use(self.arrivals, used, kept.used)
            kept.use(used)
        kept.opened.clear()

    def catch_up(self) -> None:
        """Release the blocks of a take that was interrupted before they were released."""
        if self._kept.piece.noted < self.arrivals.at:
            self.used_arrivals(Taken([], [], []))

    def used_arrivals(self, taken: Taken[T]) -> None:
        """Release the blocks of the piece that the walk has used.

        Args:
            taken: the records that the walk took, from the piece or from memory.
        """
        arrivals, start = self.arrivals, self._kept.piece.noted
        self._kept.release_arrivals()
        nodes, arrivals.nodes = arrivals.nodes, []
        cids = arrivals.cids[start : arrivals.at]
        if len(cids) == len(nodes) + len(taken.cids):
            self.used_kept(())  # every record came with the piece
            return
        of_nodes = set(nodes)
        came = [cid for n, cid in enumerate(cids, start) if n not in of_nodes]
        self.used_kept(left_of(taken.cids, came))
        self._kept.use_copies(taken.cids)  # those that came may have been kept before as well
