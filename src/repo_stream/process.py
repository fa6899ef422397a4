"""What is made of a record's bytes, and how the result is measured and spilled.

A plain function is enough where its results are made of the values that CBOR carries:

    DriverBuilder().with_block_processor(len)

`Processor` adds what other results need: what they cost in memory, and how they become bytes and
come back, for the repos that go through the disk.

A processor is called for every block that cannot be a node of the tree, before anybody knows
whether the tree reaches it; one that raises does no harm unless it does. Two keys can name one
record, and then share one result: treat results as values that do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from repo_stream import dagcbor

__all__ = ["Processor", "length", "noop"]

T = TypeVar("T")


def noop(block: bytes) -> bytes:
    """Give the record as it is: the bytes of its block, DAG-CBOR. It is the default."""
    return block


def length(block: bytes) -> int:
    """Give the record's length in bytes."""
    return len(block)


@dataclass(frozen=True)
class Processor(Generic[T]):
    """A block processor together with what the memory limit and the disk need to know.

    It is what the trait `Processable` is in the Rust crate.

    Args:
        process: takes a record's bytes, gives the result.
        size_of: what a result costs in memory, in bytes, all that it holds included. The default
            measures built-in values and looks into containers and `__dict__`.
        dumps: turns a result into bytes for the disk store. The default writes CBOR, and raises
            `TypeError` for a type that would not come back as it was.
        loads: turns those bytes into an equal result.

    Example:
        A dataclass as the result, spilled as JSON:

        >>> import json
        >>> from dataclasses import asdict, dataclass
        >>> @dataclass
        ... class Size:
        ...     bytes: int
        >>> processor = Processor(
        ...     lambda block: Size(len(block)),
        ...     size_of=lambda size: 80,
        ...     dumps=lambda size: json.dumps(asdict(size)).encode(),
        ...     loads=lambda data: Size(**json.loads(data)),
        ... )
        >>> processor.loads(processor.dumps(processor.process(b"four")))
        Size(bytes=4)
    """

    process: Callable[[bytes], T]
    size_of: Callable[[T], int] = dagcbor.size_of
    dumps: Callable[[T], bytes] = dagcbor.dump_value
    loads: Callable[[bytes], T] = dagcbor.load_value

    @property
    def keeps_bytes(self) -> bool:
        """Whether results are the blocks themselves, so that nothing has to be told apart."""
        return self.process is _NOOP and self.dumps is dagcbor.dump_value


_NOOP: Final[Callable[[bytes], Any]] = noop
