"""How long a server is waited for: within a download, and until it may be asked again.

Both count time that they are told, so they are tested without waiting.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["SECONDS", "Pace", "Patience"]

# A server that sends fewer bytes a second than this, over so many seconds, is given up.
BYTES_PER_SECOND: Final = 1000
SECONDS: Final = 30.0


class Pace:
    """Tells until when to wait for the next piece of a download.

    Only time that is spent waiting for the server counts, so a slow reader does not make a server
    slow. The server is too slow as soon as there are `seconds` of waiting in which it sent less
    than `bytes_per_second` for each of them. When that is, is known in advance if nothing more
    comes: the last pieces that suffice are remembered, and after the oldest of them the time runs.

    Args:
        bytes_per_second: the least that it has to send.
        seconds: over how long.

    Attributes:
        waited: for how long the server has been waited for, in seconds.
    """

    def __init__(
        self, *, bytes_per_second: float = BYTES_PER_SECOND, seconds: float = SECONDS
    ) -> None:
        self._seconds = seconds
        self._needed = bytes_per_second * seconds
        # When each piece came, by the time waited, and its size: the newest that suffice.
        self._pieces: deque[tuple[float, int]] = deque()
        self._sum = 0
        self.waited: float = 0.0

    @property
    def left(self) -> float:
        """For how many seconds to wait until the server is too slow, if nothing more comes."""
        since = self._pieces[0][0] if self._sum >= self._needed else 0.0
        return since + self._seconds - self.waited

    def took(self, size: int, seconds: float) -> None:
        """Count a piece: its size in bytes, and for how long it was waited for."""
        self.waited += seconds
        self._pieces.append((self.waited, size))
        self._sum += size
        while self._sum - self._pieces[0][1] >= self._needed:
            self._sum -= self._pieces.popleft()[1]


# How long to wait before the first repetition, if the server does not ask for more; doubled with
# each, so that a server that asks for none is not hammered.
_FIRST_PAUSE: Final = 0.5


class Patience:
    """Tells how long to wait before a request is repeated, and when not to repeat it any more.

    Args:
        seconds: how long it may take in all, from the first request to the last.
        now: the time of the first request, in seconds.
    """

    def __init__(self, seconds: float, *, now: float) -> None:
        self._end = now + seconds
        self._pause = _FIRST_PAUSE

    def pause(self, asked: float | None, *, now: float) -> float | None:
        """Return in how many seconds to repeat the request; `None` if that would be too late.

        Args:
            asked: how many seconds the server asks for; `None` if it does not say.
            now: the time, in seconds.
        """
        pause = max(self._pause, asked or 0.0)
        self._pause *= 2
        return pause if now + pause <= self._end else None
