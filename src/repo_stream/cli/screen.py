"""Text for terminals: without control characters, and tables within 80 columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from repo_stream import (
    DiskError,
    LimitExceeded,
    MaxSizeExceeded,
    ProcessError,
    RepoStreamError,
)

__all__ = [
    "WIDTH",
    "explained",
    "facts",
    "harmless_json",
    "name_of",
    "one_line",
    "short_did",
    "shortened",
    "shown_key",
    "table",
]

WIDTH: Final = 80
# Nearly all DIDs have 32 characters. Hostile ones have up to 2,048.
_MOST_DID: Final = 60


def one_line(text: str) -> str:
    """Return a text as one line, with everything escaped that is not printable."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters, without its middle: both ends tell most."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: most - end - 3]}...{text[-end:]}"


def short_did(did: str) -> str:
    """Return a DID for a report of one line."""
    return shortened(one_line(did), _MOST_DID)


def shown_key(key: str) -> str:
    r"""Return a key as one printable line, different for different keys: a `\` is escaped, too."""
    return one_line(key.replace("\\", "\\\\"))


def explained(error: RepoStreamError) -> str:
    """Return the message of an error, with advice for the command line instead of for programs."""
    match error:
        case LimitExceeded(where=where, actual=actual, limit=limit, maximum=maximum):
            return (
                f"{where}: {actual:,} is over the limit {limit}={maximum}; "
                f"if you trust the source, raise it: --limit {limit}=N"
            )
        case ProcessError(key=str(key), cid=cid) if error.__cause__ is not None:
            return f"record {key!r} ({cid}): {error.__cause__}"  # processors are for programs
        case DiskError(folder=str()):
            return str(error).replace("choose a path for the store", "name a file with --disk")
        case MaxSizeExceeded(max_stored_mb=limit):
            return f"the repo needs more than the {limit:,} MiB that this command may put on disk"
        case _:
            return _for_people(str(error))


# What errors advise to programs, and the same for people.
_ADVICE: Final = {
    "use Network(allow_private=True) or --allow-private": "use --allow-private",
    "with allow_private=True or --allow-private": "with --allow-private",
    "begin again, or use check_first=True, which tries again by itself": "try again",
    "wait longer for it by `patience`": "wait longer for it: --patience SECONDS",
    "use earlier_keys=True": "--earlier-keys accepts it",
    "use check_first=True, which completes the repo before the first record comes out, and "
    "keep=PATH to have it in a file": "try again later",
}
# What a server is asked for. The account is named anyway, and the URL would take two lines.
_REQUEST: Final = re.compile(r"(https?://[^/\s]+)/xrpc/com\.atproto\.sync\.\S+")


def _for_people(text: str) -> str:
    for ours, theirs in _ADVICE.items():
        text = text.replace(ours, theirs)
    return _REQUEST.sub(r"\1", text)


def harmless_json(text: str) -> str:
    """Return JSON with everything escaped that is not printable, which means the same."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def name_of(collection: str) -> str:
    """Return the name of a collection in ASCII, as valid names are, and at most a line long."""
    name = ascii(collection)[1:-1] if collection else "(none)"
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 3]}..."


def facts(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Return lines of a name and a value each, in two columns."""
    named = list(pairs)
    room = max(len(name) for name, _ in named)
    for name, fact in named:
        yield f"{name:{room}}  {fact}"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None
) -> Iterable[str]:
    """Return the lines of a table of names and figures; names that are too long get their own."""
    everything = [head, *rows, *([total] if total else [])]
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
    figures = sum(widths[1:]) + 2 * (len(widths) - 1)
    name = max(len(row[0]) for row in everything if len(row[0]) <= WIDTH - figures)

    def line(row: Sequence[str]) -> str:
        columns = zip(row[1:], widths[1:], strict=True)
        right = "".join(f"  {figure:>{width}}" for figure, width in columns)
        return f"{row[0]}\n{'':{name}}{right}" if len(row[0]) > name else f"{row[0]:{name}}{right}"

    rule = "-" * (name + figures)
    yield line(head)
    yield rule
    yield from map(line, rows)
    if total:
        if rows:
            yield rule
        yield line(total)
