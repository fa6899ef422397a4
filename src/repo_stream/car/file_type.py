"""What a file is that is not a CAR, judging by its first bytes.

Often it is what a server sent instead of a repo, such as a page that says what went wrong, or a CAR
that is still compressed. `CarDecoder` asks `is_known` before it reads the header, and `not_a_car`
for the error once the file has turned out not to be a CAR.
"""

from __future__ import annotations

from typing import Final

from repo_stream.errors import NotACar

__all__ = ["START_BYTES", "is_known", "not_a_car"]


#: How many bytes from the beginning of a file `not_a_car` looks at.
START_BYTES: Final = 160

_GZIP: Final = b"\x1f\x8b"
# Text may start with it to say that it is UTF-8.
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Control characters, except those in text and in the colours of terminals.
_NOT_IN_TEXT: Final = frozenset(map(chr, range(32))) - frozenset("\t\n\f\r\x1b")

_FETCH_AGAIN: Final = "check the server's response and its status, and fetch it again"


def is_known(start: bytes) -> bool:
    """Return whether a file starts like one of another type, so that it cannot be a CAR."""
    return start.startswith((_GZIP, _BYTE_ORDER_MARK))


def not_a_car(start: bytes) -> NotACar:
    """Return the error that says what a file is instead of a CAR, and what to do about it.

    Args:
        start: its first `START_BYTES` bytes, or all of them if there are fewer.
    """
    if start.startswith(_GZIP):
        return NotACar(start=start, looks_like="gzip data", advice="decompress it first")
    return NotACar(start=start, looks_like=_describe(start), advice=_FETCH_AGAIN)


def _describe(start: bytes) -> str:
    # The last character may be cut short.
    text = start.decode("utf-8-sig", "ignore")
    if len(text.encode()) < len(start) - 6 or any(char in _NOT_IN_TEXT for char in text):
        return "binary data"
    excerpt = " ".join(text.split())
    shown = excerpt if excerpt.isprintable() else ascii(excerpt)[1:-1]
    if excerpt.lower().startswith(("<!doctype html", "<html")):
        kind = "an HTML page"
    else:
        kind = "JSON" if excerpt.startswith(("{", "[")) else "text"
    return f"{kind} that starts with: {shown}"
