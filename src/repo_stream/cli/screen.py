"""How things look: what strangers wrote made harmless, figures, tables of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from repo_stream import LimitExceeded, MaxSizeExceeded, ProcessError, RepoStreamError

__all__ = [
    "WIDTH",
    "explained",
    "facts",
    "harmless_json",
    "name_of",
    "one_line",
    "shown_key",
    "table",
]

WIDTH: Final = 80


def one_line(text: str) -> str:
    """Make a text printable, and a single line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shown_key(key: str) -> str:
    r"""Show a key so that no two look alike: what cannot be printed is escaped, and so is a `\`."""
    return one_line(key.replace("\\", "\\\\"))


def explained(error: RepoStreamError) -> str:
    """Say what is wrong, and what to do about it with this command instead of a program."""
    match error:
        case LimitExceeded(where=where, actual=actual, limit=limit, maximum=maximum):
            return (
                f"{where}: {actual:,} is over the limit {limit}={maximum}; "
                f"if you trust the source, raise it: --limit {limit}=N"
            )
        case ProcessError(key=str(key), cid=cid) if error.__cause__ is not None:
            return (
                f"record {key!r} ({cid}): {error.__cause__}"  # nobody at a shell gave a processor
            )
        case MaxSizeExceeded(max_stored_mb=limit):
            return f"the repo needs more than the {limit:,} MiB that this command puts on disk"
        case _:
            return str(error)


def harmless_json(text: str) -> str:
    """Write characters that a terminal could obey as the escapes of JSON, which mean the same."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def name_of(collection: str) -> str:
    """Show the name of a collection in ASCII, as all that the specification allows are.

    What is longer than a line is cut.
    """
    name = ascii(collection)[1:-1] if collection else "(none)"
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 3]}..."


def facts(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Lay out names and what they stand for, one a line."""
    named = list(pairs)
    room = max(len(name) for name, _ in named)
    for name, fact in named:
        yield f"{name:{room}}  {fact}"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None
) -> Iterable[str]:
    """Lay out a name and its figures; a name that is too long gets a line of its own."""
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
