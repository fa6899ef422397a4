"""The end of a walk: a loop that begins after it is refused, as it would do nothing.

A driver is an async iterator, and so stays exhausted once it is. A loop over an exhausted iterator
ends at once, without a word, as if the repo were empty. Files and streams do so, in Python and in
anyio; httpx, where a second loop over a response is as easily written, raises `StreamConsumed`.
"""

from __future__ import annotations

from repo_stream.errors import AlreadyWalked

__all__ = ["Ending"]


class Ending:
    """Whether the end of a walk has been returned to the caller.

    Attributes:
        returned: whether it has been.
    """

    __slots__ = ("returned",)

    def __init__(self) -> None:
        self.returned: bool = False

    def refuse_new_loop(self) -> None:
        """Raise an error if a loop that begins now would do nothing.

        Raises:
            AlreadyWalked: if the end has been returned.
        """
        if self.returned:
            raise AlreadyWalked(can_seek=True)
