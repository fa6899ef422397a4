"""Decompress gzip and zstd without doing input or output: for files that are compressed CARs.

Both formats are a row of parts, each on its own: the *members* of gzip
(https://www.rfc-editor.org/rfc/rfc1952) and the *frames* of zstd
(https://www.rfc-editor.org/rfc/rfc8878). Most files have one; files that were joined, or compressed
by several threads, have many.

**Constant memory.** A kilobyte can stand for a megabyte, so `Decompressor` returns no more at a
time than it is asked for, and goes on where it stopped. It keeps a slice of the input at most, and
what the format needs: 32 KiB for gzip, and for zstd the window that the frame demands, which is
limited here.

**Parts that are empty.** A part costs time even if nothing is in it, and no limit on what is
decompressed counts it. Files that are made in earnest have a few, so a long run is refused.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol

from repo_stream.car.file_type import (
    MARK_BYTES,
    Compression,
    compression_of,
    may_be_compressed,
)
from repo_stream.errors import BadCompression, MissingExtra
from repo_stream.limits import KIB

__all__ = ["Decompressor"]

# How much is decompressed at a time, in bytes. After each part the rest of a slice is copied, so a
# file of tiny parts takes time that grows with this.
_SLICE: Final = 16 * KIB
# A window of zstd has at most 2 to the power of this, in bytes: 8 MiB, as much as the specification
# recommends to support. Only `zstd --ultra` and `zstd --long` make larger ones.
_WINDOW_LOG: Final = 23
# How many empty parts may follow each other; so many take up to a fifth of a second.
_MOST_EMPTY: Final = 10_000


class _Part(Protocol):
    """Decompresses one part. What was fed after its end is in `unused_data`."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Member:
    """A member of gzip. As a frame of zstd does, it keeps what was too much to decompress."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)  # with the header and the checksum of gzip

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        waiting = self._member.unconsumed_tail
        return self._member.decompress(waiting + data if waiting else data, max_length)

    def copy(self) -> _Member:
        """Return another one at the same place."""
        other = _Member()
        other._member = self._member.copy()
        return other

    def up_to_fault(self, data: bytes, most: int) -> bytes:
        """Return what the member makes of data up to the fault that is in it."""
        taken = bytearray()
        data = self._member.unconsumed_tail + data
        with suppress(zlib.error):
            for at in range(len(data)):
                if len(taken) == most:
                    break
                taken += self._member.decompress(data[at : at + 1], most - len(taken))
        return bytes(taken)


class Decompressor:
    """Decompress a file that comes in pieces.

    Feed a piece if it `needs_input`, else take what comes next.

    Args:
        compression: how the file is compressed.

    Raises:
        MissingExtra: if the package that decompresses it is not installed.
    """

    def __init__(self, compression: Compression) -> None:
        self._compression: Compression = compression
        self._zstd = _zstd() if compression == "zstd" else None
        self._failure: type[Exception] = self._zstd.ZstdError if self._zstd else zlib.error
        self._input = memoryview(b"")
        # Where in the input the next slice starts, and in the file the input.
        self._at = 0
        self._offset = 0
        # The part; `None` between two of them.
        self._part: _Part | None = None
        # What was read and belongs to the next part.
        self._rest = b""
        # Whether the part may return more without more input.
        self._is_full = False
        # How many parts have ended since something came out.
        self._empty = 0
        self._begun = False
        self._error: BadCompression | None = None

    @property
    def needs_input(self) -> bool:
        """Whether `take` can return nothing more without another piece."""
        rest = len(self._rest)
        return self._at == len(self._input) and not self._is_full and rest < MARK_BYTES

    def feed(self, piece: bytes | memoryview) -> None:
        """Add the next piece of the file. It must not change until another one is needed."""
        self._offset += len(self._input)
        self._input, self._at = memoryview(piece), 0

    def take(self, size: int) -> bytes:
        """Return up to `size` decompressed bytes; there may be none although there is input.

        Raises:
            BadCompression: if the file is damaged, after what comes before the damage; a part of
                that may be lost if it is zstd data. Every further call raises it again.
        """
        if self._error is not None:
            raise self._error
        data = b"" if self._is_full else self._next_slice()
        if self._part is None:
            data = self._begin(data)
            if self._part is None:
                return b""
        part = self._part
        # zlib drops what it has made of the same data before a fault.
        before = part.copy() if isinstance(part, _Member) else None
        try:
            taken = part.decompress(data, size)
        except self._failure as error:
            self._error = self._damaged(_reason(error))
            self._is_full = True  # there is the error, without more input
            if before is not None and (taken := before.up_to_fault(data, size)):
                return taken
            raise self._error from error
        self._is_full = len(taken) == size and not part.eof
        if taken:
            self._empty = 0
        if part.eof:
            self._rest, self._part = part.unused_data, None
            self._end_part()
        return taken

    def finish(self) -> None:
        """Tell it that the file has ended.

        Raises:
            BadCompression: if that is within a part, or if something else follows the last one.
        """
        rest = self._unpadded(self._rest)
        if self._begun and rest and not may_be_compressed(rest):
            raise self._damaged(f"what follows is not {self._compression} data")
        if self._part is not None or rest or not self._begun:
            raise self._damaged("it ends too soon; the download or the copy is not complete")

    def _next_slice(self) -> bytes:
        data, self._rest = self._rest, b""
        if len(data) < MARK_BYTES:
            more = bytes(self._input[self._at : self._at + _SLICE])
            self._at += len(more)
            data += more
        return data

    def _begin(self, data: bytes) -> bytes:
        """Begin a part, if enough of it is there; return the data that it starts with."""
        data = self._unpadded(data)
        if len(data) < MARK_BYTES:
            self._rest = data
            return b""
        if compression_of(data) != self._compression:
            what = "what follows" if self._begun else "this"
            raise self._damaged(f"{what} is not {self._compression} data")
        self._begun = True
        self._part = _Member() if self._zstd is None else _frame(self._zstd)
        return data

    def _end_part(self) -> None:
        self._empty += 1
        if self._empty > _MOST_EMPTY:
            self._error = self._damaged(f"more than {_MOST_EMPTY:,} parts in a row are empty")
            self._is_full = True  # there is the error, without more input
            raise self._error

    def _unpadded(self, data: bytes) -> bytes:
        """Return what comes after a part without padding, which gzip may have, and itself skips."""
        return data.lstrip(b"\0") if self._compression == "gzip" else data

    def _damaged(self, reason: str) -> BadCompression:
        offset = self._offset + self._at
        return BadCompression(compression=self._compression, reason=reason, offset=offset)


def _reason(error: Exception) -> str:
    if "memory" in str(error):
        window = 2**_WINDOW_LOG // KIB**2
        return f"it takes more than {window} MiB to decompress; use `zstd -d --long=31` first"
    return str(error)


def _zstd() -> Any:  # noqa: ANN401 - a module; which one depends on the version of Python
    for name in ("compression.zstd", "backports.zstd"):  # Python 3.14 has the first
        with suppress(ImportError):
            return import_module(name)
    raise MissingExtra(
        extra="zstd", package="backports.zstd", feature="reading a CAR that is compressed with zstd"
    )


def _frame(zstd: Any) -> _Part:  # noqa: ANN401 - see `_zstd`
    frame: _Part = zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    )
    return frame
