"""Undo the `Content-Encoding` of answers, in constant memory and without input or output.

httpx decodes all that it read at once, and 64 KiB of gzip can stand for 64 MiB. Here the reader
says how much it takes at a time, so the limits of documents and the memory limit of a repo hold for
compressed answers as well.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Final, Protocol

from repo_stream.car.compression import Decompressor
from repo_stream.errors import BadCompression, MissingExtra

__all__ = ["BadEncoding", "Decoder", "accepted", "decoder_of"]


class BadEncoding(Exception):
    """The body is not in the encoding that its headers state, or is in one that is not known."""


class Decoder(Protocol):
    """Feed a piece if it `needs_input`, else take what comes next."""

    @property
    def needs_input(self) -> bool:
        """Whether `take` can return nothing more without another piece."""
        ...

    def feed(self, piece: bytes) -> None:
        """Add the next piece of the body."""
        ...

    def take(self, size: int) -> bytes:
        """Return up to `size` decoded bytes; there may be none although there is input."""
        ...

    def finish(self) -> None:
        """Tell it that the body has ended, which is an error within what is compressed."""
        ...


@cache
def accepted() -> str:
    """Return the value of `Accept-Encoding`: what can be decoded in constant memory here."""
    return "gzip, deflate, zstd" if _has_zstd() else "gzip, deflate"


def _has_zstd() -> bool:
    try:
        Decompressor("zstd")
    except MissingExtra:
        return False
    return True


def decoder_of(content_encoding: str) -> Decoder | None:
    """Return what decodes a body; `None` if it is sent as it is.

    Args:
        content_encoding: the header, empty if there is none.

    Raises:
        BadEncoding: if it is not known, or if there is more than one, which no server needs.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    match [name for name in names if name not in {"", "identity"}]:
        case []:
            return None
        case ["gzip" | "x-gzip"]:
            return _Compressed("gzip")
        case ["zstd"] if _has_zstd():
            return _Compressed("zstd")
        case ["deflate"]:
            return _Deflated()
        case _:
            raise BadEncoding(
                f"it is sent with Content-Encoding {content_encoding[:50]!r}, but only "
                f"{accepted()} was asked for"
            )


class _Compressed:
    """Gzip and zstd, which files may be compressed with as well."""

    def __init__(self, compression: str) -> None:
        self._decompressor = Decompressor("gzip" if compression == "gzip" else "zstd")
        self._fed = False

    @property
    def needs_input(self) -> bool:
        return self._decompressor.needs_input

    def feed(self, piece: bytes) -> None:
        self._fed = True
        self._decompressor.feed(piece)

    def take(self, size: int) -> bytes:
        try:
            return self._decompressor.take(size)
        except BadCompression as error:
            raise BadEncoding(str(error)) from error

    def finish(self) -> None:
        if not self._fed:
            return  # an empty body, which some servers do not compress
        try:
            self._decompressor.finish()
        except BadCompression as error:
            raise BadEncoding(str(error)) from error


_ZLIB_WBITS: Final = 15
_RAW_WBITS: Final = -15
# The lower four bits of the first byte, if it is a header of zlib.
_DEFLATE_METHOD: Final = 8


class _Stream(Protocol):
    """What `zlib.decompressobj` returns."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Deflated:
    """Deflate: by its specification with the header of zlib, by some servers without."""

    def __init__(self) -> None:
        self._input = b""
        self._is_full = False
        self._stream: _Stream | None = None

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._is_full

    def feed(self, piece: bytes) -> None:
        self._input = bytes(piece)

    def take(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = zlib.decompressobj(wbits=self._wbits())
        try:
            taken = self._stream.decompress(self._input, size)
        except zlib.error as error:
            raise BadEncoding(f"its deflate data is damaged: {error}") from error
        self._input = self._stream.unconsumed_tail
        self._is_full = len(taken) == size and not self._stream.eof
        if self._stream.unused_data:
            raise BadEncoding("something follows the end of its deflate data")
        return taken

    def finish(self) -> None:
        if self._stream is not None and not self._stream.eof:
            raise BadEncoding("its deflate data ends too soon")

    def _wbits(self) -> int:
        is_zlib = self._input[0] & 0x0F == _DEFLATE_METHOD and self._input[0] >> 4 <= 7
        return _ZLIB_WBITS if is_zlib else _RAW_WBITS
