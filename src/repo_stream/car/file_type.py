"""What a file is that is not a CAR, judging by its first bytes.

Often it is what a server sent instead of a repo, such as a page that says what went wrong, or a CAR
that is still compressed, or that a program saved as text. `CarDecoder` asks `is_known` before it
reads the header, and `not_a_car` for the error once the file has turned out not to be a CAR; and
likewise `trailing_data` for what follows the last section of a CAR.
"""

from __future__ import annotations

import codecs
from typing import Final, Literal

from repo_stream.errors import CarTrailingData, NotACar

__all__ = [
    "IF_BINARY",
    "MARK_BYTES",
    "START_BYTES",
    "Compression",
    "begins_header",
    "compression_of",
    "has_header",
    "is_known",
    "is_text",
    "may_be_compressed",
    "not_a_car",
    "trailing_data",
]


#: How many bytes from the beginning of a file `not_a_car` looks at.
START_BYTES: Final = 160

#: What to do about bytes that are of no known type.
IF_BINARY: Final = (
    "the file may be compressed (brotli has no mark to know it by) or damaged: check the "
    "response's status and its Content-Encoding, and fetch it again"
)

#: How many bytes tell whether a file is compressed, and how.
MARK_BYTES: Final = 4

#: How a file can be compressed that is decompressed while it is read.
Compression = Literal["gzip", "zstd"]

_DECOMPRESS: Final = (
    "decompress it first, or pass the path of the file: it is decompressed while it is read"
)
_DECOMPRESS_FIRST: Final = "decompress it first"
_EXTRACT: Final = "extract the CAR from it"
_AS_BYTES: Final = (
    "bytes of it are lost, so fetch it again and save the response as bytes, not as text"
)
_EVENT: Final = "pass the `blocks` of a #commit event in it, which are a CAR"
_FETCH_AGAIN: Final = "check the server's response and its status, and fetch it again"

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
# What files of other types start with, what they are, and what to do. A CAR starts with a length
# and a CBOR map, so that none of these can be one.
_MARKS: Final = (
    (b"PK\x03\x04", "a zip archive", _EXTRACT),
    (b"PK\x05\x06", "an empty zip archive", _FETCH_AGAIN),
    (b"BZh", "bzip2 data", _DECOMPRESS_FIRST),
    (b"\xfd7zXZ\0", "xz data", _DECOMPRESS_FIRST),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _EXTRACT),
    (b"\x04\x22\x4d\x18", "lz4 data", _DECOMPRESS_FIRST),
    (b"\x78\x01", "zlib data", _DECOMPRESS_FIRST),
    (b"\x78\x9c", "zlib data", _DECOMPRESS_FIRST),
    (b"\x78\xda", "zlib data", _DECOMPRESS_FIRST),
    # The header of a frame: a map of `t` and `op`, in either order; of an error, of `op` alone.
    (b"\xa1\x62op", "a frame of an event stream", _EVENT),
    (b"\xa2\x62op", "a frame of an event stream", _EVENT),
    (b"\xa1\x61t", "a frame of an event stream", _EVENT),
    (b"\xa2\x61t", "a frame of an event stream", _EVENT),
    # The header of a CAR in other notations.
    (b"OqJlcm9vdHO", "a CAR in base64", "decode it first"),
    (b"3aa265726f6f7473", "a CAR in hexadecimal", "decode it first"),
)

# Text may start with it to say that it is UTF-8.
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# And with one of these to say that it is UTF-16, as PowerShell writes what a program prints.
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
# The length of a header with one root, and its beginning: that of nearly all CARs.
_USUAL_HEADER: Final = b"\x3a\xa2\x65"
_NOT_OF_CARS: Final = (_BYTE_ORDER_MARK, *_UTF_16, *(mark for mark, _, _ in _MARKS))
# The key `roots` of a header, with its CBOR head, as in a CAR that is saved as text.
_ROOTS: Final = b"eroots"
# What becomes of bytes that are not text if they are taken for UTF-8, and of the first byte of a
# header if it is taken for Latin-1.
_REPLACEMENT: Final = "\ufffd".encode()
_AS_LATIN_1: Final = b"\xc2\xa2" + _ROOTS
# Control characters, except those in text and in the colours of terminals.
_NOT_IN_TEXT: Final = frozenset(map(chr, range(32))) - frozenset("\t\n\f\r\x1b")

_BINARY_DATA: Final = "binary data"
_BLANK: Final = "blank text"

_CBOR_MAP: Final = 5  # the major type: the upper three bits of the first byte
_FIRST_KEYS: Final = (_ROOTS, b"gversion")


