"""Decode a CARv1 without doing input or output: pieces of any size go in, blocks come out.

A CAR is a header and then sections, each with its length before it as a varint
(https://ipld.io/specs/transport/car/carv1/):

    varint | header           varint | CID | data      varint | CID | data      ...

**What is kept.** `CarDecoder` returns all blocks that a piece completes, and keeps the unfinished
section at its end. The length of a section is checked against the limits before the section is
waited for, so a length that is merely claimed costs no memory. From then on it is known how many
bytes are needed (`_needed`), and pieces are only collected until there are as many: a file that
comes in byte by byte takes time linear in its size.

**Fast and general.** Nearly all sections are cut by `cut_ordinary`, in one loop for the whole
piece. It stops before anything unusual, such as a section at the end of the piece or a CID of
another kind. `_take_section` takes that one section, or raises the error that says what is wrong
with it, and the loop goes on.

**Errors are sticky.** Blocks before an error are returned first, and every further call raises the
error. So the same blocks and the same error come out whatever the size of the pieces.

A file that is not a CAR at all is described by `file_type`.

**Damage.** With `past_damage`, what is wrong does not end the file. `_take_past_damage` then does
the work of `_take_sections`: what is wrong begins a `Region`, and the next section that is sound
ends it; see `salvage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Literal

from repo_stream._compiled import COMPILED
from repo_stream.arguments import check_flag
from repo_stream.car.damage import Damage, DamageLog
from repo_stream.car.encoder import section_size
from repo_stream.car.file_type import (
    IF_BINARY,
    START_BYTES,
    begins_header,
    has_header,
    is_known,
    is_text,
    not_a_car,
    trailing_data,
)
from repo_stream.car.header import USUAL_HEADER, CarHeader, parse_header
from repo_stream.car.salvage import MOST_KEPT, Effort, Region, list_damaged
from repo_stream.errors import (
    BadCarHeader,
    BadSectionCid,
    BadVarint,
    CarError,
    CarTrailingData,
    CidMismatch,
    EmptySection,
    InvalidCid,
    LimitExceeded,
    RepoStreamError,
    TruncatedCar,
)
from repo_stream.ipld.cid import (
    ORDINARY_LENGTH,
    ORDINARY_PREFIX,
    Cid,
    can_verify,
    read_cid,
    verify,
)
from repo_stream.ipld.digest import agreeing
from repo_stream.limits import DEFAULT_LIMITS, Limits, check_limits

__all__ = [
    "ORDINARY_SECTION",
    "Block",
    "CarDecoder",
    "Columns",
    "cut_ordinary",
    "read_length",
]


#: A block: its raw CID and its bytes.
Block = tuple[bytes, bytes]
#: Blocks in columns, of the same length: their raw CIDs, and their bytes.
Columns = tuple[list[bytes], list[bytes]]

#: How many bytes the section of a block with an ordinary CID has at least.
ORDINARY_SECTION: Final = 1 + ORDINARY_LENGTH

_MAX_VARINT_BYTES = 9
# How many sections to cut first after something damaged.
_FEW: Final = 16
# The first bytes of a header that tell whether it can be one: the heads of its map and first key.
_HEADER_HEAD = 8


class CarDecoder:
    """Decode a CARv1 that arrives in pieces.

    Errors are sticky: blocks that were complete before an error are returned first, and every
    further call raises the error.

    Args:
        limits: bounds on the header, on a block, on the file and on the number of blocks.
        verify_cids: check every block against its CID. A block whose CID has a hash function that
            is not known here is returned unchecked, and counted in `unchecked`.
        past_damage: leave out what is damaged and go on after it; see `damage`. The blocks after it
            are found by their hashes. If the header is damaged, it has no roots; if there is no
            sound block at all, its error is raised. With `"blocks"`, only blocks that do not match
            their CIDs are left out, and any other error is raised.

    Attributes:
        found_at_end: with `past_damage`, the blocks that `finish` has found, as `feed_columns`
            returns them.

    Example:
        >>> from repo_stream.testing import build_car
        >>> decoder = CarDecoder()
        >>> blocks = decoder.feed(build_car({"app.bsky.feed.post/3k2": {"text": "hi"}}))
        >>> decoder.finish()
        >>> len(blocks), len(decoder.header.roots)
        (3, 1)
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        verify_cids: bool = True,
        past_damage: bool | Literal["blocks"] = False,
    ) -> None:
        self.found_at_end: Columns = [], []
        check_flag("verify_cids", verify_cids)
        check_flag("past_damage", past_damage, third="blocks")
        if limits is not None:
            check_limits(limits)
        self._limits = limits if limits is not None else DEFAULT_LIMITS
        self._verify_cids = verify_cids
        self._past_damage = past_damage
        self._effort = Effort()
        # The damaged bytes that end where the next sound section will be found.
        self._region: Region | None = None
        # The last section whose CID is not an ordinary one, and the offset where it ends.
        self._odd = b""
        self._odd_end = 0
        self._waiting = bytearray()
        self._needed = 1
        self._offset = 0
        self._fed = 0
        self._blocks = 0
        self._unchecked = 0
        self._has_short_sections = False
        self._header: CarHeader | None = None
        self._header_end = 0
        self._finished = False
        self._error: RepoStreamError | None = None

    @property
    def header(self) -> CarHeader | None:
        """The header, once it has arrived."""
        return self._header

    @property
    def offset(self) -> int:
        """How many bytes have been decoded; the next section starts there."""
        return self._offset

    @property
    def blocks(self) -> int:
        """How many blocks have been decoded."""
        return self._blocks

    @property
    def unchecked(self) -> int:
        """How many of them could not be checked against their CIDs, although that was asked for."""
        return self._unchecked

    @property
    def has_short_sections(self) -> bool:
        """Whether any section so far is shorter than that of an ordinary CID can be."""
        return self._has_short_sections

    @property
    def header_end(self) -> int:
        """The offset at which the header ends and the first section starts; 0 until it arrives."""
        return self._header_end

    @property
    def damage(self) -> Sequence[Damage]:
        """What is damaged so far, if `past_damage`: the first 1,000."""
        return self._damages.listed

    @property
    def damage_count(self) -> int:
        """How much is damaged so far."""
        return self._damages.count

    @property
    def damages(self) -> DamageLog:
        """What is damaged, and what is needed to repair it and to find blocks behind it."""
        return self._damages

    @cached_property
    def _damages(self) -> DamageLog:
        return DamageLog(everything=self._past_damage is True)

    @property
    def verifies_cids(self) -> bool:
        """Whether blocks are checked against their CIDs."""
        return self._verify_cids

    @property
    def longest_section(self) -> int:
        """The most bytes that a section may have, without its length prefix."""
        return self._limits.block_bytes

    @property
    def waiting(self) -> bytes:
        """The beginning of the next section, as far as it has arrived."""
        return bytes(self._waiting)

    def feed(self, piece: bytes | bytearray | memoryview) -> list[Block]:
        """Feed the next piece of the file; return the blocks that it completes, in order.

        Args:
            piece: any number of bytes, even none.

        Raises:
            CarError: if the bytes are not a CARv1; see its leaves.
            CidMismatch: if the hash of a block is not the one in its CID.
            LimitExceeded: if a length, the file or the number of blocks is over its limit.
        """
        cids, blocks = self.feed_columns(piece)
        return list(zip(cids, blocks, strict=True)) if cids else []

    def feed_columns(self, piece: bytes | bytearray | memoryview) -> Columns:
        """Do what `feed` does; return the CIDs in one list and the bytes in another."""
        if self._error is not None:
            raise self._error
        if type(piece) is not bytes:
            view = memoryview(piece)
            plain = view.c_contiguous and view.ndim == view.itemsize == 1
            piece = view if plain else bytes(view)
        if not piece:
            return [], []
        if self._finished:
            self._fail(CarTrailingData("feed() was called after finish()", offset=self._offset))
        limit = self._limits.car_bytes
        before = self._fed
        self._fed += len(piece)
        if limit is None or self._fed <= limit:
            return self._take(piece)
        error = LimitExceeded(
            limit="car_bytes", maximum=limit, actual=limit + 1, where="the CAR as a whole"
        )
        # Blocks within the limit come first, whatever the size of the pieces.
        return self._fail(error, self._take(piece[: limit - before]))

    def _take(self, piece: bytes | memoryview) -> Columns:
        """Decode all that the piece completes, and keep the rest."""
        cut: Columns = [], []
        if len(self._waiting) + len(piece) < self._needed:
            self._waiting += piece
            return cut
        # A copy, as blocks are cut out of it: they have to be `bytes`, and stay the same when the
        # caller's buffer changes.
        buffer = b"".join((self._waiting, piece)) if self._waiting else bytes(piece)
        start = self._offset
        try:
            if self._past_damage:
                self._take_past_damage(buffer, cut)
            else:
                if self._header is None:
                    self._take_header(buffer)
                if self._header is not None:
                    self._take_sections(buffer, self._offset - start, cut)
        except RepoStreamError as error:
            return self._fail(error, cut)
        self._waiting = bytearray(buffer[self._offset - start :])
        return cut

    def finish(self) -> None:
        """Tell the decoder that the file has ended. To call it again does nothing.

        Raises:
            TruncatedCar: if it does not end between two sections.
            CarTrailingData: if what follows the last section is not the beginning of one.
            RepoStreamError: if an earlier call raised an error; it is raised again.
        """
        if self._error is not None:
            raise self._error
        if self._finished:
            return
        waiting = bytes(self._waiting)
        try:
            if self._past_damage:
                found: Columns = [], []
                self._take_past_damage(waiting, found, ended=True)
                self.found_at_end = found
            elif self._header is None:
                self._take_header(waiting, ended=True)
            elif waiting:
                self._take_section(waiting, 0, self._offset, ([], []), ended=True)
        except RepoStreamError as error:
            self._fail(error)
        self._finished = True

    def _fail(self, error: RepoStreamError, cut: Columns | None = None) -> Columns:
        """Remember the first error; raise it now, or after the blocks that came before it."""
        if self._error is None:
            self._error = error
        self._waiting.clear()
        if cut is None or not cut[0]:
            raise self._error
        return cut

    def _take_header(self, buffer: bytes, *, ended: bool = False) -> None:
        """Decode the header if all of it is there; if the file has `ended`, it has to be."""
        if is_known(buffer):
            self._refuse(buffer, ended=ended)
            return
        try:
            length, start = read_length(buffer, 0, 0)
        except BadVarint:
            if not is_text(buffer[:START_BYTES]):
                message = f"the length of the CAR header is not valid; {IF_BINARY}"
                raise BadVarint(message, offset=0) from None
            self._refuse(buffer, ended=ended)
            return
        if start < 0:
            self._wait(len(buffer) + 1, buffer, ended=ended)
            return
        if length == 0:
            raise BadCarHeader("it has length zero")
        if start == len(buffer) and not ended:
            self._needed = start + 1
            return
        head = buffer[start : start + _HEADER_HEAD]
        limit = self._limits.header_bytes
        if not begins_header(head[:1]):
            self._refuse(buffer, ended=ended)
        elif length > limit:
            # Only now: the first bytes of any other file claim a length, too.
            is_header = begins_header(head)
            if is_header and len(head) == _HEADER_HEAD:
                raise LimitExceeded(
                    limit="header_bytes", maximum=limit, actual=length, where="the CAR header"
                )
            if is_header and not ended:
                self._needed = start + _HEADER_HEAD
            else:
                self._refuse(buffer, ended=ended)
        elif start + length > len(buffer):
            if ended and not begins_header(head):
                self._refuse(buffer, ended=ended)
            self._wait(start + length, buffer, ended=ended)
        else:
            self._decode_header(buffer, start, start + length, ended=ended)

    def _decode_header(self, buffer: bytes, start: int, end: int, *, ended: bool) -> None:
        try:
            self._header = parse_header(buffer[start:end])
        except BadCarHeader:
            if has_header(buffer[start:end]):
                raise
            self._refuse(buffer, ended=ended)
            return
        self._offset = self._header_end = end
        self._needed = 1

    def _wait(self, needed: int, buffer: bytes, *, ended: bool) -> None:
        """Wait until so many bytes of the header are there.

        Raises:
            TruncatedCar: if no more come.
        """
        self._needed = needed
        if ended:
            raise cut_off(buffer, 0, 0)

    def _refuse(self, buffer: bytes, *, ended: bool) -> None:
        """Raise the error that describes a file that is not a CAR, once enough of it is there.

        So the error is the same whatever the size of the pieces.
        """
        self._needed = START_BYTES
        if len(buffer) >= START_BYTES or ended:
            raise not_a_car(buffer[:START_BYTES])

    def _take_sections(self, buffer: bytes, at: int, cut: Columns) -> None:
        """Cut `buffer` into blocks from index `at` on, up to the section that is not all there."""
        base = self._offset - at
        limits = self._limits
        cids, blocks = cut
        # No section is longer than the buffer, and there are no more of them than it has bytes.
        size = len(buffer)
        longest = min(limits.block_bytes, size)
        most = size if limits.blocks is None else min(limits.blocks - self._blocks, size)
        self._needed = 1
        try:
            while True:
                at = cut_ordinary(
                    buffer, at, cids, blocks, most=most, longest=longest, verify=self._verify_cids
                )
                if at == size:
                    break
                end = self._take_section(buffer, at, base + at, cut)
                if end < 0:
                    break
                at = end
        finally:
            self._offset = base + at
            self._blocks += len(blocks)

    @property
    def fed(self) -> int:
        """How many bytes have been fed."""
        return self._fed

    def goes_past(self, error: CarError) -> bool:
        """Note an error of the source as the end of the file, if damage is gone past.

        Returns:
            Whether it is gone past.
        """
        if self._past_damage is not True:
            return False
        self._damages.add(self._fed, None, error)
        return True

    # --- Past damage ----------------------------------------------------------------------------

    def _take_past_damage(self, buffer: bytes, cut: Columns, *, ended: bool = False) -> None:
        """Do what `_take_header` and `_take_sections` do, and go past what is damaged.

        Args:
            buffer: the bytes from `offset` on.
            cut: the blocks are added to it.
            ended: whether the file ends with the buffer.
        """
        base = self._offset
        try:
            if self._header is None and self._region is None:
                try:
                    self._take_header(buffer, ended=ended)
                except (CarError, LimitExceeded) as error:
                    if self._past_damage == "blocks":
                        raise
                    self._region = Region(0, error)
            while self._region is not None or self._header is not None:
                if self._region is None:
                    more = self._take_sound(buffer, base, cut, ended=ended)
                else:
                    more = self._leave_region(buffer, base, cut, self._region, ended=ended)
                if not more:
                    break
        finally:
            self._blocks += len(cut[1])
        if ended and self._header is None and self._region is not None:
            raise self._region.error

    def _take_sound(self, buffer: bytes, base: int, cut: Columns, *, ended: bool) -> bool:
        """Take sections up to the first that is damaged; return whether there is one."""
        cids, blocks = cut
        size = len(buffer)
        longest = min(self._limits.block_bytes, size)
        most = (
            size if self._limits.blocks is None else min(self._limits.blocks - self._blocks, size)
        )
        at = self._offset - base
        # A few at first, as all that are cut are hashed before the first wrong one is found.
        batch = _FEW
        self._needed = 1
        while at < size:
            stop = min(most, len(blocks) + batch)
            at = cut_ordinary(
                buffer, at, cids, blocks, most=stop, longest=longest, verify=self._verify_cids
            )
            self._offset = base + at
            if at == size:
                break
            if len(blocks) == stop < most:
                batch *= 2
                continue
            try:
                end = self._take_section(buffer, at, base + at, cut, ended=ended)
            except (CarError, LimitExceeded) as error:
                self._go_past(error, buffer, base, len(blocks))
                return True
            if end < 0:
                break
            if self._past_damage is True and not Cid(cids[-1]).is_ordinary:
                self._damages.keep_odd(base + at, Cid(cids[-1]), blocks[-1])
                self._odd_end, self._odd = base + end, buffer[at:end]
            at = end
            self._offset = base + at
        return False

    def _go_past(
        self, error: CarError | LimitExceeded, buffer: bytes, base: int, before: int
    ) -> None:
        """Begin a damaged region with the next section, or leave out that block alone."""
        if isinstance(error, LimitExceeded) and error.limit != "block_bytes":
            raise error
        start = self._offset
        length = body = 0
        if isinstance(error, CidMismatch):
            length, body = read_length(buffer, start - base, start)
        self._effort.regions += 1
        self._effort.spend(length, start)
        if self._past_damage is True:
            self._region = Region(start, error)
        elif isinstance(error, CidMismatch) and not self._effort.is_too_much:
            self._damages.add(start, error.cid, error)
            self._offset = base + body + length
            self._damages.skip(start, self._offset, before)
        else:
            raise error

    def _leave_region(
        self, buffer: bytes, base: int, cut: Columns, region: Region, *, ended: bool
    ) -> bool:
        """Go on to the sound section that ends a damaged region; return whether there is one."""
        effort = self._effort
        found = -1
        if not effort.is_too_much:
            found = region.find_sound(
                buffer, base, effort, longest=self._limits.block_bytes, at_end=ended
            )
        given_up = effort.is_too_much
        before = len(cut[1])
        size = len(buffer)
        if found < 0 and not ended:
            kept_from = base + size if given_up else region.kept_from
            if given_up or base + size - region.start > MOST_KEPT:
                region.is_whole = False
                self._skip_to(kept_from, before)
            kept = base + size - self._offset
            # Half as much again, so that pieces of any size take linear time.
            self._needed = max(region.needed - self._offset, kept + kept // 2, kept + 1)
            return False
        end = base + size if found < 0 else found
        whole = buffer[region.start - base : end - base] if region.is_whole else None
        if self._header is None and found < 0:
            return False
        if region.start == 0:
            # The commit is found without a header, but sections may be lost with it.
            header_alone = USUAL_HEADER - 1 <= found < USUAL_HEADER + ORDINARY_SECTION
            self._damages.add(0, None, region.error, repaired=header_alone)
            self._header = CarHeader(roots=())
            self._offset = self._header_end = found
        else:
            start = region.start
            if whole is not None and start == self._odd_end:
                # It may not have been a section: only a block that is checked shows where it ends.
                whole = self._odd + whole
                start -= len(self._odd)
            list_damaged(self._damages, whole, start, region.error)
            self._skip_to(end, before)
        self._region = None
        return found >= 0

    def _skip_to(self, offset: int, before: int) -> None:
        """Leave out everything up to an offset."""
        if self._header is not None:
            self._damages.skip(self._offset, offset, before)
        self._offset = offset

    def _take_section(
        self, buffer: bytes, at: int, offset: int, cut: Columns, *, ended: bool = False
    ) -> int:
        """Take one section of any kind; return the index after it, or -1 if it is cut off.

        Raises:
            CarTrailingData: if there is text in its place, or something else until the file ends.
            TruncatedCar: if the file has `ended` in it.
        """
        try:
            end = self._cut_section(buffer, at, offset, cut)
        except RepoStreamError:
            start = buffer[at : at + START_BYTES]
            # No section is text: a length, or the first byte of a CID, is not.
            if not is_text(start):
                raise
            if len(start) < START_BYTES and not ended:
                self._needed = START_BYTES
                return -1
            raise trailing_data(start, offset) from None
        if end < 0 and ended:
            if begins_section(buffer[at:]):
                raise cut_off(buffer, at, offset)
            raise trailing_data(buffer[at : at + START_BYTES], offset)
        return end

    def _cut_section(self, buffer: bytes, at: int, offset: int, cut: Columns) -> int:
        size = len(buffer)
        length, start = read_length(buffer, at, offset)
        if start < 0:
            self._needed = size - at + 1
            return -1
        if length > self._limits.block_bytes:
            raise LimitExceeded(
                limit="block_bytes",
                maximum=self._limits.block_bytes,
                actual=length,
                where=f"the section at byte {offset}",
            )
        end = start + length
        if end > size:
            self._needed = end - at
            return -1
        cid, data = self._split_section(buffer, offset, start, end)
        cids, blocks = cut
        max_blocks = self._limits.blocks
        known = self._blocks + len(blocks)
        if max_blocks is not None and known >= max_blocks:
            raise LimitExceeded(
                limit="blocks", maximum=max_blocks, actual=known + 1, where="the number of blocks"
            )
        cids.append(cid)
        blocks.append(data)
        return end

    def _split_section(self, buffer: bytes, offset: int, start: int, end: int) -> Block:
        """Split a section into its CID, of any kind, and its data; check the data."""
        if start == end:
            raise EmptySection(offset=offset)
        if end - start < ORDINARY_LENGTH:
            self._has_short_sections = True
        try:
            body = read_cid(buffer, start, end)
        except InvalidCid as error:
            message = f"a section does not start with a CID: {error}"
            raise BadSectionCid(message, offset=offset) from error
        cid = Cid(buffer[start:body])
        data = buffer[body:end]
        if self._verify_cids:
            if not can_verify(cid):
                self._unchecked += 1
            elif not verify(cid, data):
                raise CidMismatch(cid=cid, offset=offset)
        return bytes(cid), data


def cut_ordinary(
    buffer: bytes,
    at: int,
    cids: list[bytes],
    blocks: list[bytes],
    *,
    most: int,
    longest: int,
    verify: bool,
) -> int:
    """Cut sections out of a buffer, one after the other, up to the first that is not ordinary.

    Ordinary sections have a length of one or two bytes, and an ordinary CID that matches the data.
    What is wrong with others is not decided here: `CarDecoder` takes these one by one.

    The loop is plain because every block of every repo goes through it, and slicing bytes is
    quicker than memoryview and struct. All blocks are verified at once, which takes 0.9 of the time
    of verifying each as it is cut (0.6 us a block of 300 bytes, 0.4 of them hashing).

    Args:
        buffer: the bytes that hold the sections.
        at: the index of the first section.
        cids: the CIDs are added to it.
        blocks: the data is added to it.
        most: how many blocks there may be in `blocks`.
        longest: the most bytes that a section may have, its length prefix apart.
        verify: check the data against the CIDs.

    Returns:
        The index after the last section that was cut.
    """
    size = len(buffer)
    prefix = ORDINARY_PREFIX
    known = len(cids)
    first = at
    while at + 1 < size and len(cids) < most:
        length = buffer[at]
        start = at + 1
        if length >= 0x80:
            second = buffer[start]
            if not 0 < second < 0x80:
                break
            length += (second << 7) - 0x80
            start += 1
        body = start + ORDINARY_LENGTH
        end = start + length
        if length > longest or end > size or body > end:
            break
        cid = buffer[start:body]
        # Without this check, a file of other CIDs would have all that follows hashed for each.
        if cid[:4] != prefix:
            break
        cids.append(cid)
        blocks.append(buffer[body:end])
        at = end
    if verify and at > first:
        right = known + agreeing(cids[known:], blocks[known:])
        if right < len(cids):
            del cids[right:], blocks[right:]
            at = first + sum(map(section_size, cids[known:], blocks[known:]))
    return at


def cut_off(buffer: bytes, at: int, offset: int) -> TruncatedCar:
    """Return the error for a header or a section that the end of the file cuts off.

    Args:
        buffer: the bytes that end with the file.
        at: the index where it starts.
        offset: the offset of that byte in the file.
    """
    length, start = read_length(buffer, at, offset)
    need = start - at + length if start >= 0 else None
    return TruncatedCar(offset=offset, have=len(buffer) - at, need=need)


def begins_section(data: bytes) -> bool:
    """Return whether bytes can be the beginning of a section, of which the end is cut off."""
    _length, start = read_length(data, 0, 0)
    body = data[start:] if start >= 0 else b""
    if body:
        return body[0] == 1 or b"\x12\x20".startswith(body[:2])
    # A length alone. One character may be one, but not a line ending, which files often end with.
    return not is_text(data) or not data.isspace()


def read_length(buffer: bytes, at: int, offset: int) -> tuple[int, int]:
    """Read a length prefix, a varint.

    Args:
        buffer: the bytes that hold it.
        at: the index of its first byte.
        offset: the offset of that byte in the file, for errors.

    Returns:
        Its value, and the index after it, which is -1 if it is cut off.

    Raises:
        BadVarint: if it is not a minimal varint of at most nine bytes.
    """
    value = 0
    for count, byte in enumerate(buffer[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count > 0:
                raise BadVarint("a length prefix is not minimal", offset=offset)
            return value, at + count + 1
    if len(buffer) - at >= _MAX_VARINT_BYTES:
        raise BadVarint("a length prefix has more than nine bytes", offset=offset)
    return 0, -1


if COMPILED:
    from repo_stream.car._decoder import cut_ordinary
