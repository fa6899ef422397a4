"""What is made of a record's bytes, and how the result is measured and spilled.

A plain function is enough where its results are made of the values that CBOR carries:

    DriverBuilder().with_block_processor(len)

`Processor` adds what other results need: what they cost in memory, and how they become bytes and
come back, for the repos that go through the disk.

A processor is called for every block that cannot be a node of the tree, before anybody knows
whether the tree reaches it; one that raises does no harm unless it does. Two keys can name one
record, and then share one result: treat results as values that do not change. Blocks that come when
memory is full stay as they are on disk, and are processed as the walk gives them out.

That is right for results smaller than records. Larger ones would fill the memory and be written to
disk in a longer form than they came in; a *lazy* processor is called once the walk is there, and
until then its blocks stay as they are. `record` and `dag_json` are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

from repo_stream import sizes
from repo_stream.ipld import dagcbor
from repo_stream.ipld.datamodel import decode_record, to_dag_json

__all__ = ["Processor", "as_bytes", "as_processor", "dag_json", "length", "noop", "record"]

T = TypeVar("T")


def noop(block: bytes) -> bytes:
    r"""Give the record as it is: the bytes of its block, DAG-CBOR. It is the default.

    Example:
        >>> noop(b"\xa0")
        b'\xa0'
    """
    return block


def length(block: bytes) -> int:
    r"""Give the record's length in bytes. `len` does the same.

    Example:
        >>> length(b"\xa0")
        1
    """
    return len(block)


def record(block: bytes) -> dict[str, Any]:
    r"""Give the record as plain Python values.

    They are `dict`, `list`, `str`, `int`, `bytes`, `bool` and `None`, and `Cid` for a link. The
    data model of atproto has no floats, so a record with one is not valid.

    With the extra `[fast]`, which installs `libipld`, a record of 200 to 600 bytes takes 1 to 3 us,
    with `cbor2` alone 7 to 14; the values and the errors are the same. It is lazy: until the walk
    is there, memory and disk hold the record's own DAG-CBOR, and what the tree does not reach is
    never decoded.

    Args:
        block: the record's bytes.

    Raises:
        InvalidDagCbor: where they are no map of canonical DAG-CBOR, or hold what the data model
            has not. A driver raises it as the cause of a `ProcessError`, which names the key.

    Example:
        >>> record(b"\xa1dtextbhi")
        {'text': 'hi'}
    """
    return decode_record(block)


def dag_json(block: bytes) -> str:
    r"""Give the record as canonical DAG-JSON: a `str`, one line without its end.

    A link is written as `{"/":"bafy..."}`, bytes as `{"/":{"bytes":"..."}}` in base64 without
    padding, keys are sorted, and characters beyond ASCII stay as they are: write it as UTF-8. A
    record of 200 to 600 bytes takes 3 to 6 us with the extra `[fast]`, 9 to 18 without. It is
    lazy, as `record` is. See https://ipld.io/specs/codecs/dag-json/spec/.

    Args:
        block: the record's bytes.

    Raises:
        InvalidDagCbor: as `record` does.
        ValueError: where it holds a map that DAG-JSON would take for a link or for bytes.

    Example:
        >>> dag_json(b"\xa2aaBhiabb\xc3\xbc")
        '{"a":{"/":{"bytes":"aGk"}},"b":"ü"}'
    """
    return to_dag_json(decode_record(block))


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
        lazy: keep blocks as they are, and call `process` for a record when the walk gives it out.
            Good for results that are larger than records. `size_of`, `dumps` and `loads` have
            nothing to do then, and two keys that name one record get a result each.

    Raises:
        TypeError: where `process` cannot be called, or is an async function.

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
    size_of: Callable[[T], int] = sizes.size_of
    dumps: Callable[[T], bytes] = dagcbor.dump_value
    loads: Callable[[bytes], T] = dagcbor.load_value
    lazy: bool = False

    def __post_init__(self) -> None:
        if not callable(self.process):
            raise TypeError(f"a block processor is called, and {self.process!r} cannot be")
        if _is_async(self.process):
            raise TypeError(
                f"a block processor is a plain function, and {self.process!r} is async; "
                "await what it needs in the loop over the records"
            )

    @property
    def keeps_bytes(self) -> bool:
        """Whether results are the blocks themselves, so that nothing has to be told apart."""
        return self.process is _NOOP and self.dumps is dagcbor.dump_value


def as_processor(process: Processor[T] | Callable[[bytes], T]) -> Processor[T]:
    """Give the processor that a function stands for: a lazy one for `record` and `dag_json`.

    Raises:
        TypeError: where it cannot be called, or is an async function.

    Example:
        >>> as_processor(len).lazy, as_processor(record).lazy
        (False, True)
    """
    if isinstance(process, Processor):
        return cast("Processor[T]", process)  # type: ignore[redundant-cast] # not for pyright
    return Processor(process, lazy=any(process is ready for ready in _LAZY))


def as_bytes(data: object) -> bytes:
    """Give what `dumps` gave.

    Raises:
        TypeError: where it is not bytes.
    """
    if not isinstance(data, bytes):
        raise TypeError(f"dumps gave a {type(data).__qualname__} instead of bytes")
    # A subclass can make something else of itself.
    return data if type(data) is bytes else memoryview(data).tobytes()


def _is_async(process: object) -> bool:
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (process, getattr(process, "__call__", None))  # noqa: B004 - its code
    )


_NOOP: Final[Callable[[bytes], Any]] = noop
_LAZY: Final[tuple[Callable[[bytes], Any], ...]] = (record, dag_json)
