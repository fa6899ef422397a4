"""Which keys of a repo are wanted: ranges of keys, and which parts of a tree are within them.

Keys are compared as bytes, which is the order of the tree. Text is in the same order by its code
points, since a key is UTF-8.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from repo_stream.keys import parse_bound, parse_collection

__all__ = ["KeyRanges"]


_Range = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """Half-open ranges `(start, stop)` of keys; a stop of `None` is the end of all keys.

    They are in order and do not touch. `KeyRanges.of` and its siblings see to that; the constructor
    relies on it.
    """

    ranges: tuple[_Range, ...] = ((b"", None),)

    @classmethod
    def of(cls, start: str | None, stop: str | None) -> KeyRanges:
        """Return the range from `start` to before `stop`; `None` leaves that side open.

        Raises:
            ValueError: if `stop` is less than `start`, or if one of them is an `at://` URI.
        """
        first = parse_bound("" if start is None else start).encode()
        beyond = None if stop is None else parse_bound(stop).encode()
        if beyond is not None and beyond < first:
            raise ValueError(f"stop must not come before start: {stop!r} < {start!r}")
        return cls.joined([(first, beyond)])

    @classmethod
    def prefixes(cls, prefixes: Iterable[str]) -> KeyRanges:
        """Return the ranges of the keys that start with any of `prefixes`.

        Raises:
            ValueError: if a prefix is an `at://` URI.
        """
        starts = [parse_bound(prefix).encode() for prefix in prefixes]
        return cls.joined((start, _after(start)) for start in starts)

    @classmethod
    def collections(cls, names: Iterable[object]) -> KeyRanges:
        """Return the ranges of the keys of some collections.

        Args:
            names: NSIDs such as `app.bsky.feed.post`, and wildcards such as `app.bsky.feed.*`.

        Raises:
            TypeError: if a name is not a string.
            ValueError: if a name is neither an NSID nor a wildcard.
        """
        prefixes: list[str] = []
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"the name of a collection is a string, not {name!r}")
            prefixes.append(parse_collection(name))
        return cls.prefixes(prefixes)

    @classmethod
    def key(cls, key: bytes) -> KeyRanges:
        """Return the range that holds one key."""
        return cls(((key, key + b"\0"),))

    @classmethod
    def joined(cls, ranges: Iterable[_Range]) -> KeyRanges:
        """Sort ranges, join those that touch or overlap, and drop empty ones."""
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
        """Whether all keys are within the ranges."""
        return self.ranges == ((b"", None),)

    @property
    def only_key(self) -> bytes | None:
        """The one key that can be within the ranges; `None` if there can be more, or none."""
        if len(self.ranges) != 1:
            return None
        ((start, stop),) = self.ranges
        return start if stop == start + b"\0" else None

    def __and__(self, other: KeyRanges) -> KeyRanges:
        """Return the ranges of the keys that are in both."""
        return KeyRanges.joined(
            (max(start, other_start), _sooner(stop, other_stop))
            for start, stop in self.ranges
            for other_start, other_stop in other.ranges
        )

    def starting_at(self, key: bytes) -> KeyRanges:
        """Return what is left of the ranges from `key` on."""
        return self & KeyRanges(((key, None),))

    def may_hold(self, lower: bytes, upper: bytes | None) -> bool:
        """Return whether a key between two others can be wanted.

        Args:
            lower: a key that is not asked about itself; empty for the beginning of all keys, which
                is asked about (no key is empty, but a proof may be wanted for the empty one).
            upper: the first key beyond; `None` for the end of all keys.
        """
        if lower:
            lower += b"\0"  # the first key after it
        at = bisect_right(self.ranges, lower, key=lambda each: each[0])
        if at and _ends_after(self.ranges[at - 1][1], lower):
            return True
        return at < len(self.ranges) and (upper is None or self.ranges[at][0] < upper)

    def stop_after(self, key: bytes) -> bytes | None:
        """Return the end of the range that holds `key`; `None` if it has no end."""
        at = bisect_right(self.ranges, key, key=lambda each: each[0])
        return self.ranges[at - 1][1]

    def spans(self, keys: Sequence[str]) -> Iterator[slice]:
        """Yield the slices of `keys`, which are sorted, that are wanted."""
        # There may be a thousand ranges, few of which overlap the keys of one node.
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
    """Return the first key after all that start with `prefix`; `None` if there is no such key."""
    # No byte of UTF-8 is 0xff, so the last one can be increased.
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None


def _sooner(stop: bytes | None, other: bytes | None) -> bytes | None:
    if stop is None or other is None:
        return other if stop is None else stop
    return min(stop, other)


def _ends_after(stop: bytes | None, key: bytes) -> bool:
    return stop is None or stop > key
