"""Which keys of a repo are wanted: ranges of keys, and what of a tree lies within them.

Keys are compared as bytes, which is the order of the tree; of text that is its order by code
points.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["KeyRanges"]


_Range = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """Half-open ranges `(start, stop)` of keys, in order and apart; a stop of `None` is the end.

    `KeyRanges.of` and its siblings make them; the constructor takes what is in that form already.
    """

    ranges: tuple[_Range, ...] = ((b"", None),)

    @classmethod
    def of(cls, start: str | None, stop: str | None) -> KeyRanges:
        """Take the keys from `start` to before `stop`; `None` leaves that side open.

        Raises:
            ValueError: where `stop` comes before `start`.
        """
        first = (start or "").encode()
        beyond = None if stop is None else stop.encode()
        if beyond is not None and beyond < first:
            raise ValueError(f"a range ends where it starts or after it, not {stop!r} < {start!r}")
        return cls.joined([(first, beyond)])

    @classmethod
    def prefixes(cls, prefixes: Iterable[str]) -> KeyRanges:
        """Take the keys that start with any of some texts."""
        return cls.joined((start := prefix.encode(), _after(start)) for prefix in prefixes)

    @classmethod
    def collections(cls, names: Iterable[object]) -> KeyRanges:
        """Take the keys of some collections.

        Raises:
            TypeError: where a name is no text.
            ValueError: where a name is empty or has a slash.
        """
        prefixes: list[str] = []
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"collections are named one by one, each by text, not {name!r}")
            if not name or "/" in name:
                raise ValueError(f"a collection is named by its NSID, not {name!r}")
            prefixes.append(name + "/")
        return cls.prefixes(prefixes)

    @classmethod
    def key(cls, key: bytes) -> KeyRanges:
        """Take one key."""
        return cls(((key, key + b"\0"),))

    @classmethod
    def joined(cls, ranges: Iterable[_Range]) -> KeyRanges:
        """Put ranges in order, and those that touch together; empty ones fall away."""
        joined: list[_Range] = []
        for start, stop in sorted(ranges, key=lambda each: each[0]):
            if stop is not None and stop <= start:
                continue
            if joined and ((end := joined[-1][1]) is None or start <= end):
                if end is not None:
                    joined[-1] = (joined[-1][0], None if stop is None else max(end, stop))
            else:
                joined.append((start, stop))
        return cls(tuple(joined))

    @property
    def everything(self) -> bool:
        """Whether no key is left out."""
        return self.ranges == ((b"", None),)

    def __and__(self, other: KeyRanges) -> KeyRanges:
        """Take the keys that are in both."""
        return KeyRanges.joined(
            (max(start, other_start), _sooner(stop, other_stop))
            for start, stop in self.ranges
            for other_start, other_stop in other.ranges
        )

    def starting_at(self, key: bytes) -> KeyRanges:
        """Take those from `key` on."""
        return self & KeyRanges(((key, None),))

    def may_hold(self, lower: bytes, upper: bytes | None) -> bool:
        """Say whether a key between two others can be wanted; `None` is the end of all keys.

        No key is empty, but whoever asks for the empty one wants to know what comes after it.
        """
        if lower:
            lower += b"\0"  # the first key after it
        at = bisect_right(self.ranges, lower, key=lambda each: each[0])
        if at and _ends_after(self.ranges[at - 1][1], lower):
            return True
        return at < len(self.ranges) and (upper is None or self.ranges[at][0] < upper)

    def stop_after(self, key: bytes) -> bytes | None:
        """Give the first key beyond the range that holds `key`; `None` where it has no end."""
        at = bisect_right(self.ranges, key, key=lambda each: each[0])
        return self.ranges[at - 1][1]

    def spans(self, keys: Sequence[str]) -> Iterator[slice]:
        """Give the parts of `keys`, which are in order, that are wanted."""
        # Of a thousand ranges few meet the keys of one node.
        at = bisect_right(self.ranges, keys[0].encode(), key=lambda each: each[0])
        last = keys[-1].encode()
        for start, stop in self.ranges[max(at - 1, 0) :]:
            if start > last:
                break
            first = bisect_left(keys, start, key=str.encode)
            beyond = len(keys) if stop is None else bisect_left(keys, stop, first, key=str.encode)
            if first < beyond:
                yield slice(first, beyond)


def _after(prefix: bytes) -> bytes | None:
    """Give the first key after all that start with a prefix, which is UTF-8 and so has no 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None


def _sooner(stop: bytes | None, other: bytes | None) -> bytes | None:
    if stop is None or other is None:
        return other if stop is None else stop
    return min(stop, other)


def _ends_after(stop: bytes | None, key: bytes) -> bool:
    return stop is None or stop > key
