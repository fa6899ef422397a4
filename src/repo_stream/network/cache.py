"""What was looked up, kept for a time, and looked up by one task at a time.

There is no task in the background: the first one that asks for a name looks it up, and the others
wait for it. If that one is cancelled, one of those that wait looks the name up instead, so nobody
fails by the cancellation of somebody else.

What is kept is bounded in number and in size. What was asked for least recently is dropped first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass
from math import inf
from typing import Final, Generic, TypeVar

import anyio

from repo_stream.network.errors import (
    HandleNotFound,
    NetworkError,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    TooSlow,
)

__all__ = ["Cache"]

V = TypeVar("V")

_ON_THE_WAY: Final = (RateLimited, ServerFailed, ServerUnreachable, TooSlow)
# How large what is kept may be on average, in bytes. A DID document takes about 3,000.
_MEAN_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[V]):
    """What a look-up came to.

    Attributes:
        number: that of the look-up; later ones have higher numbers.
        at: when it ended, in seconds.
        found: what was found, or the error.
        size: how large it is, in bytes.
    """

    number: int
    at: float
    found: V | NetworkError
    size: int

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
        look_up: looks up a name.
        seconds: how long what was found is kept.
        error_seconds: how long a `NetworkError` is kept. No other exception is.
        maximum: how many names are kept, of 4 KiB on average.
        size: returns how large something is that was found, in bytes. Errors count as their texts.
        now: returns the time in seconds.
    """

    def __init__(
        self,
        look_up: Callable[[str], Awaitable[V]],
        *,
        seconds: float,
        error_seconds: float,
        maximum: int,
        size: Callable[[V], int],
        now: Callable[[], float],
    ) -> None:
        self._look_up = look_up
        self._seconds = seconds
        self._error_seconds = error_seconds
        self._maximum = maximum
        self._size_of = size
        self._now = now
        self._number = 0
        self._kept: dict[str, _Outcome[V]] = {}  # those that were asked for last are at the end
        self._size = 0
        self._flights: dict[str, _Flight[V]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, name: str, *, fresh: bool = False, max_age: float = inf) -> V:
        """Return what is kept for a name, or look it up.

        Args:
            name: the name.
            fresh: use nothing that was looked up, or began to be, before this call.
            max_age: use nothing that was looked up more than so many seconds ago.

        Raises:
            NetworkError: if the look-up raises it, or did so a short time ago.
        """
        least = self._number + 1 if fresh else 0
        while True:
            kept = self._valid(name)
            if kept is not None and kept.number >= least and self._now() - kept.at < max_age:
                self._kept[name] = self._kept.pop(name)
                return kept.result()
            flight = self._flights.get(name)
            if flight is None:
                return await self._lead(name)
            await flight.ended.wait()
            if flight.outcome is not None and flight.number >= least:
                return flight.outcome.result()

    async def _lead(self, name: str) -> V:
        self._number += 1
        flight = self._flights[name] = _Flight[V](self._number)
        try:
            found = await self._look_up(name)
        except NetworkError as error:
            size = _size_of_error(error)
            flight.outcome = _Outcome(flight.number, self._now(), copy(error), size)
            if not (_is_on_the_way(error) and self._valid(name)):
                self._keep(name, flight.outcome)
            raise
        else:
            flight.outcome = _Outcome(flight.number, self._now(), found, self._size_of(found))
            self._keep(name, flight.outcome)
            return found
        finally:
            del self._flights[name]
            flight.ended.set()

    def _valid(self, name: str) -> _Outcome[V] | None:
        """Return what is kept for a name, if it is not too old."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        failed = isinstance(kept.found, NetworkError)
        if self._now() - kept.at < (self._error_seconds if failed else self._seconds):
            return kept
        self._drop(name)
        return None

    def _keep(self, name: str, outcome: _Outcome[V]) -> None:
        if name in self._kept:
            self._drop(name)
        self._kept[name] = outcome
        self._size += outcome.size
        while len(self._kept) > self._maximum or self._size > self._maximum * _MEAN_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> None:
        self._size -= self._kept.pop(name).size


def _size_of_error(error: NetworkError) -> int:
    """Return about how large an error is, in bytes, with what servers have put into it."""
    return len(f"{error}{vars(error)}")


def _is_on_the_way(error: NetworkError) -> bool:
    """Return whether an error tells nothing of the name itself."""
    if isinstance(error, HandleNotFound):
        return error.temporary
    return isinstance(error, _ON_THE_WAY)
