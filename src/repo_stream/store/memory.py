"""The blocks of a repo in memory, and how much memory they take.

A block is processed as soon as it comes, if it is surely not a node: a result often takes less
memory than the block. Nodes, and whatever looks like one, stay raw. The store counts what each
block or result costs, Python's objects included, so that a memory limit holds for the process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

from repo_stream import sizes
from repo_stream._compiled import COMPILED
from repo_stream.car.decoder import Block
from repo_stream.ipld.cid import ORDINARY_LENGTH
from repo_stream.mst import tables
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.node import looks_like_node
from repo_stream.mst.tables import KEY_COST, Table
from repo_stream.process import Processor
from repo_stream.sizes import BLOCK_OVERHEAD, INT_COST, LARGE_INT, excess_of_cid

__all__ = ["MemoryStore"]

T = TypeVar("T")


class MemoryStore(Generic[T]):
    """Blocks of a CAR, processed if they are surely not nodes.

    Args:
        processor: makes the results.
        late: keep all blocks raw, to be processed by the walk.
    """

    def __init__(self, processor: Processor[T], *, late: bool = False) -> None:
        self._process = processor.process
        self._size_of = processor.checked_size_of
        #: Whether blocks are processed when they are added.
        self.processes: bool = not (late or processor.keeps_bytes)
        self.blocks: Blocks[T] = Blocks.empty(alike=processor.keeps_bytes, many=True)
        self._contents = 0.0

    @property
    def size(self) -> int:
        """How much memory the store takes, in bytes: CIDs, blocks, results, and the tables."""
        return sum(map(sys.getsizeof, self.blocks.tables)) + int(self._contents)

    @property
    def need(self) -> int:
        """How much memory the store needs to add more blocks, in bytes; see `tables.need`."""
        return sum(map(tables.need, self.blocks.tables)) + int(self._contents)

    @property
    def empty(self) -> bool:
        """Whether there are no blocks in it."""
        return not self.blocks.raw and not self.blocks.processed

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes]) -> None:
        """Add blocks; of two with the same CID the later one is kept."""
        if not cids:
            return
        raw = self.blocks.raw
        has_long = max(map(len, cids)) > ORDINARY_LENGTH
        excess = self._excess_of(cids) if has_long else 0
        # A block that replaces one with its CID costs the difference in size: nothing, unless CIDs
        # are not verified.
        if self.processes:
            processed = self.blocks.processed
            known = len(raw) + len(processed)
            tables.expect(processed, cids)
            process, size_of = self._process, self._size_of
            cost = process_into(raw, processed, cids, blocks, process=process, size_of=size_of)
            added = len(raw) + len(processed) - known
        else:
            known = len(raw)
            tables.expect(raw, cids)
            cost = _put_raw(raw, cids, blocks)
            added = len(raw) - known
        self._contents += cost + KEY_COST * added
        if has_long:
            self._contents += self._excess_of(cids) - excess

    def _excess_of(self, cids: Sequence[bytes]) -> int:
        """Return what these CIDs cost beside `KEY_COST`, those that are in the tables, in bytes."""
        return sum(
            excess_of_cid(cid) for table in self.blocks.tables for cid in {*cids} if cid in table
        )

    def keep_raw(self, cid: bytes, data: bytes) -> None:
        """Add one block without processing it."""
        self.blocks.raw[cid] = data
        self._contents += len(data) + BLOCK_OVERHEAD + KEY_COST + excess_of_cid(cid)

    def put_back(self, cid: bytes, *, block: bytes | None, result: T | None) -> None:
        """Put back one block that was removed, raw or as its result.

        Args:
            cid: its CID.
            block: the raw block; `None` if it was processed.
            result: the result, if it was processed.
        """
        self.forget([cid])
        if block is not None:
            self.keep_raw(cid, block)
            return
        value = cast("T", result)
        self.blocks.processed[cid] = value
        self._contents += self._size_of(value) + KEY_COST + excess_of_cid(cid)

    def forget(self, cids: Iterable[bytes]) -> tuple[list[Block], list[tuple[bytes, T]]]:
        """Remove blocks, and return those that were here.

        Returns:
            The raw blocks and the results, each with its CID.
        """
        raw_table, processed_table = self.blocks.raw, self.blocks.processed
        size_of = self._size_of
        raw: list[Block] = []
        processed: list[tuple[bytes, T]] = []
        cost = 0.0
        for cid in cids:
            # Without a call for nearly all of them: a stream forgets every block.
            key_cost = KEY_COST + (excess_of_cid(cid) if len(cid) > ORDINARY_LENGTH else 0)
            data = raw_table.pop(cid, None)
            if data is not None:
                raw.append((cid, data))
                cost += len(data) + BLOCK_OVERHEAD + key_cost
            # It may be in both tables, if it came again before it was put back.
            if cid in processed_table:
                value = processed_table.pop(cid)
                processed.append((cid, value))
                cost += size_of(value) + key_cost
        self._contents -= cost
        return raw, processed

    def shrink(self) -> None:
        """Return memory of tables that once were much larger than now."""
        for table in self.blocks.tables:
            tables.shrink(table)

    def drop(self) -> None:
        """Remove everything."""
        for table in self.blocks.tables:
            table.clear()
        self._contents = 0.0

    def drain(self, blocks: int, size: int) -> tuple[list[Block], list[tuple[bytes, T]]]:
        """Remove some blocks, and return them. A store that becomes empty is as new.

        Args:
            blocks: the most blocks to remove.
            size: the most bytes of raw blocks to remove, unless the first one is larger.

        Returns:
            The raw blocks and the results, each with its CID.
        """
        raw = _pop_raw(self.blocks.raw, blocks, size)
        processed: list[tuple[bytes, T]] = []
        if self.blocks.processed is not self.blocks.raw:
            pop = self.blocks.processed.popitem
            most = min(blocks - len(raw), len(self.blocks.processed))
            processed = [pop() for _ in range(most)]
        if not self.blocks.raw and not self.blocks.processed:
            self.drop()  # only a table that is cleared returns its memory
        return raw, processed


def _put_raw(raw: Table[bytes], cids: Sequence[bytes], blocks: Sequence[bytes]) -> float:
    """Keep blocks as they are; return how much more they cost, in bytes, the CIDs apart."""
    known = len(raw)
    replaced = 0
    if tables.holds_any(raw, cids):
        replaced = sum([len(raw[cid]) for cid in {*cids} if cid in raw])
    raw.update(zip(cids, blocks, strict=True))
    added = len(raw) - known
    if added < len(cids):
        blocks = [*dict(zip(cids, blocks, strict=True)).values()]
    return BLOCK_OVERHEAD * added + sum(map(len, blocks)) - replaced


def process_into(
    raw: Table[bytes],
    processed: Table[T],
    cids: Sequence[bytes],
    blocks: Sequence[bytes],
    *,
    process: Callable[[bytes], T],
    size_of: Callable[[T], float],
) -> float:
    """Process blocks and put the results into a table; those that must stay raw go into another.

    A block stays raw if it may be a node, or if the processor raises: only the walk knows whether
    that matters.

    The loop is plain: with columns that go through C it takes 1.2 times as long. Small numbers, as
    lengths are, are sized in place, as a call for each takes a tenth of a load.

    Args:
        raw: blocks by their CIDs.
        processed: results by the CIDs of their blocks.
        cids: the CIDs of the new blocks.
        blocks: their bytes.
        process: makes the result of a block.
        size_of: returns what a result costs in memory, in bytes.

    Returns:
        How much more all of it costs in memory, in bytes, the CIDs apart.
    """
    cost = 0.0
    cost_of: Callable[[Any], float] = size_of  # a type checker would take `value` for a number
    plain = size_of is sizes.size_of
    for cid, data in zip(cids, blocks, strict=True):
        # A first key of one letter: that alone rules out nearly every record, without a call.
        if len(data) < 2 or data[1] != 0x61 or not looks_like_node(data):
            try:
                value: Any = process(data)  # compared if it is a number
            except Exception:  # noqa: BLE001, S110 - it matters only if the walk gets here
                pass
            else:
                if cid in processed:
                    cost -= size_of(processed[cid])
                processed[cid] = value
                if plain and type(value) is int and -1 < value < LARGE_INT:
                    if value > 256:
                        cost += INT_COST
                else:
                    cost += cost_of(value)
                continue
        if cid in raw:
            cost -= len(raw[cid]) + BLOCK_OVERHEAD
        raw[cid] = data
        cost += len(data) + BLOCK_OVERHEAD
    return cost


def _pop_raw(raw: Table[bytes], most: int, size: int) -> list[Block]:
    pop = raw.popitem
    blocks: list[Block] = []
    while raw and len(blocks) < most:
        cid, data = pop()
        size -= len(data)
        if size < 0 and blocks:
            raw[cid] = data
            break
        blocks.append((cid, data))
    return blocks


if COMPILED:
    from repo_stream.store._memory import process_into
