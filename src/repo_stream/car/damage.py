"""What is damaged in a CAR: a list for people, and what is needed to go past it and to repair it.

A log of sections is read by offsets, so the bytes that are not sound are listed (`skips`).

**Repairs.** Every block is known by its hash, so whatever has the right hash is right, however it
was found. The bytes of a damaged section are kept, if they are few, and three things are tried:

- a damaged length: all bytes up to the next sound section have the hash in the section's CID;
- a damaged CID: the data has a hash that the tree asks for;
- one damaged byte of data: each byte is replaced by all others until the hash is right. For a block
  of 250 bytes these are 60,000 hashes, 50 ms. This is done only for blocks that the tree asks for,
  and only until so many bytes have been hashed.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Generator, Sequence
from hashlib import sha256
from types import FrameType
from typing import Final, NamedTuple, cast

from repo_stream.errors import BadSectionCid, RepoStreamError
from repo_stream.ipld.cid import ORDINARY_LENGTH, Cid, ordinary

__all__ = ["Damage", "DamageLog", "Skip", "forget_traces"]


# Damage to list. In a hostile file there may be some in every 40 bytes.
_LISTED: Final = 1000
# How much memory the damaged sections may take that are kept to be repaired, in bytes, and what
# each of them takes beside its data.
_KEPT: Final = 512 * 1024
_KEPT_COST: Final = 500
# The most bytes of a block whose bytes are replaced one by one.
_LONGEST_REPAIRED: Final = 4096
# How many bytes are hashed to repair the blocks of one file, which takes about five seconds: enough
# for one block of the greatest length.
_MOST_HASHED: Final = 5 << 29
# What it costs to begin a hash, in bytes hashed.
_HASH_COST: Final = 300


class Damage(NamedTuple):
    """A damaged place that was gone past, with gaps or with `on_error`.

    Attributes:
        offset: where in the CAR its section starts, in bytes; `None` for a node that breaks a rule,
            and for a record whose hash cannot be checked, as the file is not to blame.
        cid: the CID of the block, as far as it is known. It may itself be what is damaged.
        error: what would have been raised.
        repaired: whether its content was found again, with the right hash. If not, nothing need be
            lost, either: the CAR may have the block twice, or the tree may not name it.
    """

    offset: int | None
    cid: Cid | None
    error: RepoStreamError
    repaired: bool


class Skip(NamedTuple):
    """Bytes among blocks that were read, which are none of them.

    Attributes:
        before: how many of the blocks come before them.
        size: how many bytes they are.
    """

    before: int
    size: int


class _Kept(NamedTuple):
    """The data of a block that is damaged, or has an odd CID.

    Attributes:
        data: the data.
        number: the number of its damage; `None` if it has none so far.
        offset: where its section starts.
        cid: its odd CID.
        tried: how many of its bytes were replaced in vain.
    """

    data: bytes
    number: int | None
    offset: int = 0
    cid: Cid | None = None
    tried: int = 0


class DamageLog:
    """The damage that was found in one CAR.

    Args:
        everything: whether anything damaged is gone past, and not only single blocks.

    Attributes:
        count: how much damage was found.
        repaired: how much of that was repaired.
        skips: the bytes of the CAR that are not sound: the start and the end of each run of them.
        skipped: those that were skipped since `take_skipped`.
    """

    def __init__(self, *, everything: bool = True) -> None:
        self.everything: bool = everything
        self.count: int = 0
        self.repaired: int = 0
        self.skips: array[int] = array("Q")
        self.skipped: list[Skip] = []
        self._listed: list[Damage] = []
        self._errors: dict[bytes, RepoStreamError] = {}
        # Data by its own hash, and data that does not have the hash in its CID.
        self._whole: dict[bytes, _Kept] = {}
        self._broken: dict[bytes, _Kept] = {}
        self._kept = 0
        self._hashed = 0
        # The numbers of the damage that was repaired.
        self._noted: set[int] = set()

    @property
    def has_bad_header(self) -> bool:
        """Whether the header of the CAR is damaged."""
        return bool(self._listed) and self._listed[0].offset == 0

    @property
    def listed(self) -> Sequence[Damage]:
        """The first 1,000 of them."""
        return tuple(self._listed)

    @property
    def has_unlisted(self) -> bool:
        """Whether there is more damage than is listed."""
        return self.count > _LISTED

    def add(
        self,
        offset: int | None,
        cid: Cid | None,
        error: RepoStreamError,
        *,
        repaired: bool = False,
    ) -> int:
        """Add damage; return its number."""
        number = self.count
        self.count += 1
        if number < _LISTED:
            forget_traces(error)
            self._listed.append(Damage(offset, cid, error, repaired))
            if cid is not None:
                self._errors.setdefault(bytes(cid), error)
        self.repaired += repaired
        return number

    def _note_repaired(self, kept: _Kept) -> None:
        """Note that nothing is lost by some damage."""
        number = kept.number
        if number is None or number in self._noted:
            return
        self._noted.add(number)
        self.repaired += 1
        if number < _LISTED:
            self._listed[number] = self._listed[number]._replace(repaired=True)

    def error_of(self, cid: bytes) -> RepoStreamError | None:
        """Return the error of a damaged block, if it is listed."""
        return self._errors.get(cid)

    # --- Skipped bytes --------------------------------------------------------------------------

    def skip(self, start: int, end: int, before: int) -> None:
        """Note that bytes of the CAR were skipped.

        Args:
            start: the offset of the first of them.
            end: the offset of the first byte after them.
            before: how many of the blocks that were read last come before them.
        """
        if start == end:
            return
        self.skipped.append(Skip(before, end - start))
        if self.skips and self.skips[-1] == start:
            self.skips[-1] = end
        else:
            self.skips.extend((start, end))

    def take_skipped(self) -> list[Skip]:
        """Return what was skipped among the blocks that were read last."""
        skipped, self.skipped = self.skipped, []
        return skipped

    # --- Repairs --------------------------------------------------------------------------------

    def keep(self, cid: bytes | None, data: bytes, number: int) -> None:
        """Keep the data of a damaged block, to be repaired if the tree asks for it.

        Args:
            cid: the CID in its section; `None` if that is no CID.
            data: its data.
            number: the number of its damage.
        """
        if not self._has_room_for(data):
            return
        right = ordinary(data)
        kept = _Kept(data, number)
        self._whole.setdefault(right, kept)
        if cid == right:
            self._note_repaired(kept)
        elif cid is not None and len(data) <= _LONGEST_REPAIRED:
            self._broken[cid] = kept

    def keep_odd(self, offset: int, cid: Cid, data: bytes) -> None:
        """Keep a block whose CID is not an ordinary one: one damaged byte can have made it so.

        Args:
            offset: where its section starts.
            cid: the CID.
            data: its data.
        """
        data = (cid + data)[ORDINARY_LENGTH:]  # the CID may be too long by that byte
        if self._has_room_for(data):
            self._whole.setdefault(ordinary(data), _Kept(data, None, offset, cid))

    def _has_room_for(self, data: bytes) -> bool:
        cost = len(data) + _KEPT_COST
        if self._kept + cost > _KEPT:
            return False
        self._kept += cost
        return True

    def rescue(self, cid: bytes) -> Generator[bytes | None]:
        """Look for the data of a block among what was damaged.

        If it is closed before the end, the next one goes on from there.

        Yields:
            `None` every now and then, and at last the data if it was found.
        """
        kept = self._whole.get(cid)
        if kept is not None:
            if kept.number is None:
                error = BadSectionCid(
                    f"a section has the CID {kept.cid}, and the repo has its block as {Cid(cid)}",
                    offset=kept.offset,
                )
                number = self.add(kept.offset, kept.cid, error)
                self._whole[cid] = kept = kept._replace(number=number)
            self._note_repaired(kept)
            yield kept.data
            return
        kept = self._broken.get(cid)
        if kept is None:
            return
        left = len(kept.data) - kept.tried
        cost = left * 255 * (left // 2 + _HASH_COST)
        if self._hashed + cost > _MOST_HASHED:
            return
        yield from self._with_one_byte_replaced(cid, kept)
        del self._broken[cid]

    def _with_one_byte_replaced(self, cid: bytes, kept: _Kept) -> Generator[bytes | None]:
        data, digest = kept.data, cid[4:]
        start = sha256(data[: kept.tried])
        for at in range(kept.tried, len(data)):
            rest = data[at + 1 :]
            self._hashed += 255 * (len(rest) + _HASH_COST)
            for byte in range(256):
                hashed = start.copy()
                hashed.update(bytes((byte,)) + rest)
                if hashed.digest() == digest:
                    self._note_repaired(kept)
                    right = data[:at] + bytes((byte,)) + rest
                    self._whole[cid] = _Kept(right, kept.number)
                    yield right
                    return
            start.update(data[at : at + 1])
            self._broken[cid] = kept._replace(tried=at + 1)
            yield None


def forget_traces(error: BaseException) -> None:
    """Drop the tracebacks of an error, and of all errors behind it.

    They would keep the blocks of that moment in memory, and whatever else a processor had then. An
    error that the program is handling at this moment keeps its own, as it may be raised again.
    """
    running = _running()
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()  # errors can refer to each other in a circle
    while waiting:
        raised = waiting.pop()
        if raised is None or id(raised) in seen:
            continue
        seen.add(id(raised))
        trace = raised.__traceback__
        if raised is not error and trace is not None and trace.tb_frame in running:
            continue
        raised.__traceback__ = None
        waiting += (raised.__cause__, raised.__context__)
        if isinstance(raised, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", raised).exceptions


def _running() -> set[FrameType]:
    """Return the frames that are running, but for this one and that of its caller.

    With the caller's, which has this set, it would be in a circle.
    """
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # no other name
    running: set[FrameType] = set()
    while frame is not None:
        running.add(frame)
        frame = frame.f_back
    return running
