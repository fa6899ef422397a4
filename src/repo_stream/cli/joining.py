"""`join`: a kept CAR and slices of it, as the newest repo."""

from __future__ import annotations

import argparse
import sys

from repo_stream import OrderedCar
from repo_stream.cli.input import is_input, is_standard_output, named
from repo_stream.cli.opened import joined
from repo_stream.cli.output import destination, is_terminal, writing_to

__all__ = ["join"]


async def join(options: argparse.Namespace) -> int:
    """Write the newest repo in streamable order, and report what became of the blocks."""
    path: str | None = options.output
    if path is None and is_terminal():
        options.usage("a CAR cannot be shown on a terminal: use -o FILE, or a pipe")
    for car in (options.car, *options.slices):
        if path is None and is_standard_output(car):
            options.usage(f"standard output is one of the CARs to join: {named(car)}")
        if path is not None and is_input(car, path):
            options.usage(f"-o names a CAR to join, which would be overwritten: {path}")
    async with joined(options) as car:
        with destination(path) as file:
            async for piece in car:
                with writing_to(path):
                    file.write(piece)
    if not options.quiet:
        print(_report(car), file=sys.stderr)
    return 0


def _report(car: OrderedCar) -> str:
    read, dropped = car.blocks_read, car.dropped or 0
    written = f"{car.blocks_written:,} blocks written"
    if again := car.blocks_written - (read - dropped):
        written += f" ({again:,} of them again)"
    return f"{written}, {dropped:,} of {read:,} dropped; the repo is at rev {car.commit.rev}"
