"""Block processors: what is made of a record's bytes, and how the result is measured and stored.

A plain function is enough if its results are made of values that CBOR has:

    DriverBuilder().with_block_processor(len)

`Processor` adds what other results need: how much memory they take, and how they become bytes and
are read back, for repos that go to disk.

A processor is called for every block that cannot be a node of the tree, before it is known whether
the tree reaches that block. If it raises, that matters only if the tree does. If two keys name one
record, they share one result, so treat results as immutable. Blocks that come when memory is full
go to disk as they are, and are processed when the walk reaches them. If only some of the keys are
walked, no block is processed before that.

That suits results that are smaller than their records. Larger ones would fill the memory, and take
more space on disk than the record does. For those there are *lazy* processors, which are called
when the walk reaches a record; until then its block stays as it is. `record` and all that
use it are lazy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast

from repo_stream import sizes
from repo_stream.arguments import check_flag, check_kind, check_number
from repo_stream.ipld import spilled_values
from repo_stream.ipld.blobs import Blob, faults_in, may_refer, references_in
from repo_stream.ipld.datamodel import (
    decode_record,
    to_atproto_json,
    to_dag_json,
    to_json_value,
)
from repo_stream.ipld.links import Links, links_in

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "BlockProcessor",
    "Processor",
    "as_bytes",
    "as_processor",
    "atproto_json",
    "blob_faults",
    "blobs",
    "created_at",
    "dag_json",
    "json_value",
    "length",
    "links",
    "noop",
    "record",
]

T = TypeVar("T")


def noop(block: bytes) -> bytes:
    r"""Return the record unchanged: the bytes of its block, DAG-CBOR.

    It is the default of `DriverBuilder`.

    Example:
        >>> noop(b"\xa0")
        b'\xa0'
    """
    return block


def length(block: bytes) -> int:
    r"""Return the record's length in bytes, as `len` does.

    Example:
        >>> length(b"\xa0")
        1
    """
    return len(block)


def record(block: bytes) -> dict[str, Any]:
    r"""Decode the record into plain Python values. It is the default of `open_car`.

    They are `dict`, `list`, `str`, `int`, `bytes`, `bool` and `None`, and `Cid` for a link. The
    data model of atproto has no floats, and no integers beyond 64 bits with a sign, so a record
    with one is not valid. It has links to records and to blobs, of DAG-CBOR or raw bytes with
    SHA-256; links of other forms that servers serve, such as CIDv0, are read as well.

    With the extra `[fast]`, which installs `libipld`, a record of 200 to 600 bytes takes 1 to 3 us;
    with `cbor2` alone it takes 7 to 14. Values and errors are the same. It is lazy: until the walk
    reaches the record, memory and disk hold its DAG-CBOR, and records that the tree does not reach
    are never decoded.

    Args:
        block: the record's bytes.

    Raises:
        InvalidDagCbor: if they are not a map in canonical DAG-CBOR, or hold a value that the data
            model does not have. A driver raises it as the cause of a `ProcessError`, which names
            the key.
        NestedTooDeep: if lists or maps are nested deeper than 128 levels; raised in the same way.

    Example:
        >>> record(b"\xa1dtextbhi")
        {'text': 'hi'}
    """
    return decode_record(block)


def dag_json(block: bytes) -> str:
    r"""Convert the record to canonical DAG-JSON: a `str` of one line, without a line ending.

    A link is written as `{"/":"bafy..."}`, and bytes as `{"/":{"bytes":"..."}}` in base64 without
    padding. Keys are sorted. Characters beyond ASCII are not escaped, so write it as UTF-8. A
    record of 200 to 600 bytes takes 3 to 6 us with the extra `[fast]`, 9 to 18 without. It is lazy,
    as `record` is. See https://ipld.io/specs/codecs/dag-json/spec/.

    Args:
        block: the record's bytes.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        ValueError: if it holds a map that would be a link or bytes in DAG-JSON.

    Example:
        >>> dag_json(b"\xa2aaBhiabb\xc3\xbc")
        '{"a":{"/":{"bytes":"aGk"}},"b":"ü"}'
    """
    return to_dag_json(decode_record(block))


def atproto_json(block: bytes) -> str:
    r"""Convert the record to JSON as the API of atproto has it: a `str` without a line ending.

    It is what `getRecord` returns as `value` and `createRecord` takes as `record`. A link is
    written as `{"$link":"bafy..."}`, and bytes as `{"$bytes":"..."}` in base64 without padding.
    Otherwise it is as with `dag_json`, in speed as well: sorted keys, nothing escaped, lazy. See
    https://atproto.com/specs/data-model#json-representation.

    That form reserves the keys `$link` and `$bytes`, so a record with a map that has one of them
    cannot be written: it would be read back as something else, or not at all.

    Args:
        block: the record's bytes.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        ValueError: if it holds a map with the key `$link` or `$bytes`.

    Example:
        >>> atproto_json(b"\xa2aaBhiabb\xc3\xbc")
        '{"a":{"$bytes":"aGk"},"b":"ü"}'
    """
    return to_atproto_json(decode_record(block))


def json_value(record: Mapping[str, Any] | bytes) -> dict[str, Any]:
    r"""Convert the record to values that `json.dumps` takes, as the API of atproto has them.

    It is for programs that write the JSON themselves, such as web frameworks. A link is the map
    `{"$link": "bafy..."}`, and bytes are `{"$bytes": "..."}` in base64 without padding. All else is
    as in the record, in its order. The record is not changed. It is lazy, as `record` is.

    Args:
        record: a decoded record, or the bytes of its block.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        ValueError: if it holds a map with the key `$link` or `$bytes`; see `atproto_json`.
        TypeError: if `record` is neither, or holds a value that the data model does not have.

    Example:
        >>> json_value({"text": "hi", "key": b"hi"})
        {'text': 'hi', 'key': {'$bytes': 'aGk'}}
    """
    return to_json_value(_decoded(record))


def links(record: Mapping[str, Any] | bytes) -> Links:
    r"""Find what the record refers to: `at://` URIs, DIDs, and CIDs, wherever in it they are.

    URIs and DIDs are found if a text is one as a whole: the subject of a like, the posts that a
    reply answers, who is followed, blocked, or mentioned in a facet of a post. A URI within a text
    is not. CIDs are found as links, which include those of blobs, and as text in a field `cid`, as
    a `com.atproto.repo.strongRef` has it. The API's JSON is read as well. It is lazy, as `record`
    is. A record of 200 to 600 bytes takes 4 to 9 us with the extra `[fast]`, 10 to 21 without.

    Args:
        record: a decoded record, or the bytes of its block.

    Returns:
        `Links`, which tells by `in` whether the record refers to something.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        TypeError: if `record` is neither.

    Example:
        >>> follow = {"$type": "app.bsky.graph.follow", "subject": "did:web:example.com"}
        >>> links(follow)
        Links(uris=(), dids=('did:web:example.com',), cids=())
        >>> "did:web:example.com" in links(follow)
        True
    """
    return links_in(_decoded(record))


def created_at(record: Mapping[str, Any] | bytes) -> datetime | str | None:
    r"""Return when a record was made, as it says itself: its field `createdAt`.

    What real servers and clients wrote is read, beyond what the specification allows
    (https://atproto.com/specs/lexicon#datetime). A text is a time if it is

    - a date, `2023-06-30`: midnight,
    - then, or not, `T`, `t` or a space, and a time of day: `15:03`, `15:03:01`, or `15:03:01.887`
      with any number of digits after a period or a comma. Those beyond the sixth are cut off, not
      rounded. `24:00` is the end of the day,
    - then, or not, a space, and a zone: `Z`, `z`, `UTC`, or an offset such as `+02:00`, `+0200` or
      `+02`; `-00:00` is UTC. Without a zone it is UTC, as atproto's own servers take it,

    and Python has such a `datetime`. The year 0 and years beyond 9999 are not times then, nor are
    leap seconds, the 30th of February, and a text of more than 64 characters.

    It is lazy, as `record` is.

    Args:
        record: a decoded record, or the bytes of its block.

    Returns:
        The time in UTC. If the text is not a time, the text as it is. `None` if there is no such
        field, or if it is not a text: a number does not say whether it counts seconds or
        milliseconds.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        TypeError: if `record` is neither.

    Example:
        >>> str(created_at({"createdAt": "2023-06-30T15:03:01.887Z"}))
        '2023-06-30 15:03:01.887000+00:00'
        >>> created_at({"createdAt": "yesterday"}), created_at({"text": "hi"})
        ('yesterday', None)
    """
    from repo_stream.times import created_time  # noqa: PLC0415 - `datetime` takes long to import

    text = _decoded(record).get("createdAt")
    return (created_time(text) or text) if isinstance(text, str) else None


def blobs(record: Mapping[str, Any] | bytes) -> list[Blob]:
    r"""Find the blobs that the record refers to: images and other files, which are not in the CAR.

    References are found in the form of the specification and in the legacy form
    (https://atproto.com/specs/data-model#blob-type), wherever in the record they are, in its order,
    and as often as they are in it. One with a mistake is returned as far as it has a CID; see
    `blob_faults`. It is lazy, as `record` is.

    Args:
        record: a decoded record, or the bytes of its block.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        TypeError: if `record` is neither.

    Example:
        >>> async def sizes_by_type(source: Source) -> Counter[str | None]:
        ...     sizes = Counter()
        ...     async with open_car(source, block_processor=blobs) as repo:
        ...         async for key, found in repo:
        ...             for blob in found:
        ...                 sizes[blob.mime_type] += blob.size or 0
        ...     return sizes
    """
    value = _decoded(record)
    has_none = isinstance(record, bytes) and not may_refer(record)
    return [] if has_none else references_in(value)


def blob_faults(record: Mapping[str, Any] | bytes) -> list[str]:
    r"""Find what is wrong with the references to blobs in the record, in words.

    There is a text for each reference that `blobs` leaves out because it has no CID, or that has no
    MIME type, no size, or a CID of another kind than the specification has for blobs. It says where
    in the record the reference is. References of the legacy form have none. It is lazy, as `record`
    is.

    Args:
        record: a decoded record, or the bytes of its block.

    Raises:
        InvalidDagCbor, NestedTooDeep: as `record` does.
        TypeError: if `record` is neither.

    Example:
        >>> blob_faults(b"\xa1eimage\xa1e$typedblob")
        ['image: ref is missing, mimeType is missing, size is missing']
    """
    value = _decoded(record)
    has_none = isinstance(record, bytes) and not may_refer(record)
    return [] if has_none else faults_in(value)


@dataclass(frozen=True)
class Processor(Generic[T]):
    """A block processor, with what the memory limit and the disk need to know about its results.

    It corresponds to the trait `Processable` of the Rust crate.

    Args:
        process: takes a record's bytes and returns the result.
        size_of: returns how much memory a result takes, in bytes, including all that it refers to.
            The default measures built-in values, and looks into containers and `__dict__`. A size
            that is negative or not a number is a `ValueError` or `TypeError` of the call that reads
            the file: with such sizes the memory limit would not hold.
        dumps: converts a result to bytes, for the disk. The default writes CBOR, and raises
            `TypeError` for a value of a type that would not be read back as an equal one, and
            `ValueError` for one that CBOR cannot have, such as a `datetime` without a time zone.
        loads: converts those bytes back to an equal result.
        lazy: call `process` when the walk reaches a record, and keep the block as it is until then.
            That is better for results that are larger than records. `size_of`, `dumps` and `loads`
            are not used then, and two keys that name one record get a result each.

    Raises:
        TypeError: if a function is not callable, if `process` is an async function, or if `lazy` is
            not a `bool`.

    Example:
        A dataclass as the result, stored as JSON:

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
    dumps: Callable[[T], bytes] = spilled_values.dump_value
    loads: Callable[[bytes], T] = spilled_values.load_value
    lazy: bool = False

    def __post_init__(self) -> None:
        if not callable(self.process):
            raise TypeError(f"a block processor must be callable, and {self.process!r} is not")
        for name in ("size_of", "dumps", "loads"):
            if not callable(function := getattr(self, name)):
                raise TypeError(f"{name} must be a function, not {function!r}")
        check_flag("lazy", self.lazy)
        if _is_async(self.process):
            raise TypeError(
                f"a block processor must be a plain function, and {self.process!r} is async; "
                "await in the loop over the records instead"
            )

    @property
    def keeps_bytes(self) -> bool:
        """Whether results are the blocks themselves."""
        return self.process is _NOOP and self.dumps is spilled_values.dump_value

    @property
    def checked_size_of(self) -> Callable[[T], float]:
        """`size_of`; if it is the caller's own, one that checks what that returns.

        It raises `TypeError` if that is not a number, and `ValueError` if it is negative or NaN.
        """
        size_of = self.size_of
        if size_of is sizes.size_of:
            return size_of

        def checked(value: T) -> float:
            size = size_of(value)
            check_number("what size_of returns", size, unit=" of bytes")
            return size

        return checked


#: What can be given as a block processor: a function of a record's bytes, or a `Processor`.
BlockProcessor: TypeAlias = Processor[T] | Callable[[bytes], T]


def as_processor(process: BlockProcessor[T]) -> Processor[T]:
    """Return the `Processor` for a function: a lazy one for `record` and all that use it.

    Raises:
        TypeError: if `process` is not callable, or is an async function.

    Example:
        >>> as_processor(len).lazy, as_processor(record).lazy
        (False, True)
    """
    if isinstance(process, Processor):
        return cast("Processor[T]", process)  # type: ignore[redundant-cast] # not for pyright
    for ready in _READY:
        if process is ready.process:
            return cast("Processor[T]", ready)
    return Processor(process)


def as_bytes(data: object) -> bytes:
    """Return what `dumps` returned, as `bytes` and not as a subclass.

    Raises:
        TypeError: if it is not bytes.
    """
    if not isinstance(data, bytes):
        raise TypeError(f"dumps returned a {type(data).__qualname__} instead of bytes")
    # A subclass may override what `bytes` does.
    return data if type(data) is bytes else memoryview(data).tobytes()


def _decoded(record: Mapping[str, Any] | bytes) -> dict[str, Any]:
    """Return a record decoded, which it may be already."""
    if isinstance(record, bytes):
        return decode_record(record)
    check_kind("record", record, Mapping, such_as="a decoded record, or its block as bytes")
    return record if isinstance(record, dict) else dict(record)


def _is_async(process: object) -> bool:
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (process, getattr(process, "__call__", None))  # noqa: B004 - to look at it, not to call it
    )


_NOOP: Final[Callable[[bytes], Any]] = noop
# Made once: to check a processor takes 2 of the 80 us of a small repo. The defaults come first.
_READY: Final[tuple[Processor[Any], ...]] = (
    Processor(_NOOP),
    Processor(record, lazy=True),
    Processor(dag_json, lazy=True),
    Processor(atproto_json, lazy=True),
    Processor(json_value, lazy=True),
    Processor(links, lazy=True),
    Processor(created_at, lazy=True),
    Processor(blobs, lazy=True),
    Processor(blob_faults, lazy=True),
)
