"""Read the blocks of a CAR from any source: `CarDecoder`, fed with the pieces of the source."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Literal, Protocol, Self, cast

from repo_stream.arguments import check_flag, check_whole
from repo_stream.car.damage import Damage, DamageLog
from repo_stream.car.decoder import Block, CarDecoder, Columns
from repo_stream.car.header import CarHeader
from repo_stream.car.source import CarFile, Pieces, Source, open_pieces
from repo_stream.errors import AlreadyWalked, BadCompression, RepoStreamError
from repo_stream.ipld.cid import Cid
from repo_stream.limits import MIB, Limits
from repo_stream.turn import Turn

__all__ = ["PIECE_SIZE", "BlockReader", "CarReader", "checksum_of"]


#: How much is read at a time, in bytes. So much stays in the processor's cache until its blocks are
#: cut and checked: compiled, pieces of 1 MiB take 1.3 times as long, and those of 64 KiB 1.1.
PIECE_SIZE: Final = MIB // 4
# Pieces that are copied are joined until they have so many bytes, as many small ones cost more.
_LEAST_COPIED: Final = MIB // 64


def checksum_of(cids: Iterable[bytes], before: int = 0) -> int:
    """Return a checksum of CIDs.

    It does not depend on how the blocks were read, only on their CIDs and their order.

    Args:
        cids: the CIDs.
        before: the checksum of the CIDs that came before them.
    """
    return crc32(b"".join(cids), before)


class BlockReader(Protocol):
    """What reads the blocks of one repo: a `CarReader`, or something that reads several files."""

    @property
    def header(self) -> CarHeader | None:
        """The header of the file; `None` as long as the commit is not known."""
        ...

    @property
    def header_end(self) -> int:
        """See `CarReader.header_end`."""
        ...

    @property
    def offset(self) -> int:
        """See `CarReader.offset`."""
        ...

    @property
    def blocks(self) -> int:
        """See `CarReader.blocks`."""
        ...

    @property
    def unchecked(self) -> int:
        """See `CarReader.unchecked`."""
        ...

    @property
    def has_short_sections(self) -> bool:
        """See `CarReader.has_short_sections`."""
        ...

    @property
    def file(self) -> CarFile | None:
        """See `CarReader.file`."""
        ...

    @property
    def checksum(self) -> int:
        """See `CarReader.checksum`."""
        ...

    @property
    def verifies_cids(self) -> bool:
        """See `CarReader.verifies_cids`."""
        ...

    @property
    def longest_section(self) -> int:
        """See `CarReader.longest_section`."""
        ...

    async def next_columns(self) -> Columns | None:
        """See `CarReader.next_columns`."""
        ...

    def copy_to(self, pieces: list[bytes], checksum: int) -> None:
        """See `CarReader.copy_to`."""
        ...

    async def aclose(self) -> None:
        """See `CarReader.aclose`."""
        ...


class CarReader:
    """Read the blocks of a CAR in the order of the file, without walking the tree.

    It reads once: a loop that begins after the end raises `AlreadyWalked`, and `next_blocks`
    returns `None` again.

    Example:
        >>> async def count_blocks(path: str) -> int:
        ...     async with await CarReader.open(path) as car:
        ...         return len([cid async for cid, data in car])

    Attributes:
        header: the header of the file.
    """

    def __init__(self, pieces: Pieces, decoder: CarDecoder, header: CarHeader) -> None:
        self._pieces = pieces
        self._decoder = decoder
        # Blocks that have been decoded, and how many of them have been returned.
        self._ready: Columns = [], []
        self._at = 0
        self._ended = False
        # Whether the end has been returned.
        self._over = False
        self._copies: list[bytes] | None = None
        self._checksum = 0
        self._turn = Turn()
        self.header = header

    @classmethod
    async def open(
        cls,
        source: Source,
        *,
        limits: Limits | None = None,
        verify_cids: bool = True,
        piece_size: int = PIECE_SIZE,
        first_piece_size: int | None = None,
        rereadable: bool = False,
        past_damage: bool | Literal["blocks"] = False,
    ) -> CarReader:
        """Open a source and read the header of the CAR.

        Args:
            source: see `Source`. `aclose` closes the file of a path and nothing else.
            limits: bounds on what is read.
            verify_cids: check every block against its CID.
            piece_size: the most to read at a time, in bytes.
            first_piece_size: how much to read at first, in bytes, `piece_size` by default. It is
                doubled each time, up to `piece_size`. A small one helps if only the first blocks
                are needed.
            rereadable: keep a path's file open; see `file`.
            past_damage: leave out what is damaged, and list it in `damage`; see `CarDecoder`.

        Raises:
            CarError: if it is not a CARv1; see its leaves.
            LimitExceeded: if the header is over its limit.
            TypeError: if `source` is not a supported source, or another argument is of the wrong
                type.
            ValueError: if a piece has less than 1 byte.
            OSError: if it is a path that cannot be opened or read.
        """
        check_whole("piece_size", piece_size, least=1)
        if first_piece_size is not None:
            check_whole("first_piece_size", first_piece_size, least=1)
        check_flag("rereadable", rereadable)
        pieces = await open_pieces(
            source, piece_size, first_piece_size=first_piece_size, rereadable=rereadable
        )
        decoder = CarDecoder(limits=limits, verify_cids=verify_cids, past_damage=past_damage)
        ended = False
        ready: Columns = [], []
        turn = Turn()
        try:
            while decoder.header is None:
                await turn.pause_if_over()  # there may be damage without end before it
                piece = await _next_piece(pieces, decoder)
                if not piece:
                    decoder.finish()
                    ended, ready = True, decoder.found_at_end
                    break
                try:
                    ready = decoder.feed_columns(piece)
                except RepoStreamError:
                    # A fault after the header is raised when the sections are read, as it is if it
                    # comes in a later piece.
                    if decoder.header is None:
                        raise
            # If the file has ended without a header, `finish` has raised an error.
            reader = cls(pieces, decoder, cast("CarHeader", decoder.header))
        except BaseException:
            await pieces.aclose()
            raise
        reader._ready, reader._ended = ready, ended
        reader._add_to_checksum(ready[0])
        return reader

    @property
    def offset(self) -> int:
        """How many bytes of the file have been decoded."""
        return self._decoder.offset

    @property
    def blocks(self) -> int:
        """How many blocks of the file have been decoded."""
        return self._decoder.blocks

    @property
    def unchecked(self) -> int:
        """How many of them could not be checked against their CIDs; see `CarDecoder`."""
        return self._decoder.unchecked

    @property
    def has_short_sections(self) -> bool:
        """Whether any section so far is shorter than that of an ordinary CID can be."""
        return self._decoder.has_short_sections

    async def next_blocks(self) -> list[Block] | None:
        """Return the next blocks, as `(raw CID, data)`; `None` at the end.

        At least one block comes, and all that were completed by the piece that was read last.

        Raises:
            CarError: if the file is not a CARv1; every further call raises it again.
            CidMismatch: if the hash of a block is not the one in its CID.
            LimitExceeded: if a block, or the file, is over its limit.
        """
        columns = await self._next_sound()
        return None if columns is None else list(zip(*columns, strict=True))

    async def _next_sound(self) -> Columns | None:
        """Return the next columns that are not empty; `None` at the end."""
        while (columns := await self.next_columns()) is not None:
            self.damages.take_skipped()  # nobody asks for it
            if columns[0]:
                break
            await self._turn.pause_if_over()
        return columns

    async def next_columns(self) -> Columns | None:
        """Do what `next_blocks` does; return the CIDs in one list and the data in another.

        Both are empty if damaged bytes were skipped and no block was completed. Damage may go on
        without end, so the caller has to take what is kept of it, in `damages` and in the list of
        `copy_to`.
        """
        cids, blocks = self._ready
        ready = cids[self._at :], blocks[self._at :]
        self._ready, self._at = ([], []), 0
        start = self.offset
        try:
            while not ready[0] and self.offset == start:
                self._decoder.feed(b"")  # raises an earlier error again, before more is read
                if self._ended:
                    self._over = True
                    return None
                piece = await _next_piece(self._pieces, self._decoder)
                if piece:
                    if self._copies is not None:
                        _append(self._copies, bytes(piece))
                    ready = self._decoder.feed_columns(piece)
                    self._add_to_checksum(ready[0])
                else:
                    self._decoder.finish()
                    self._ended = True
                    self._add_to_checksum(self._decoder.found_at_end[0])
                    # If it is cancelled while the file is closed, the next call returns them.
                    self._ready = self._decoder.found_at_end
                    await self._release()
                    ready, self._ready = self._ready, ([], [])
        except RepoStreamError:
            await self._release()
            raise
        return ready

    def _add_to_checksum(self, cids: list[bytes]) -> None:
        if cids and (self._copies is not None or self.file is not None):
            self._checksum = checksum_of(cids, self._checksum)

    async def _release(self) -> None:
        """Close the file, unless it will be read again."""
        if self.file is None:
            await self._pieces.aclose()

    @property
    def file(self) -> CarFile | None:
        """The file, if it can be read again at any offset: `rereadable`, and a regular file."""
        return self._pieces.file

    @property
    def checksum(self) -> int:
        """The checksum of the CIDs of all blocks that have been decoded; see `checksum_of`.

        It is 0 unless the file can be read again or is copied.
        """
        return self._checksum

    def copy_to(self, pieces: list[bytes], checksum: int) -> None:
        """Copy the file from the next section on into a list, piece by piece, as it is read.

        Args:
            pieces: the list.
            checksum: the checksum of the CIDs that are in the list already; `self.checksum` goes on
                from it.
        """
        self._copies, self._checksum = pieces, checksum
        if waiting := self._decoder.waiting:
            pieces.append(waiting)

    @property
    def damage(self) -> Sequence[Damage]:
        """What is damaged so far, if `past_damage`: the first 1,000."""
        return self._decoder.damage

    @property
    def damage_count(self) -> int:
        """How much is damaged so far."""
        return self._decoder.damage_count

    @property
    def damages(self) -> DamageLog:
        """See `CarDecoder.damages`."""
        return self._decoder.damages

    @property
    def header_end(self) -> int:
        """The offset at which the header ends and the first section starts."""
        return self._decoder.header_end

    @property
    def verifies_cids(self) -> bool:
        """Whether blocks are checked against their CIDs."""
        return self._decoder.verifies_cids

    @property
    def longest_section(self) -> int:
        """The most bytes that a section may have, without its length prefix."""
        return self._decoder.longest_section

    def __aiter__(self) -> Self:
        if self._over:
            raise AlreadyWalked(can_seek=False)
        return self

    async def __anext__(self) -> tuple[Cid, bytes]:
        """Return the next block, as `(CID, data)`."""
        if self._at == len(self._ready[0]):
            columns = await self._next_sound()
            if columns is None:
                raise StopAsyncIteration
            self._ready, self._at = columns, 0
        cids, blocks = self._ready
        at = self._at
        self._at += 1
        return Cid(cids[at]), blocks[at]

    async def aclose(self) -> None:
        """Close the file that was opened for a path; other sources stay open."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _next_piece(pieces: Pieces, decoder: CarDecoder) -> bytes | memoryview:
    """Return the next piece, empty at the end; also if the rest cannot be decompressed.

    Raises:
        BadCompression: if it cannot be decompressed, unless damage is gone past.
    """
    try:
        return await pieces.next()
    except BadCompression as error:
        # If there is nothing at all, that is all there is to say of the file.
        if decoder.fed == 0 or not decoder.goes_past(error):
            raise
        return b""


def _append(pieces: list[bytes], piece: bytes) -> None:
    """Add a piece to a list, or join it to the last one if that is small."""
    if pieces and len(pieces[-1]) < _LEAST_COPIED:
        pieces[-1] += piece
    else:
        pieces.append(piece)
