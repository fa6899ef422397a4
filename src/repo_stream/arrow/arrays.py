"""Columns of Python values as Arrow arrays, made of their buffers.

`pyarrow.array` and `pyarrow.scalar` do the same and more. But they import pandas first, if that is
installed, which takes a second and 50 MiB; and by default they take memory of a pool that keeps
what one thread allocates and another frees, which is 20 MiB for a stream. These take 50 ns a text
more, and nothing else. No Python object is in their buffers, as whoever frees such an array would
need the interpreter for that.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import accumulate, chain, repeat
from typing import Any, Final, cast

from repo_stream.arrow.columns import pyarrow

__all__ = [
    "RepeatedTexts",
    "Texts",
    "Times",
    "boolean_array",
    "integer_array",
    "list_array",
    "nullable_bytes",
    "nullable_text",
    "repeated",
    "spread",
]

_INT32: Final = "i"
_INT64: Final = "q"


def repeated(text: str, count: int) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return a text so many times as an array of type `string`."""
    encoded = text.encode()
    size = len(encoded)
    offsets = range(0, size * count + 1, size) if size else [0] * (count + 1)
    return _made(pyarrow().string(), count, [None, array(_INT32, offsets), encoded * count])


# --- Columns that grow ----------------------------------------------------------------------------


class Texts:
    """Texts that are added some at a time, when they have just been made.

    To keep them until there are enough for an array takes more memory, and twice the time: by then,
    none of them is in a cache of the processor.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._lengths = array(_INT32)

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return len(self._data)

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts."""
        lengths, data = _encoded(texts)
        self._data += data
        self._lengths.extend(lengths)

    def array(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return them as an array of type `string`.

        Raises:
            OverflowError: if they are longer than 2 GiB.
        """
        ends = array(_INT32, accumulate(self._lengths, initial=0))
        return _made(pyarrow().string(), len(self._lengths), [None, ends, self._data])


class RepeatedTexts:
    """Texts of which each is added many times in a row."""

    def __init__(self) -> None:
        self._runs: list[tuple[str, int]] = []
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return self._size

    def add(self, text: str, count: int) -> None:
        """Add a text so many times."""
        self._size += len(text.encode()) * count
        if self._runs and self._runs[-1][0] == text:
            count += self._runs.pop()[1]
        self._runs.append((text, count))

    def array(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return them as an array of type `string`."""
        if len(self._runs) == 1:
            return repeated(*self._runs[0])
        encoded = [(text.encode(), count) for text, count in self._runs]
        lengths = chain.from_iterable([repeat(len(text), count) for text, count in encoded])
        ends = array(_INT32, accumulate(lengths, initial=0))
        data = b"".join([text * count for text, count in encoded])
        return _made(pyarrow().string(), len(ends) - 1, [None, ends, data])


class Times:
    """Microseconds since 1970 that are added some at a time."""

    #: How many bytes of text they take.
    size: Final = 0

    def __init__(self) -> None:
        self._values = array(_INT64)
        self._missing: list[int] = []

    def extend(self, micros: Sequence[int | None]) -> None:
        """Add times, of which those that are `None` will be null."""
        if None in micros:
            start = len(self._values)
            self._missing += [start + at for at, value in enumerate(micros) if value is None]
        self._values.extend([value or 0 for value in micros])

    def array(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return them as an array of timestamps in UTC."""
        count = len(self._values)
        present: bytearray | None = None
        if self._missing:
            present = bytearray(b"\xff" * -(-count // 8))
            for at in self._missing:
                present[at >> 3] &= ~(1 << (at & 7))
        kind = pyarrow().timestamp("us", tz="UTC")
        return _made(kind, count, [present, self._values])


# --- Values of which some are null ----------------------------------------------------------------


def nullable_text(texts: Sequence[str | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return texts as an array of type `string`; `None` is null."""
    whole = [text or "" for text in texts] if None in texts else cast("Sequence[str]", texts)
    lengths, data = _encoded(whole)
    ends = array(_INT32, accumulate(lengths, initial=0))
    return _made(pyarrow().string(), len(texts), [_presence(texts), ends, data])


def nullable_bytes(values: Sequence[bytes | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return byte strings as an array of type `binary`; `None` is null."""
    whole = [value or b"" for value in values]
    ends = array(_INT32, accumulate(map(len, whole), initial=0))
    return _made(pyarrow().binary(), len(values), [_presence(values), ends, b"".join(whole)])


def integer_array(values: Sequence[int | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return integers as an array of type `int64`; `None` is null."""
    numbers = array(_INT64, [value or 0 for value in values])
    return _made(pyarrow().int64(), len(values), [_presence(values), numbers])


def boolean_array(values: Sequence[bool | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return booleans as an array of type `bool`; `None` is null."""
    return _made(pyarrow().bool_(), len(values), [_presence(values), _bits(values)])


def list_array(kind: Any, lists: Sequence[list[Any] | None], items: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return lists as an array; `None` is null.

    Args:
        kind: its type.
        lists: the lists, of which only the lengths matter.
        items: an array of all that is in them.
    """
    lengths = [len(each) if each else 0 for each in lists]
    ends = array(_INT32, accumulate(lengths, initial=0))
    return _made(kind, len(lists), [_presence(lists), ends], [items])


def spread(values: Any, places: Sequence[int | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return an array with values from these places in an array; `None` is null."""
    at = _made(
        pyarrow().int32(),
        len(places),
        [_presence(places), array(_INT32, [place or 0 for place in places])],
    )
    compute = import_module("pyarrow.compute")
    return compute.take(values, at, memory_pool=pyarrow().system_memory_pool())


# --- Buffers --------------------------------------------------------------------------------------


def _encoded(texts: Sequence[str]) -> tuple[Iterable[int], bytes]:
    """Return how many bytes each text has, and the bytes of all."""
    joined = "".join(texts)
    if joined.isascii():
        return map(len, texts), joined.encode()
    encoded = [text.encode() for text in texts]
    return map(len, encoded), b"".join(encoded)


def _presence(values: Sequence[object]) -> bytes | None:
    """Return a bit for each value, which is not set if it is `None`; `None` if all are set."""
    return _bits([value is not None for value in values]) if None in values else None


def _bits(values: Sequence[object]) -> bytes:
    """Return a bit for each value, whether it is true: the first one is the lowest."""
    bits = "".join(["1" if value else "0" for value in reversed(values)])
    return int(bits or "0", 2).to_bytes(-(-len(values) // 8), "little")


def _made(
    kind: Any,  # noqa: ANN401 - pyarrow has no types
    length: int,
    parts: Sequence[array[int] | bytes | bytearray | None],
    children: Sequence[Any] | None = None,
) -> Any:  # noqa: ANN401 - pyarrow has no types
    arrow = pyarrow()
    buffers = [None if part is None else _copied(part, arrow) for part in parts]
    return arrow.Array.from_buffers(kind, length, buffers, children=children)


def _copied(part: array[int] | bytes | bytearray, arrow: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return a buffer of Arrow's own with the bytes of an array, or with these bytes."""
    data = memoryview(part)
    buffer = arrow.allocate_buffer(data.nbytes, memory_pool=arrow.system_memory_pool())
    if data.nbytes:
        memoryview(buffer).cast("B")[:] = data.cast("B")
    return buffer
