"""The keywords of `open_car` and of what is like it: each is declared once, with its default.

A `TypedDict` declares types and documentation, which is what type checkers and editors read; a
function says `**keywords: Unpack[OpenKeywords]`. `DEFAULTS` has the defaults. `takes` makes the
function behave as if it had declared all of them itself.

Annotations are evaluated here (no `from __future__ import annotations`), so that the signature
that `takes` builds shows types and not their names.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, TypeVar, cast

from repo_stream.limits import Limits
from repo_stream.mst.ranges import KeyRanges

if TYPE_CHECKING:
    from repo_stream.store.disk import DiskStore

__all__ = [
    "DEFAULTS",
    "BuilderKeywords",
    "CollectionKeywords",
    "KeyRange",
    "OpenKeywords",
    "OrderKeywords",
    "Spill",
    "StreamKeywords",
    "takes",
]

F = TypeVar("F", bound=Callable[..., object])

#: Where blocks go that do not fit in memory: a file, an open store, a temporary file, or nowhere.
Spill: TypeAlias = "str | os.PathLike[str] | DiskStore | Literal[False] | None"

#: The first key of a range and the first key after it; `None` leaves that side open.
KeyRange: TypeAlias = tuple[str | None, str | None]


class _ReadKeywords(TypedDict, total=False):
    mem_limit_mb: float
    """How much memory a repo may take before it goes to disk, in MiB. Default: `16`.

    Python's own objects are counted. 0 sends every repo to disk.
    """
    verify_cids: bool
    """Check every block against its CID. Default: `True`."""
    limits: Limits | None
    """Limits on the input, such as the size of a block. Default: `None`, which is `Limits()`."""


class _SpillKeywords(TypedDict, total=False):
    spill: Spill
    """Where blocks go that do not fit in memory. Default: `None`, a temporary file.

    The path of a database, which is emptied before and after; a `DiskStore`, which is empty again
    at the end and stays open; `None`, a temporary file; or `False`, nowhere.
    """


class StreamKeywords(_SpillKeywords, total=False):
    """The keywords of `DriverBuilder.stream_car`."""

    drain: bool
    """Read the file to its end when the walk is over, and check the rest too. Default: `True`."""


class BuilderKeywords(_ReadKeywords, total=False):
    """The keywords of `DriverBuilder` that do not change the type of its results."""

    key_ranges: KeyRanges | None
    """The keys to walk; see `DriverBuilder.with_key_range`. Default: `None`, all of them."""


class OrderKeywords(_ReadKeywords, _SpillKeywords, total=False):
    """The keywords of `order_car` and `join_cars`."""


class CollectionKeywords(_ReadKeywords, StreamKeywords, total=False):
    """The keywords of `open_car`, for what reads one collection."""

    key_range: KeyRange | None
    """The keys to walk, from `start` to before `stop`. Default: `None`, all of them."""
    prefix: str | None
    """What the keys to walk start with. Default: `None`, all of them."""
    check_first: bool
    """Read and check the whole file before the first record comes out. Default: `False`."""


class OpenKeywords(CollectionKeywords, total=False):
    """The keywords of `open_car` that do not change the type of its results."""

    collections: Iterable[str] | None
    """NSIDs of the collections to walk, or wildcards such as `app.bsky.feed.*`; see
    `DriverBuilder.with_collections`. Default: `None`, all of them."""


class _AllKeywords(BuilderKeywords, OpenKeywords, total=False):
    pass


#: The default of each keyword.
DEFAULTS: Final[_AllKeywords] = {
    "mem_limit_mb": 16,
    "verify_cids": True,
    "limits": None,
    "spill": None,
    "drain": True,
    "key_ranges": None,
    "collections": None,
    "key_range": None,
    "prefix": None,
    "check_first": False,
}


def takes(kind: type, **more: object) -> Callable[[F], F]:
    """Make a function with `**keywords: Unpack[kind]` like one that declares these keywords.

    It is called with all of them, the defaults included; any other keyword is a `TypeError`; and
    `inspect.signature` shows them.

    Args:
        kind: one of the `TypedDict` classes of this module, or one that adds keywords to it.
        **more: the defaults of the keywords that it adds.
    """
    declared: dict[str, object] = kind.__annotations__
    every = {**cast("dict[str, object]", DEFAULTS), **more}
    defaults = {name: every[name] for name in declared}

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        named = [
            each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD
        ]
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=declared[name]
            )
            for name, default in defaults.items()
        ]
        known = {each.name for each in [*named, *added]}

        @functools.wraps(function)
        def complete(*args: object, **given: object) -> object:
            if not given.keys() <= known:
                unknown = next(name for name in given if name not in known)
                raise TypeError(
                    f"{function.__qualname__}() got an unexpected keyword argument {unknown!r}"
                )
            return function(*args, **{**defaults, **given})

        # A wrapper has no such attribute in its type.
        cast("Any", complete).__signature__ = signature.replace(parameters=[*named, *added])
        return cast("F", complete)

    return decorate
