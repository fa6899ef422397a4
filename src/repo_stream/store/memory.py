"""Blocks in memory, and what they really cost there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

from repo_stream import sizes
from repo_stream._compiled import COMPILED
from repo_stream.car.decoder import Block
from repo_stream.mst import tables
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.node import looks_like_node
from repo_stream.mst.tables import KEY_COST, Table
from repo_stream.process import Processor
from repo_stream.sizes import BLOCK_OVERHEAD, INT_COST, LARGE_INT

__all__ = ["MemoryStore"]

T = TypeVar("T")


class MemoryStore(Generic[T]):
    """Blocks of a CAR, processed where they surely are no nodes.

    Args:
        processor: what to make of the blocks.
        late: keep all blocks as they are; the processor is for later.
    """

    def __init__(self, processor: Processor[T], *, late: bool = False) -> None:
        self._processor = processor
        #: Whether blocks are processed as they come.
        self.processes: bool = not (late or processor.keeps_bytes)
        self.blocks: Blocks[T] = Blocks.empty(alike=processor.keeps_bytes, many=True)
        self._contents = 0.0

    @property
    def size(self) -> int:
        """What the store costs, in bytes: keys, values and the tables that hold them."""
        return sum(map(sys.getsizeof, self.blocks.tables)) + int(self._contents)

    @property
    def need(self) -> int:
        """What the store has to have, to take more blocks in, in bytes; see `tables.need`."""
        return sum(map(tables.need, self.blocks.tables)) + int(self._contents)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not self.blocks.raw and not self.blocks.processed

    def add(self, cids: Sequence[bytes], blocks: Sequence[bytes]) -> None:
        """Take blocks in; of two with the same CID the later one stays."""
        if not cids:
            return
        raw = self.blocks.raw
        # Blocks that come again cost what they have more than those whose place they take: nothing,
        # unless their CIDs have not been checked.
        if self.processes:
            processed = self.blocks.processed
            known = len(raw) + len(processed)
            tables.expect(processed, cids)
            process, size_of = self._processor.process, self._processor.size_of
            cost = process_into(raw, processed, cids, blocks, process=process, size_of=size_of)
            added = len(raw) + len(processed) - known
        else:
            known = len(raw)
            tables.expect(raw, cids)
            cost = _put_raw(raw, cids, blocks)
            added = len(raw) - known
        self._contents += cost + KEY_COST * added

    def keep_raw(self, cid: bytes, data: bytes) -> None:
        """Take one block in without processing it."""
        self.blocks.raw[cid] = data
        self._contents += len(data) + BLOCK_OVERHEAD + KEY_COST

    def put_back(self, cid: bytes, *, block: bytes | None, result: T | None) -> None:
        """Take one block in again, as it was, or as what had been made of it."""
        self.forget([cid])
        if block is not None:
            self.keep_raw(cid, block)
            return
        value = cast("T", result)
        self.blocks.processed[cid] = value
        self._contents += self._processor.size_of(value) + KEY_COST

    def forget(self, cids: Iterable[bytes]) -> tuple[list[Block], list[tuple[bytes, T]]]:
        """Give these blocks away, as far as they are here: those kept raw, and those processed."""
        raw_table, processed_table = self.blocks.raw, self.blocks.processed
        size_of = self._processor.size_of
        raw: list[Block] = []
        processed: list[tuple[bytes, T]] = []
        cost = 0.0
        for cid in cids:
            data = raw_table.pop(cid, None)
            if data is not None:
                raw.append((cid, data))
                cost += len(data) + BLOCK_OVERHEAD + KEY_COST
            # Both, where the one came while the other was put back.
            if cid in processed_table:
                value = processed_table.pop(cid)
                processed.append((cid, value))
                cost += size_of(value) + KEY_COST
        self._contents -= cost
        return raw, processed

    def shrink(self) -> None:
        """Give back the memory of tables that once held much more than they do now."""
        for table in self.blocks.tables:
            tables.shrink(table)

    def drop(self) -> None:
        """Let go of everything."""
        for table in self.blocks.tables:
            table.clear()
        self._contents = 0.0

    def drain(self, blocks: int, size: int) -> tuple[list[Block], list[tuple[bytes, T]]]:
        """Give up to so many blocks away: those kept raw, and those processed.

        Those kept raw are one, however large, or up to `size` bytes. Once it has given the last one
        away, the store is as new.
        """
        raw = _pop_raw(self.blocks.raw, blocks, size)
        processed: list[tuple[bytes, T]] = []
        if self.blocks.processed is not self.blocks.raw:
            pop = self.blocks.processed.popitem
            most = min(blocks - len(raw), len(self.blocks.processed))
            processed = [pop() for _ in range(most)]
        if not self.blocks.raw and not self.blocks.processed:
            self.drop()  # only a cleared table gives its memory back
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
    size_of: Callable[[T], int],
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
    cost_of: Callable[[Any], int] = size_of  # a type checker would take `value` for a number
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
