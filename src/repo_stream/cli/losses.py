"""What a walk past missing and damaged blocks did not find, and between which keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from repo_stream import Cid, Gap, Output

__all__ = ["Loss", "Losses"]

# The most losses to list; the others are counted.
_LISTED: Final = 1000


class Loss(NamedTuple):
    """A record, or a subtree with all of its records, that is not there.

    Attributes:
        key: the key of the record; `None` for a subtree, whose keys are not known.
        cid: the block that is missing.
        after: a key of the repo before it, and all of its keys; `None` if there is none.
        before: a key of the repo after it, and all of its keys; `None` if there is none.
    """

    key: str | None
    cid: Cid
    after: str | None
    before: str | None


class Losses:
    """The losses of one walk.

    Attributes:
        records: how many records are lost whose keys are known.
        subtrees: how many subtrees are lost.
        listed: the first of them, in the order of their keys.
    """

    def __init__(self) -> None:
        self.records: int = 0
        self.subtrees: int = 0
        self.listed: list[Loss] = []
        self._last: str | None = None
        # The losses at the end of the list of which the key after them has not come.
        self._open = 0

    @property
    def count(self) -> int:
        """How many records and subtrees are lost."""
        return self.records + self.subtrees

    # Any: the values are records or gaps, which only the types of `open_car` tell apart.
    def taken_out(self, chunk: Sequence[Output[Any]]) -> list[Output[Any]]:
        """Note the gaps of a chunk; return the records."""
        records: list[Output[Any]] = []
        for output in chunk:
            if isinstance(output.value, Gap):
                cid, key, after, before = output.value
                self._add(Loss(key, cid, after, before))
            else:
                records.append(output)
        return records

    def taken_out_of_keys(self, keys: Sequence[tuple[str, Cid]]) -> list[tuple[str, Cid]]:
        """Note the subtrees that are missing among keys, as `next_keys` returns them."""
        found: list[tuple[str, Cid]] = []
        for key, cid in keys:
            if key:
                self._close(key)
                found.append((key, cid))
            elif self._add(Loss(None, cid, self._last, None)):
                self._open += 1
        return found

    def _add(self, loss: Loss) -> bool:
        """Note a loss; return whether it is listed."""
        if loss.key is None:
            self.subtrees += 1
        else:
            self.records += 1
        if len(self.listed) < _LISTED:
            self.listed.append(loss)
            return True
        return False

    def _close(self, key: str) -> None:
        """Note the key that comes after the last losses."""
        self._last = key
        for at in range(len(self.listed) - self._open, len(self.listed)):
            self.listed[at] = self.listed[at]._replace(before=key)
        self._open = 0
