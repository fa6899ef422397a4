"""Columns of Python values as Arrow arrays, made of their buffers.

`pyarrow.array` and `scalar` do the same and more. But they import pandas first, if that is installed, which
takes a second and 50 MiB; and by default they take memory of a pool that keeps what one thread
allocates and another frees, which is 20 MiB for a stream. These take 50 ns a text more, and nothing
else. No Python object is in their buffers, as whoever frees such an array needs the interpreter.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

from repo_stream.arrow.columns import pyarrow

__all__ = ["repeated", "text_array", "time_array"]

_INT32: Final = "i"
_INT64: Final = "q"


def text_array(texts: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return texts as an array of type `string`.

    Raises:
        OverflowError: if they are longer than 2 GiB.
    """
    encoded = [text.encode() for text in texts]
    offsets = array(_INT32, accumulate(map(len, encoded), initial=0))
    return _made(pyarrow().string(), len(texts), [None, offsets, b"".join(encoded)])


def time_array(micros: Sequence[int | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return microseconds since 1970 as an array of timestamps in UTC; `None` is null."""
    present: bytes | None = None
    if None in micros:
        # The first value is the lowest bit of the first byte.
        bits = "".join(["0" if value is None else "1" for value in reversed(micros)])
        present = int(bits, 2).to_bytes(-(-len(micros) // 8), "little")
    values = array(_INT64, [value or 0 for value in micros])
    kind = pyarrow().timestamp("us", tz="UTC")
    return _made(kind, len(micros), [present, values])


def repeated(text: str, count: int) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return a text so many times as an array of type `string`."""
    encoded = text.encode()
    size = len(encoded)
    offsets = range(0, size * count + 1, size) if size else [0] * (count + 1)
    return _made(pyarrow().string(), count, [None, array(_INT32, offsets), encoded * count])


def _made(kind: Any, length: int, parts: Sequence[array[int] | bytes | None]) -> Any:  # noqa: ANN401 - pyarrow has no types
    arrow = pyarrow()
    buffers = [None if part is None else _copied(part, arrow) for part in parts]
    return arrow.Array.from_buffers(kind, length, buffers)


def _copied(part: array[int] | bytes, arrow: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return a buffer of Arrow's own with the bytes of an array, or with these bytes."""
    data = memoryview(part)
    buffer = arrow.allocate_buffer(data.nbytes, memory_pool=arrow.system_memory_pool())
    if data.nbytes:
        memoryview(buffer).cast("B")[:] = data.cast("B")
    return buffer
