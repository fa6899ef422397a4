"""Values with their types, for `True` and 1 are equal, and so are a `Cid` and its bytes."""

from __future__ import annotations

from datetime import datetime
from typing import cast


def shape(value: object) -> object:
    """A value as something that is equal only where it and all in it are of the same types."""
    kind = type(value)
    if kind is dict:
        items = cast("dict[object, object]", value).items()
        return kind, [(shape(key), shape(item)) for key, item in items]
    if kind in {list, tuple}:
        return kind, [shape(item) for item in cast("list[object]", value)]
    if kind in {set, frozenset}:
        return kind, sorted(map(shape, cast("set[object]", value)), key=repr)
    if kind is datetime:
        moment = cast("datetime", value)
        return kind, moment.replace(tzinfo=None), moment.utcoffset()
    return kind, repr(value)
