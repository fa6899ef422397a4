"""The columns of records: their names, what they mean, and their types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Final

from repo_stream.errors import MissingExtra

__all__ = ["COLUMNS", "chosen", "pyarrow", "reads_records", "schema_of"]

#: The columns of a record, in their order:
#:
#: - `uri`: its URI, `at://did/collection/rkey`.
#: - `did`: the account.
#: - `collection`: the NSID of its collection; empty if its key has none, which breaks the rules.
#: - `rkey`: its record key.
#: - `cid`: the CID of its block, as text.
#: - `rev`: the revision of the repo that it was read from.
#: - `created_at`: the time in its field `createdAt`, in UTC; null if that is not a time.
#: - `record`: the record as JSON.
COLUMNS: Final = ("uri", "did", "collection", "rkey", "cid", "rev", "created_at", "record")

# The columns for which the block of a record has to be read.
_OF_RECORDS: Final = frozenset({"created_at", "record"})


def chosen(columns: Iterable[str] | None) -> tuple[str, ...]:
    """Return the columns that a caller asks for, in that order; `None` is all of them.

    Raises:
        TypeError: if `columns` is a text, or is not iterable.
        ValueError: if there is no such column, if one is asked for twice, or if there are none.
    """
    if columns is None:
        return COLUMNS
    _check_shape(columns)
    names = tuple(columns)
    for at, name in enumerate(names):
        if name not in COLUMNS:
            raise ValueError(f"there is no column {name!r}; the columns are {', '.join(COLUMNS)}")
        if name in names[:at]:
            raise ValueError(f"columns has {name!r} twice")
    if not names:
        raise ValueError(f"columns is empty; the columns are {', '.join(COLUMNS)}")
    return names


def _check_shape(columns: object) -> None:
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of names, such as [{columns!r}]")
    if not isinstance(columns, Iterable):
        raise TypeError(f"columns must be a list of names, not {columns!r}")


def reads_records(columns: Sequence[str]) -> bool:
    """Return whether the blocks of records have to be read for these columns."""
    return not _OF_RECORDS.isdisjoint(columns)


def schema_of(columns: Iterable[str] | None = None) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the `pyarrow.Schema` of some of the columns, such as `batches` yields.

    Text is of Arrow's plainest type for it, `string`. `created_at` alone can be null.

    Args:
        columns: see `records`.

    Raises:
        MissingExtra: if `pyarrow` is not installed; the extra is `[arrow]`.
        TypeError, ValueError: if `columns` is not valid.

    Example:
        >>> str(schema_of().field("created_at").type)
        'timestamp[us, tz=UTC]'
    """
    names = chosen(columns)
    arrow = pyarrow()
    time = arrow.timestamp("us", tz="UTC")
    return arrow.schema(
        [
            arrow.field(name, time)
            if name == "created_at"
            else arrow.field(name, arrow.string(), nullable=False)
            for name in names
        ]
    )  # fmt: skip - one field a line


def pyarrow() -> Any:  # noqa: ANN401 - pyarrow has no types
    """Import `pyarrow`.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingExtra(extra="arrow", package="pyarrow", feature="repo_stream.arrow") from error
