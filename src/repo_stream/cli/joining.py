"""`join`: a kept CAR and slices of it, as the newest repo."""

from __future__ import annotations

import argparse
import sys

from repo_stream import OrderedCar
from repo_stream.cli.input import is_input, is_standard_output, named
from repo_stream.cli.opened import joined
from repo_stream.cli.ordered_cars import blocks_written, write_car
from repo_stream.cli.output import is_terminal

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
        await write_car(car, path)
    if not options.quiet:
        print(_report(car), file=sys.stderr)
    return 0


def _report(car: OrderedCar) -> str:
    return f"{blocks_written(car)}; the repo is at rev {car.commit.rev}"
