"""Lets one call at a time use a driver."""

from __future__ import annotations

import anyio

__all__ = ["Guard"]


class Guard:
    """Raises `BusyResourceError` if it is entered twice, as `anyio.ResourceGuard` does.

    Ctrl-C may come as a Python function begins. In an `__exit__`, it would leave the guard entered
    for good. So code that is not in an event loop enters it without `with`:

        try:
            guard.enter(me)
            ...
        finally:  # without a call, so that no Ctrl-C comes in between
            if guard.holder is me:
                guard.holder = None

    Args:
        action: what is done by the code that has entered it, for the message of the error.

    Attributes:
        holder: what has entered it, if anything has.
    """

    __slots__ = ("_action", "holder")

    def __init__(self, action: str) -> None:
        self._action = action
        self.holder: object | None = None

    def enter(self, holder: object) -> None:
        """Enter it.

        Raises:
            anyio.BusyResourceError: if it has been entered.
        """
        if self.holder is not None:
            raise anyio.BusyResourceError(self._action)
        self.holder = holder

    def __enter__(self) -> None:
        if self.holder is not None:  # as in `enter`, with a call less
            raise anyio.BusyResourceError(self._action)
        self.holder = self

    def __exit__(self, *_error: object) -> None:
        self.holder = None