def compression_of(start: bytes) -> Compression | None:
    """Return how a file is compressed, by its first four bytes; `None` for all that is not read."""
    if start.startswith(_GZIP):
        return "gzip"
    skippable = start[1:4] == _ZSTD_SKIPPABLE and start[0] >> 4 == 5  # 0x50 to 0x5f
    return "zstd" if skippable or start.startswith(_ZSTD) else None


def may_be_compressed(start: bytes) -> bool:
    """Return whether fewer than `MARK_BYTES` bytes can be the beginning of a compressed file."""
    skippable = start[:1] != b"" and start[0] >> 4 == 5 and _ZSTD_SKIPPABLE.startswith(start[1:])
    return skippable or _ZSTD.startswith(start) or _GZIP.startswith(start[:2])


def is_known(start: bytes) -> bool:
    """Return whether a file starts like one of another type, so that it cannot be a CAR."""
    if start.startswith(_USUAL_HEADER):
        return False
    return start.startswith(_NOT_OF_CARS) or compression_of(start) is not None


def begins_header(data: bytes) -> bool:
    """Return whether bytes can be the first eight of the map that is a CAR header, or fewer."""
    if not data:
        return True
    if data[0] >> 5 != _CBOR_MAP:
        return False
    key = data[1:8]
    return not key or any(key.startswith(each) or each.startswith(key) for each in _FIRST_KEYS)


def has_header(data: bytes) -> bool:
    """Return whether bytes that are not a CAR header were meant as one: a map with its keys."""
    return data[0] >> 5 == _CBOR_MAP and any(key in data for key in _FIRST_KEYS)


def is_text(start: bytes) -> bool:
    """Return whether bytes are text, of which the last character may be cut short.

    If they are not, neither are they with others after them.
    """
    return _text_of(start) is not None


def not_a_car(start: bytes) -> NotACar:
    """Return the error that says what a file is instead of a CAR, and what to do about it.

    Args:
        start: its first `START_BYTES` bytes, or all of them if there are fewer.
    """
    looks_like, advice = _kind_of(start)
    return NotACar(start=start, looks_like=looks_like, advice=advice)


def trailing_data(start: bytes, offset: int) -> CarTrailingData:
    """Return the error that says what follows the last section of a CAR.

    Args:
        start: the first `START_BYTES` bytes of it, or all of them if there are fewer.
        offset: where it starts in the file, in bytes.
    """
    looks_like = _describe(start)
    advice = (
        "remove them, or save the server's response as it is"
        if looks_like == _BLANK
        else "the server may have failed while it sent the repo, so fetch it again"
    )
    return CarTrailingData(
        f"there are trailing bytes after the last section, which are not a section; they look like "
        f"{looks_like}; {advice}",
        offset=offset,
    )


def _kind_of(start: bytes) -> tuple[str, str]:
    """Return what a file looks like, in words, and what to do about it."""
    if compression := compression_of(start):
        return f"{compression} data", _DECOMPRESS
    if mark := _mark_of(start):
        return mark
    if start.startswith(_UTF_16):
        as_text = _ROOTS[1:] in start.replace(b"\0", b"")
        return ("a CAR that was saved as UTF-16 text" if as_text else "UTF-16 text"), _AS_BYTES
    looks_like = _describe(start)
    if _AS_LATIN_1 in start or (_REPLACEMENT in start and _ROOTS in start):
        return "a CAR that was saved as text", _AS_BYTES
    if looks_like != _BINARY_DATA:
        return looks_like, _FETCH_AGAIN
    if _REPLACEMENT in start:
        return "binary data that was saved as text", _AS_BYTES
    return looks_like, IF_BINARY


def _mark_of(start: bytes) -> tuple[str, str] | None:
    for mark, looks_like, advice in _MARKS:
        if start.startswith(mark):
            return looks_like, advice
    return None


def _text_of(start: bytes) -> str | None:
    """Return bytes as text, without a last character that is cut short; `None` if it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return None
    return None if any(char in _NOT_IN_TEXT for char in text) else text


def _describe(start: bytes) -> str:
    text = _text_of(start)
    if text is None:
        return _BINARY_DATA
    excerpt = " ".join(text.split())
    if not excerpt:
        return _BLANK
    shown = excerpt if excerpt.isprintable() else ascii(excerpt)[1:-1]
    if excerpt.lower().startswith(("<!doctype html", "<html")):
        kind = "an HTML page"
    else:
        kind = "JSON" if excerpt.startswith(("{", "[")) else "text"
    return f"{kind} that starts with: {shown}"
