"""Messages on standard error, and the exit codes that go with them."""

from __future__ import annotations

import sys
from typing import Final

from repo_stream.cli.screen import one_line

__all__ = ["BAD_REPO", "PROGRAM", "WRONG_USAGE", "complain"]

PROGRAM: Final = "repo-stream"

WRONG_USAGE: Final = 2
# Of a repo that cannot be read or is not valid.
BAD_REPO: Final = 1


def complain(message: str, code: int = BAD_REPO) -> int:
    """Print a message with the name of the program; return the exit code."""
    print(f"{PROGRAM}: {one_line(message)}", file=sys.stderr)
    return code
