"""What `inspect` counts of each collection: records, their sizes, and when they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import Final, NamedTuple

from repo_stream.cli.timeline import Timeline, Timelines

__all__ = ["Collections", "Named", "Tally"]

# The most collections to name: a stranger's repo can have one for each record.
_MOST_NAMED: Final = 200


@dataclass
class Tally:
    """The number of records and their sizes, in bytes."""

    records: int = 0
    size: int = 0
    largest: int = 0

    def add(self, size: int) -> None:
        """Count a record."""
        self.records += 1
        self.size += size
        self.largest = max(self.largest, size)

    def include(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.records += other.records
        self.size += other.size
        self.largest = max(self.largest, other.largest)


class Named(NamedTuple):
    """A collection, or several.

    Attributes:
        name: its name; empty for the records that are in none.
        tally: its records.
        timeline: when they were made, as far as their rkeys are TIDs.
        collections: how many collections they are.
    """

    name: str
    tally: Tally
    timeline: Timeline | Timelines
    collections: int = 1


class Collections:
    """A tally for each of the largest collections, and one for all others together.

    A walk in key order has finished a collection when the next one begins, so there are never more
    tallies than will be shown.

    Attributes:
        others: the tally of the collections that are not named.
        others_timeline: when their records were made.
        other_names: how many those are.
    """

    def __init__(self) -> None:
        self.others: Tally = Tally()
        self.others_timeline: Timelines = Timelines()
        self.other_names: int = 0
        self._nameless = Tally()
        self._named: list[tuple[int, int, str, Tally, Timeline]] = []
        self._name = ""
        self._tally = self._nameless
        self._timeline = Timeline()

    def add(self, key: str, size: int) -> None:
        """Count a record."""
        name, slash, rkey = key.partition("/")
        if not (name and slash):  # such keys do not follow each other
            self._nameless.add(size)
            return
        if name != self._name:
            self.close()
            self._name, self._tally, self._timeline = name, Tally(), Timeline()
        self._tally.add(size)
        self._timeline.add(rkey)

    def close(self) -> None:
        """Finish the present collection."""
        if not self._name:
            return
        tally = self._tally
        ranked = (tally.records, tally.size, self._name, tally, self._timeline)
        self._name = ""
        if len(self._named) < _MOST_NAMED:
            heappush(self._named, ranked)
            return
        *_, tally, timeline = heappushpop(self._named, ranked)
        self.others.include(tally)
        self.others_timeline.include(timeline)
        self.other_names += 1

    def named(self) -> Sequence[Named]:
        """Return the largest collections, sorted by name."""
        nameless = [Named("", self._nameless, Timeline())] if self._nameless.records else []
        return nameless + sorted(
            (Named(name, tally, timeline) for *_, name, tally, timeline in self._named),
            key=lambda named: named.name,
        )

    def everything(self) -> Sequence[Named]:
        """Return the largest collections, and all others as one of them."""
        others = self.other_names
        if not others:
            return self.named()
        name = f"({others:,} {'other' if others == 1 else 'others'})"
        return [*self.named(), Named(name, self.others, self.others_timeline, others)]
