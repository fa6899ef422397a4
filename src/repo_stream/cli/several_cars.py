"""Commands that read several CARs, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from repo_stream import RepoStreamError, UnsupportedKey
from repo_stream.cli.accounts import uri_in
from repo_stream.cli.failures import report_failure
from repo_stream.cli.filters import selection
from repo_stream.cli.partial import report_unread, reporting

__all__ = ["Command", "each_car", "for_each", "narrowed", "selection_of_all"]

#: Runs a command; returns its exit code.
Command: TypeAlias = Callable[[argparse.Namespace], Awaitable[int]]


async def each_car(options: argparse.Namespace, one: Command) -> int:
    """Call a function for each CAR of the command line; return the highest of the exit codes.

    An error of one CAR is reported, and does not stop the others. If there is only one, it is
    raised.

    Args:
        options: the command line, with `cars`.
        one: reads the CAR that its argument has as `car`.

    Raises:
        RepoStreamError: if the only CAR cannot be read.
        OSError: if it cannot be opened.
        UnsupportedKey: if the key that they are all checked with cannot be used.
    """
    worst = 0
    failure: RepoStreamError | OSError | None = None
    with reporting(options):
        for car in options.cars:
            of_car = narrowed(options, car)
            try:
                code = await one(of_car)
            except UnsupportedKey:
                raise
            except (RepoStreamError, OSError) as error:
                report_unread(of_car, error)
                failure = error
                code = report_failure(of_car, error) if options.several else 0
            worst = max(worst, code)
    if failure is not None and not options.several:
        raise failure
    return worst


def narrowed(options: argparse.Namespace, car: str) -> argparse.Namespace:
    """Return the command line for one of its CARs, to read only what that names.

    If it is the URI of a collection or of a record, nothing else is read.
    """
    of_car = argparse.Namespace(**{**vars(options), "car": car})
    uri = uri_in(car)
    if uri is None or uri.collection is None:
        return of_car
    of_car.collections = [uri.collection]
    if uri.rkey is not None:
        key = f"{uri.collection}/{uri.rkey}"
        of_car.key_range = [key, f"{key}\0"]
    return of_car


def selection_of_all(options: argparse.Namespace) -> list[str]:
    """Return the filters of all CARs, those that URIs stand for included.

    If not all have the same, that is what the command line names.
    """
    first, *others = (selection(narrowed(options, car)) for car in options.cars)
    return first if all(other == first for other in others) else [*options.cars]


def for_each(one: Command) -> Command:
    """Return a command that does for each CAR what another does for one."""

    async def command(options: argparse.Namespace) -> int:
        return await each_car(options, one)

    return command
