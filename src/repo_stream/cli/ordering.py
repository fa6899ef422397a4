"""`order`: the same CAR in streamable order."""

from __future__ import annotations

import argparse
import sys

from repo_stream import OrderedCar
from repo_stream.cli.input import is_standard_output, named
from repo_stream.cli.opened import ordered
from repo_stream.cli.ordered_cars import blocks_written, write_car
from repo_stream.cli.output import is_terminal

__all__ = ["order"]


async def order(options: argparse.Namespace) -> int:
    """Write the CAR in streamable order, and report how many blocks were written and dropped."""
    path: str | None = options.output
    if path is None and is_terminal():
        options.usage("a CAR cannot be shown on a terminal: name a file, or use a pipe")
    if path is None and is_standard_output(options.car):
        options.usage(f"standard output is the CAR itself: {named(options.car)}")
    async with ordered(options) as car:
        await write_car(car, path)
    if not options.quiet:
        print(_report(car), file=sys.stderr)
    return 0


def _report(car: OrderedCar) -> str:
    order = "streamable already" if car.order.streamable else "not streamable before"
    return f"{blocks_written(car)}; {order}"
