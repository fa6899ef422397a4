"""Reports on CARs, as text or JSON; each names its CAR if there are several."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping

from repo_stream.cli.input import named
from repo_stream.cli.output import put, put_json
from repo_stream.cli.screen import one_line

__all__ = ["put_report"]


def put_report(
    options: argparse.Namespace,
    as_text: Callable[[], str],
    as_json: Callable[[], Mapping[str, object]],
    *,
    indent: int | None = None,
) -> None:
    """Write the report on a CAR: as text, or as JSON if that was asked for.

    If there are several CARs, a line with the name comes before the text, and JSON is one line
    with the path as `car`.

    Args:
        options: the command line.
        as_text: returns the text, with a line ending.
        as_json: returns the values of the JSON.
        indent: how far to indent the JSON on one CAR; `None` for one line.
    """
    if options.json:
        report = {"car": options.car, **as_json()} if options.several else as_json()
        spread = None if options.several else indent
        # A path may be any bytes, which JSON can only have escaped.
        put_json(json.dumps(report, indent=spread) + "\n")
    elif options.several:
        put(f"{one_line(named(options.car))}:\n{as_text()}\n")
    else:
        put(as_text())
