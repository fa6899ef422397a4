"""What was looked up, kept for a time, and looked up by one task at a time.

There is no task in the background: the first one that asks for a name looks it up, and the others
wait for it. If that one is cancelled, one of those that wait looks the name up instead, so nobody
fails by the cancellation of somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import anyio

from repo_stream.network.errors import (
    NetworkError,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    TooSlow,
)

__all__ = ["Cache"]

V = TypeVar("V")

# Errors of the way to a name, which tell nothing of the name itself.
_OF_THE_WAY: Final = (RateLimited, ServerFailed, ServerUnreachable, TooSlow)


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[V]):
    """What a look-up came to.

    Attributes:
        number: that of the look-up; later ones have higher numbers.
        until: when it is too old.
        found: what was found, or the error.
    """

    number: int
    until: float
    found: V | NetworkError

    def result(self) -> V:
        if isinstance(self.found, NetworkError):
            # A copy for each caller: `raise` adds its frames, and all that they hold, to an error.
            raise copy(self.found)
        return self.found


class _Flight(Generic[V]):
    """A look-up that is not over.

    Attributes:
        number: its number.
        ended: set when it is over.
        outcome: what came of it; `None` if that tells nothing to others.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.ended = anyio.Event()
        self.outcome: _Outcome[V] | None = None


class Cache(Generic[V]):
    """Keeps what was found for a name, and errors for a shorter time.

    Args:
        seconds: how long what was found is kept.
        error_seconds: how long a `NetworkError` is kept. No other exception is.
        maximum: how many names are kept: those that were asked for last.
        now: returns the time in seconds.
    """

    def __init__(
        self, *, seconds: float, error_seconds: float, maximum: int, now: Callable[[], float]
    ) -> None:
        self._seconds = seconds
        self._error_seconds = error_seconds
        self._maximum = maximum
        self._now = now
        self._number = 0
        self._kept: dict[str, _Outcome[V]] = {}  # those that were asked for last are at the end
        self._flights: dict[str, _Flight[V]] = {}

    async def get(
        self, name: str, look_up: Callable[[str], Awaitable[V]], *, fresh: bool = False
    ) -> V:
        """Return what is kept for a name, or look it up.

        Args:
            name: the name.
            look_up: looks it up.
            fresh: take nothing that was looked up, or began to be, before this call.

        Raises:
            NetworkError: if the look-up raises it, or did so a short time ago.
        """
        least = self._number + 1 if fresh else 0
        while True:
            kept = self._usable(name, least)
            if kept is not None:
                return kept.result()
            flight = self._flights.get(name)
            if flight is None:
                return await self._lead(name, look_up)
            await flight.ended.wait()
            if flight.outcome is not None and flight.number >= least:
                return flight.outcome.result()

    def _usable(self, name: str, least: int) -> _Outcome[V] | None:
        kept = self._kept.pop(name, None)
        if kept is None or kept.until <= self._now():
            return None
        self._kept[name] = kept
        return kept if kept.number >= least else None

    async def _lead(self, name: str, look_up: Callable[[str], Awaitable[V]]) -> V:
        self._number += 1
        flight = self._flights[name] = _Flight[V](self._number)
        try:
            found = await look_up(name)
            flight.outcome = self._keep(name, flight.number, found)
            return found
        except NetworkError as error:
            flight.outcome = self._keep(name, flight.number, copy(error))
            raise
        finally:
            del self._flights[name]
            flight.ended.set()

    def _keep(self, name: str, number: int, found: V | NetworkError) -> _Outcome[V]:
        failed = isinstance(found, NetworkError)
        until = self._now() + (self._error_seconds if failed else self._seconds)
        outcome = _Outcome(number, until, found)
        before = self._kept.pop(name, None)
        if before is not None and isinstance(found, _OF_THE_WAY) and before.until > self._now():
            self._kept[name] = before  # which is still true, as far as anybody knows
        else:
            self._kept[name] = outcome
        while len(self._kept) > self._maximum:
            del self._kept[next(iter(self._kept))]
        return outcome
