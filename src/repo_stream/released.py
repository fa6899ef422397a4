"""What a walk has let go of, kept small, in case that it is asked for again.

Two keys of a repo can name one record, and the file may hold it once. A walk that lets go of what
it has used would lose it, so what is let go is packed into *segments*: the CIDs of some hundred
blocks in one string, and what there was to them in another; or, where the source is a file that can
be read again, where in it they are. A segment is never opened unless a block is asked for again,
which few repos do, so packing is fast and looking up is a search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from repo_stream import dagcbor
from repo_stream.car import Block
from repo_stream.cid import ORDINARY_LENGTH
from repo_stream.process import Processor, as_bytes

__all__ = ["Found", "Released", "Segment"]

T = TypeVar("T")

_CID: Final = ORDINARY_LENGTH
# What is in a segment: results of the processor, or blocks that the walk took, or went past, or the
# place of blocks that it took.
_BLOCKS, _RESULTS, _UNUSED, _PLACE = 0, 1, 2, 3
# What a segment costs beside its bytes: two of them, their tuple, and its place in a queue.
_OVERHEAD: Final = 200
# A segment is packed of so many blocks, or bytes of them: of fewer it takes 1.05 times the whole
# time of a walk.
_MOST_WAITING: Final = 1024
_MOST_BYTES: Final = 128 * 1024
# What a block costs in memory that waits, beside its bytes: its CID, their headers, and two places.
_WAITING_COST: Final = 140


class Segment(NamedTuple):
    """Some blocks that were let go.

    Attributes:
        cids: their CIDs, 36 bytes each.
        contents: what there was to them, as one list in CBOR: bytes, or results. Or where in the
            file they are, as a list of two numbers.
        kind: which of them, and whether the walk has used them.
    """

    cids: bytes
    contents: bytes
    kind: int

    @property
    def processed(self) -> bool:
        """Whether there are results of the processor in it."""
        return self.kind == _RESULTS

    @property
    def each_cid(self) -> list[bytes]:
        """Their CIDs, one by one."""
        return [self.cids[at : at + _CID] for at in range(0, len(self.cids), _CID)]

    @property
    def place(self) -> tuple[int, int] | None:
        """Where in the file its blocks are, where those were not kept."""
        if self.kind != _PLACE:
            return None
        start, end = dagcbor.load_value(self.contents)
        return start, end

    @property
    def used(self) -> bool:
        """Whether the walk has used what is in it, and not only gone past."""
        return self.kind != _UNUSED

    @property
    def size(self) -> int:
        """What it costs in memory, in bytes."""
        return len(self.cids) + len(self.contents) + _OVERHEAD


class Found(NamedTuple, Generic[T]):
    """A block that was let go and found again.

    Attributes:
        block: its bytes, where they were kept.
        result: what the processor had made of it, where that was kept instead.
        used: whether the walk had used it.
        failure: why there is neither: what the processor raised that was to load the result.
        place: where in the file it is, among others, where it was not kept.
    """

    block: bytes | None
    result: T | None
    used: bool = True
    failure: Exception | None = None
    place: tuple[int, int] | None = None


class Released(Generic[T]):
    """Segments in memory, the oldest first.

    Args:
        processor: whose results are packed.
    """

    def __init__(self, processor: Processor[T]) -> None:
        self._processor = processor
        # A column of plain results is packed at once, others one by one.
        self._plain = processor.dumps is dagcbor.dump_value and (
            processor.loads is dagcbor.load_value
        )
        self._segments: deque[Segment] = deque()
        self._packed_size = 0
        # What waits to be packed, in columns.
        self._blocks: tuple[list[bytes], list[bytes]] = ([], [])
        self._results: tuple[list[bytes], list[T], list[bytes]] = ([], [], [])
        self._placed: list[bytes] = []
        self._place = (0, 0)
        self._waiting_size = 0
        #: Blocks that were given up: nobody can ask for them again.
        self.lost: int = 0
        #: How much was read to look for blocks, in bytes.
        self.searched: int = 0

    def add_blocks(
        self, cids: Sequence[bytes], blocks: Sequence[bytes], *, used: bool = True
    ) -> None:
        """Take blocks as they are, `used` by the walk or not."""
        if not used:
            self._pack_blocks(cids, blocks, _UNUSED)
            return
        waiting, data = self._blocks
        waiting += cids
        data += blocks
        self._wait_for(blocks)

    def add_places(self, cids: Sequence[bytes], place: tuple[int, int]) -> None:
        """Take blocks that can be read again, by where in the file they are, among others."""
        if place != self._place:
            self.pack()
            self._place = place
        self._placed += cids
        self._waiting_size += _WAITING_COST * len(cids)

    def add_results(
        self, cids: Sequence[bytes], results: Sequence[T], blocks: Sequence[bytes] | None = None
    ) -> None:
        """Take results of the processor.

        Args:
            cids: the CIDs of their blocks.
            results: what the processor made of those.
            blocks: the blocks themselves, to be taken where a result has no form on disk. Without
                them such results are lost.
        """
        if blocks is None:
            self._pack_results(cids, results, None)
            return
        waiting, values, data = self._results
        waiting += cids
        values += results
        data += blocks
        self._wait_for(blocks)

    def _wait_for(self, blocks: Sequence[bytes]) -> None:
        self._waiting_size += sum(map(len, blocks)) + _WAITING_COST * len(blocks)
        if self._waiting_size >= _MOST_BYTES + _MOST_WAITING * _WAITING_COST:
            self.pack()

    @property
    def size(self) -> int:
        """What all of it costs in memory, in bytes."""
        return self._packed_size + self._waiting_size

    def pack(self) -> None:
        """Pack what waits for that."""
        if self._waiting_size:
            self._pack_blocks(*self._blocks, _BLOCKS)
            self._pack_results(*self._results)
            self._pack_place(self._placed, self._place)
            self._blocks, self._results, self._placed = ([], []), ([], [], []), []
            self._waiting_size = 0

    def _pack_place(self, cids: Sequence[bytes], place: tuple[int, int]) -> None:
        if cids:
            self._keep(Segment(b"".join(cids), dagcbor.dump_value([*place]), _PLACE))

    def _pack_blocks(self, cids: Sequence[bytes], blocks: Sequence[bytes], kind: int) -> None:
        if cids:
            self._keep(Segment(b"".join(cids), dagcbor.dump_value([*blocks]), kind))

    def _pack_results(
        self, cids: Sequence[bytes], results: Sequence[T], blocks: Sequence[bytes] | None
    ) -> None:
        if not cids:
            return
        try:
            self._keep(Segment(b"".join(cids), self._packed(results), _RESULTS))
        except Exception:  # noqa: BLE001 - whatever `dumps` raises; it matters to nobody as yet
            if blocks is not None:
                self._pack_blocks(cids, blocks, _BLOCKS)
            elif len(cids) == 1:
                self.lost += 1
            else:
                for cid, result in zip(cids, results, strict=True):
                    self._pack_results([cid], [result], None)

    def _packed(self, results: Sequence[T]) -> bytes:
        if self._plain:
            return dagcbor.dump_value([*results])
        dumps = self._processor.dumps
        return dagcbor.dump_value([as_bytes(dumps(result)) for result in results])

    def _keep(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._packed_size += segment.size

    def __len__(self) -> int:
        """Say how many segments there are."""
        self.pack()
        return len(self._segments)

    def oldest(self, size: int) -> list[Segment]:
        """Give the oldest segment, and those after it up to so many bytes."""
        self.pack()
        segments: list[Segment] = []
        for segment in self._segments:
            size -= segment.size
            if segments and size < 0:
                break
            segments.append(segment)
        return segments

    def drop(self, n: int) -> None:
        """Forget the `n` oldest segments, which are somewhere else by now."""
        for _ in range(n):
            self._packed_size -= self._segments.popleft().size

    def lose_oldest(self) -> None:
        """Give up the blocks of the oldest segment."""
        self.pack()
        self.lost += len(self._segments[0].cids) // _CID
        self.drop(1)

    def find(self, cid: bytes) -> Found[T] | None:
        """Look for a block that was let go of and is in memory: the latest first, as most are."""
        self.pack()
        return self.find_in(reversed(self._segments), cid)

    def find_in(self, segments: Iterable[Segment], cid: bytes) -> Found[T] | None:
        """Look for a block in some segments."""
        for segment in segments:
            self.searched += len(segment.cids)
            at = segment.cids.find(cid)
            while at >= 0 and at % _CID:
                at = segment.cids.find(cid, at + 1)
            if at >= 0:
                self.searched += len(segment.contents)
                if (place := segment.place) is not None:
                    self.searched += place[1] - place[0]
                    return Found(None, None, place=place)
                item = dagcbor.load_value(segment.contents)[at // _CID]
                if not segment.processed:
                    return Found(item, None, segment.used)
                return self._loaded(item)
        return None

    def _loaded(self, item: Any) -> Found[T]:  # noqa: ANN401 - a result, or what dumps gave
        try:
            return Found(None, item if self._plain else self._processor.loads(item))
        except Exception as error:  # noqa: BLE001 - raised where the walk needs it
            return Found(None, None, failure=error.with_traceback(None))

    def items(
        self, segment: Segment
    ) -> tuple[list[Block], list[tuple[bytes, T]], list[tuple[bytes, Exception]]]:
        """Give what is in a segment: blocks as they are, results, and why others do not load."""
        pairs = self._pairs(segment)
        if not segment.processed:
            return pairs, [], []
        if self._plain:
            return [], pairs, []
        results: list[tuple[bytes, T]] = []
        failures: list[tuple[bytes, Exception]] = []
        for cid, item in pairs:
            found = self._loaded(item)
            if found.failure is not None:
                failures.append((cid, found.failure))
            else:
                results.append((cid, cast("T", found.result)))
        return [], results, failures

    def rows(self, segment: Segment) -> tuple[list[Block], list[Block]]:
        """Give what is in a segment in the form of the disk store: blocks, and results."""
        pairs = self._pairs(segment)
        if not segment.processed:
            return pairs, []
        if self._plain:
            pairs = [(cid, self._processor.dumps(item)) for cid, item in pairs]
        return [], pairs

    @staticmethod
    def _pairs(segment: Segment) -> list[tuple[bytes, Any]]:  # Any: bytes, or a result
        contents: list[Any] = dagcbor.load_value(segment.contents)
        return list(zip(segment.each_cid, contents, strict=True))
