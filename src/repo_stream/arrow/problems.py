"""What a scan has left out, as an Arrow stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from repo_stream.arrow.arrays import nullable_text
from repo_stream.arrow.columns import pyarrow
from repo_stream.ipld.cid import Cid

__all__ = ["Problems", "ScanProblem", "table_of"]

# Problems to list, of some 500 bytes each. A folder of a million CARs can have as many.
_LISTED: Final = 10_000


class ScanProblem(NamedTuple):
    """A source, or a record in it, that could not be read.

    Attributes:
        source: the path of the file, or the name of the account; `sources[0]` for bytes, with the
            index at which they were passed.
        did: the account; `None` if the source failed before that was known.
        key: the key of the record; `None` if the source failed as a whole. Then the records before
            that are in the stream, and the others are not.
        cid: the CID of the record, as text.
        error: the name of the error's class, such as `TruncatedCar`.
        message: what it says.
    """

    source: str
    did: str | None
    key: str | None
    cid: str | None
    error: str
    message: str


class Problems:
    """What a scan has left out so far; it can be read wherever `Records` can.

    Iterate over it for the `ScanProblem`s in the order in which they were found, or read it as an
    Arrow stream, whose columns are their attributes. It lists the first 10,000 of them, and none
    with `on_error="skip"`; `count` counts all.
    """

    def __init__(self, *, listing: bool = True) -> None:
        #: How many there were.
        self.count: int = 0
        self._listing = listing
        self._listed: list[ScanProblem] = []

    def __iter__(self) -> Iterator[ScanProblem]:
        return iter([*self._listed])

    def __len__(self) -> int:
        """Return how many are listed."""
        return len(self._listed)

    def __repr__(self) -> str:
        return f"<{self.count:,} {'problem' if self.count == 1 else 'problems'}>"

    def add(
        self,
        source: str,
        error: Exception,
        *,
        did: str | None = None,
        key: str | None = None,
        cid: Cid | None = None,
    ) -> None:
        """Note a problem."""
        self.count += 1
        if self._listing:
            text = None if cid is None else str(cid)
            self._list(ScanProblem(source, did, key, text, type(error).__name__, str(error)))

    def _list(self, problem: ScanProblem) -> None:
        """List a problem; a subclass may keep it elsewhere."""
        if len(self._listed) < _LISTED:
            self._listed.append(problem)

    @property
    def schema(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """The `pyarrow.Schema` of the stream."""
        return _schema()

    def __arrow_c_schema__(self) -> object:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return table_of(self._listed).__arrow_c_stream__(requested_schema)


def table_of(problems: Iterable[ScanProblem]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return problems as a `pyarrow.Table`."""
    rows = [
        # The name of a file may be any bytes.
        [text and text.encode(errors="backslashreplace").decode() for text in problem]
        for problem in problems
    ]
    schema = _schema()
    columns = [nullable_text([row[at] for row in rows]) for at in range(len(schema))]
    return pyarrow().Table.from_arrays(columns, schema=schema)


def _schema() -> Any:  # noqa: ANN401 - pyarrow has no types
    arrow = pyarrow()
    always = {"source", "error", "message"}
    return arrow.schema(
        [
            arrow.field(name, arrow.string(), nullable=name not in always)
            for name in ScanProblem._fields
        ]
    )
