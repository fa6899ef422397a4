"""What a driver has taken from its walker and not returned yet.

A call of a driver takes records from the walker bit by bit. If it is cancelled, or if a loop is
left, what was taken waits here for the next call. Most calls want records alone, which are kept in
columns (`Taken`). `next_items` wants the nodes among them too; so at any time there are either
records or items, and each kind of call converts what is left of the other.

A loop without `async` takes records in the thread of its user, where Ctrl-C may come. That happens
as a function is called or returns, so what has to be done as a whole calls none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, cast

from repo_stream.mst.results import Common, Gap, Output, Taken, TreeNode, add_common, new_output

__all__ = ["Backlog", "columns_of", "items_of"]

T = TypeVar("T")


class Backlog(Generic[T]):
    """Records or items that wait to be returned, in key order.

    Loops over single records take them without the driver's guard, which would cost too much for
    each. So they may take only what they have been offered (`offer`), and only until another call
    begins (`hold`), which may be waiting for more records while a loop asks for the next.

    Args:
        common: what is common to all records of the repo.

    Attributes:
        coming: where the walker puts the records that it takes, until they are added. If Ctrl-C
            comes in between, they are added by the next call.
        items: items, if `keep_items_only` was called last.
    """

    __slots__ = ("_common", "_offered", "_records", "_returned", "coming", "items")

    def __init__(self, common: Common) -> None:
        self._common = common
        self._records: Taken[T] = Taken([], [], [])
        # How many of the records have been returned, and up to which of them loops may go.
        self._returned = 0
        self._offered = 0
        self.coming: Taken[T] = Taken([], [], [])
        self.items: list[TreeNode | Output[T] | Gap] = []

    def __len__(self) -> int:
        """How many records there are."""
        return len(self._records.keys) - self._returned

    def clear(self) -> None:
        """Drop everything."""
        self._records, self._returned = Taken([], [], []), 0
        if self.coming.keys:
            self.coming = Taken([], [], [])
        self._offered = 0
        self.items = []

    def offer(self) -> None:
        """Let loops take the records that are here now."""
        self._offered = len(self._records.keys)

    def hold(self) -> None:
        """Keep all records for the call that begins."""
        self._offered = 0
        if self.coming.keys:
            self.add(self.coming)

    # --- Records --------------------------------------------------------------------------------

    def keep_records_only(self) -> None:
        """Convert items to records, for the call that begins; nodes are dropped."""
        self.hold()
        if self.items:
            records = columns_of(self.items)
            records.extend(self._records.cut(self._returned))
            self._records, self._returned, self.items = records, 0, []

    def add(self, taken: Taken[T]) -> bool:
        """Add records that come after all others; return whether there were any."""
        coming: Taken[T] = Taken([], [], [])
        keys, cids, values = self._records
        keys += taken.keys
        cids += taken.cids
        values += taken.values
        self.coming = coming
        return bool(taken.keys)

    def put_back(self, chunks: Sequence[Taken[T]]) -> None:
        """Put records back that were taken, in front of all others."""
        for chunk in reversed(chunks):
            chunk.extend(self._records.cut(self._returned))
            self._records, self._returned = chunk, 0

    def take(self, n: int) -> Taken[T] | None:
        """Remove and return up to `n` records; `None` if there are none."""
        records, start = self._records, self._returned
        if start == len(records.keys):
            return None
        if start == 0 and len(records.keys) <= n:
            self._records = Taken([], [], [])
            return records
        self._returned = min(start + n, len(records.keys))
        return records.cut(start, start + n)

    def next_pair(self) -> tuple[str, T] | None:
        """Remove and return the next record that is offered, as a pair of key and value, if any.

        Loops over single records spend their time here, and in what calls it.
        """
        records, at = self._records, self._returned
        if at >= self._offered:
            return None
        self._returned = at + 1
        return records.keys[at], records.values[at]

    def next_output(self) -> Output[T] | None:
        """Remove and return the next record that is offered, with its CID, if there is any."""
        (keys, cids, values), at = self._records, self._returned
        if at >= self._offered:
            return None
        output = new_output(keys[at], cids[at], values[at], self._common)
        self._returned = at + 1
        return output

    def slices(self, n: int, size: int) -> Iterator[Taken[T]]:
        """Iterate over the next `n` records, `size` of them at a time, without removing them."""
        end = min(self._returned + n, len(self._records.keys))
        for start in range(self._returned, end, size):
            yield self._records.cut(start, min(start + size, end))

    def skip(self, n: int) -> None:
        """Remove the next `n` records."""
        self._returned += n

    def skip_to(self, key: bytes) -> bool:
        """Remove the records before a key, if it comes after the last one that was returned.

        Returns:
            Whether that was possible. Else nothing is removed.
        """
        keys, values = self._records.keys, self._records.values
        if not self._returned or any(isinstance(value, Gap) for value in values):
            return False  # a gap that is a subtree has no key to compare
        if not keys[self._returned - 1].encode() < key <= keys[-1].encode():
            return False
        self._returned = bisect_left(keys, key, self._returned, key=str.encode)
        return True

    # --- Items ----------------------------------------------------------------------------------

    def keep_items_only(self) -> None:
        """Convert records to items, for the call that begins."""
        self.hold()
        self.items += items_of(self._records.cut(self._returned))
        self._records, self._returned = Taken([], [], []), 0

    def add_items(self, items: Iterable[TreeNode | Output[T] | Gap]) -> bool:
        """Add items that come after all others; return whether there were any."""
        known = len(self.items)
        self.items += items
        return len(self.items) > known

    def take_items(self, n: int) -> list[TreeNode | Output[T] | Gap]:
        """Remove and return up to `n` items."""
        taken, self.items = self.items[:n], self.items[n:]
        for item in taken:
            if isinstance(item, Output):
                add_common(item, self._common)
        return taken


def items_of(taken: Taken[T]) -> list[TreeNode | Output[T] | Gap]:
    """Convert records and gaps to items."""
    return [each.value if isinstance(each.value, Gap) else each for each in taken.outputs({})]


def columns_of(items: Iterable[TreeNode | Output[T] | Gap]) -> Taken[T]:
    """Convert the records and gaps among items to columns."""
    taken: Taken[T] = Taken([], [], [])
    for item in items:
        if isinstance(item, Output):
            taken.keys.append(item.key)
            taken.cids.append(item.cid)
            taken.values.append(item.value)
        elif isinstance(item, Gap):
            taken.keys.append(item.key or "")
            taken.cids.append(item.cid)
            taken.values.append(cast("T", item))
    return taken
