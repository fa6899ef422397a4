"""What the tests of the shell command share: a small repo, and ways to read what is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import build_car

POST = "app.bsky.feed.post"
LIKE = "app.bsky.feed.like"
DID, REV = "did:plc:someone", "3jzfcijpj2z2a"
RECORDS = {f"{POST}/3jzfcijpj2z2{end}": {"text": end} for end in "abc"} | {f"{LIKE}/1": {"n": 1}}
#: The bytes of the records of each collection.
SIZE = {POST: 3 * len(b"\xa1\x64text\x61a"), LIKE: len(b"\xa1\x61n\x01")}

#: Runs the command in this process: arguments in; exit code, output and errors out.
Run = Callable[..., tuple[int, str, str]]

#: Both ways: everything in memory, and nothing.
BOTH_WAYS = pytest.mark.parametrize(
    "limit", [pytest.param("16", id="memory"), pytest.param("0", id="disk")]
)


def small_car(**options: Any) -> bytes:
    """The CAR of a repo of four records in two collections."""
    return build_car(RECORDS, did=DID, rev=REV, **options)


def wrote(
    records: str, car: str | Path, target: str | Path = "standard output", form: str = "jsonl"
) -> str:
    """What `export` says of the small repo, or of another one of its account and revision."""
    return f"wrote {records} of {DID}, rev {REV}, from {car} to {target} ({form})\n"


def command(*arguments: str | Path) -> list[str]:
    """The command line that runs it in a process of its own."""
    return [sys.executable, "-m", "repo_stream", *map(str, arguments)]


def report(text: str) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Read a report back: the lines above the table, and the table of collections."""
    above, below, *_ = text.split("\n\n")
    facts = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in above.splitlines()}
    rows = [line.split() for line in below.splitlines()[2:] if not line.startswith("---")]
    return facts, {
        name: tuple(int(figure.replace(",", "")) for figure in figures) for name, *figures in rows
    }


def lines(text: str) -> list[dict[str, Any]]:
    """Read JSON lines back."""
    return [json.loads(line) for line in text.splitlines()]


def keys(text: str) -> list[str]:
    """The keys of JSON lines."""
    return [line["key"] for line in lines(text)]
