"""`order`: the same CAR in streamable order."""

from __future__ import annotations

import argparse
import sys

from repo_stream import OrderedCar
from repo_stream.cli.input import is_standard_output, named
from repo_stream.cli.opened import ordered
from repo_stream.cli.output import destination, is_terminal, writing_to

__all__ = ["order"]


async def order(options: argparse.Namespace) -> int:
    """Write the CAR in streamable order, and report how many blocks were written and dropped."""
    path: str | None = options.output
    if path is None and is_terminal():
        options.usage("a CAR cannot be shown on a terminal: name a file, or use a pipe")
    if path is None and is_standard_output(options.car):
        options.usage(f"standard output is the CAR itself: {named(options.car)}")
    async with ordered(options) as car:
        with destination(path) as file:
            async for piece in car:
                with writing_to(path):
                    file.write(piece)
    if not options.quiet:
        print(_report(car), file=sys.stderr)
    return 0


def _report(car: OrderedCar) -> str:
    read, dropped = car.blocks_read, car.dropped or 0
    again = car.blocks_written - (read - dropped)
    written = f"{car.blocks_written:,} blocks written"
    if again:
        written += f" ({again:,} of them again)"
    order = "streamable already" if car.order.streamable else "not streamable before"
    return f"{written}, {dropped:,} of {read:,} dropped; {order}"
