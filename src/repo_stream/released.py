"""What a walk has let go of, kept small, in case that it is asked for again.

Two keys of a repo can name one record, and the file may hold it once. A walk that lets go of what
it has used would lose it, so what is let go is packed into *segments*: the CIDs of some hundred
blocks in one string, and what there was to them in another. A segment is never opened unless a
block is asked for again, which few repos do, so packing is fast and looking up is a search.

Where the source is a file that can be read again, the file is what is searched. Of a piece of it
that was let go of as a whole, as in a streamable CAR, only the place is kept. Of other pieces the
CIDs are needed to tell what was let go of, but only the *tail* of each, its last four bytes: blocks
whose CIDs end alike are told apart when they have been read again.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from repo_stream import dagcbor
from repo_stream.car import Block
from repo_stream.cid import ORDINARY_LENGTH
from repo_stream.process import Processor, as_bytes

__all__ = ["Found", "Released", "Segment", "tail", "tails_of"]

T = TypeVar("T")

_CID: Final = ORDINARY_LENGTH
_TAIL: Final = 4
# What is in a segment: blocks that the walk took, or results of them, or blocks that it went past,
# or the place of blocks that it took.
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
        cids: their CIDs, 36 bytes each; or the tails of them, where the blocks are in a file, and
            none where they are all that is in that place.
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
        """Their CIDs, or the tails of them, one by one."""
        width = self.width
        return [self.cids[at : at + width] for at in range(0, len(self.cids), width)]

    @property
    def width(self) -> int:
        """How many bytes of each CID are kept, from its end."""
        return _TAIL if self.kind == _PLACE else _CID

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
        place: where in the file it is, among others, where it was not kept; or may be, where there
            is no block yet.
    """

    block: bytes | None
    result: T | None
    used: bool = True
    failure: Exception | None = None
    place: tuple[int, int] | None = None


def tail(cid: bytes) -> bytes:
    """Give what is kept of the CID of a block that can be read again."""
    return cid[-_TAIL:]


def tails_of(cid: bytes) -> tuple[int, bytes]:
    """Give the kind of the segments that hold tails, and what one of this CID would hold."""
    return _PLACE, tail(cid)


def _tails(cids: bytes) -> bytes:
    """Give the tails of CIDs, which stand in one string, as they will: column by column, in C."""
    tails = bytearray(len(cids) // _CID * _TAIL)
    for column in range(_TAIL):
        tails[column::_TAIL] = cids[_CID - _TAIL + column :: _CID]
    return bytes(tails)


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
        self._blocks_there = 0
        # The first of those CIDs as a set, as many as had come when one was looked for.
        self._sought: set[bytes] = set()
        self._sought_of = 0
        # Places of pieces that were let go of as a whole, one number after the other.
        self._pieces = array("Q")
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

    def add_places(self, cids: Sequence[bytes], place: tuple[int, int], blocks: int) -> None:
        """Take blocks that can be read again.

        Args:
            cids: their CIDs.
            place: where they are in the file, among others.
            blocks: how many blocks that place has in all.
        """
        if place != self._place:
            self.pack()
            self._place = place
            self._blocks_there = blocks
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
        self._pack_contents()
        self._pack_place()
        self._placed = []
        self._sought, self._sought_of = set(), 0
        self._waiting_size = 0

    def _pack_contents(self) -> None:
        if self._blocks[0] or self._results[0]:
            self._pack_blocks(*self._blocks, _BLOCKS)
            self._pack_results(*self._results)
            self._blocks, self._results = ([], []), ([], [], [])
            self._waiting_size = _WAITING_COST * len(self._placed)

    def _pack_place(self) -> None:
        cids, place = self._placed, self._place
        if cids and len(cids) == self._blocks_there:
            self._pieces.extend(place)
        elif cids:
            self._keep(Segment(_tails(b"".join(cids)), dagcbor.dump_value([*place]), _PLACE))

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
        """Say how many segments there are, and pieces that were let go of as a whole."""
        self.pack()
        return len(self._segments) + len(self._pieces) // 2

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

    def fits(self, most: float) -> bool:
        """Say whether it costs no more than this, once what waits is packed, where it is more."""
        if self.size > most:
            self.pack()
        return self.size <= most

    def lose_oldest(self) -> None:
        """Give up the blocks of the oldest segment."""
        self.lost += len(self._segments[0].each_cid)
        self.drop(1)

    @property
    def pieces(self) -> Iterator[tuple[int, int]]:
        """The places of pieces that were let go of as a whole, the latest first."""
        return zip(self._pieces[-2::-2], self._pieces[::-2], strict=True)

    def first(self) -> Segment:
        """Give what goes elsewhere first: a whole piece, as a place without CIDs, or a segment."""
        for place in self.pieces:
            return Segment(b"", dagcbor.dump_value([*place]), _PLACE)
        return self._segments[0]

    def drop_first(self) -> None:
        """Forget that, which is somewhere else by now."""
        if self._pieces:
            del self._pieces[-2:]
        else:
            self.drop(1)

    def find(self, cid: bytes) -> Iterator[Found[T]]:
        """Look for a block that was let go of and is in memory: the latest first, as most are."""
        self._pack_contents()
        self._sought.update(self._placed[self._sought_of :])
        self._sought_of = len(self._placed)
        if cid in self._sought:
            yield Found(None, None, place=self._place)
        yield from self.find_in(reversed(self._segments), cid)

    def find_in(self, segments: Iterable[Segment], cid: bytes) -> Iterator[Found[T]]:
        """Look for a block in some segments. One that is in the file may turn out to be another."""
        for segment in segments:
            self.searched += len(segment.cids)
            width = segment.width
            at = segment.cids.find(cid[-width:])
            while at >= 0 and at % width:
                at = segment.cids.find(cid[-width:], at + 1)
            if at < 0:
                continue
            self.searched += len(segment.contents)
            if (place := segment.place) is not None:
                yield Found(None, None, place=place)
                continue
            item = dagcbor.load_value(segment.contents)[at // width]
            yield self._loaded(item) if segment.processed else Found(item, None, segment.used)

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
