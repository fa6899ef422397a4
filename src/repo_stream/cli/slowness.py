"""What a person is told if the command took longer than it has to."""

from __future__ import annotations

import argparse
import sys
from time import process_time
from typing import Final

from repo_stream._compiled import why_not_compiled
from repo_stream.cli.messages import complain

__all__ = ["explain_slowness"]

# With less work than this, in seconds, nobody has waited for it.
_LONG: Final = 3.0


def explain_slowness(options: argparse.Namespace) -> None:
    """Say on a terminal why the package is not compiled, if that took time and can be changed."""
    if options.quiet or process_time() < _LONG or not sys.stderr.isatty():
        return
    reason, remedy = why_not_compiled()
    if remedy:
        complain(f"slower than it could be, as {reason}; {remedy}")
