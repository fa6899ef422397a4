"""`table`: the typed columns of one collection, as an Arrow stream.

Measured in one run, 300,000 records, compiled, with the extra `[fast]`: by a schema that is given,
it takes as long as `records` of the same collection with all columns (0.97 for posts, 1.03 for
likes). Half of that is walking and checking the repo, a quarter decoding records, and a sixth
making arrays of them. A first pass takes 0.7 more: it walks and decodes, too; looking at the values
is a tenth of it.
"""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from threading import Lock
from typing import Any, Unpack

from repo_stream.arguments import check_kind, check_whole
from repo_stream.arrow.batching import BATCH_ROWS, Collector, walk
from repo_stream.arrow.columns import pyarrow
from repo_stream.arrow.inference import Inferred
from repo_stream.arrow.problems import Problems
from repo_stream.arrow.scanning import OnBadSource, Scan, ScanNetwork
from repo_stream.arrow.shapes import FIXED, fields_of, schema_of_fields
from repo_stream.arrow.sources import ArrowSources
from repo_stream.arrow.streams import ArrowStream
from repo_stream.arrow.typed_batching import (
    TYPED_BATCH_BYTES,
    TypedCollector,
    TypedRow,
    typed_processor,
)
from repo_stream.drivers.keywords import CollectionKeywords, OpenKeywords, takes
from repo_stream.loop_thread import loop_thread
from repo_stream.syntax import is_nsid

__all__ = ["Table", "table"]


class Table(ArrowStream):
    """The typed columns of one collection as an Arrow stream; `table` makes it.

    It is read as `Records` is: by DuckDB, Polars, pandas and pyarrow, again and again, each time in
    a scan of its own. If no schema was given, there is a first pass over the sources, when somebody
    asks for `schema` or reads the stream, and only once.
    """

    def __init__(
        self,
        scan: Scan,
        collection: str,
        schema: Any,  # noqa: ANN401 - pyarrow has no types
        sample: int | None,
        limits: tuple[int, int],
    ) -> None:
        super().__init__(schema, listing=scan.on_error == "report")
        self._how = scan
        self._collection = collection
        self._sample = sample
        self._limits = limits
        self._inferring = Lock()

    def __repr__(self) -> str:
        return f"<Table of {self._collection} in {self._how.title}>"

    def __reduce__(self) -> tuple[object, ...]:
        how = (self._how, self._collection, self._schema, self._sample, self._limits)
        return type(self), how

    @property
    def collection(self) -> str:
        """The NSID of the collection."""
        return self._collection

    @property
    def schema(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """The `pyarrow.Schema` of the stream, which other calls of `table` take.

        If it was not given, it is inferred from the records when it is needed for the first time.

        Raises:
            RepoStreamError, OSError: if a source cannot be read, and `on_error` is `"raise"`.
        """
        with self._inferring:
            if self._schema is None:
                self._schema = self._inferred()
            return self._schema

    def _inferred(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        watcher = _Watcher(self._sample)
        with loop_thread() as loop:
            loop.call(self._watch, watcher)
        return watcher.inferred.schema()

    async def _watch(self, watcher: _Watcher) -> None:
        """Read the sources until the watcher has seen enough."""
        found = self._how.batches(
            typed_processor(times=False),
            lambda repo, on_problem: walk(repo, watcher, on_problem),
            Problems(listing=False),
        )
        async with aclosing(found):
            async for _ in found:
                return

    def _scan(self, problems: Problems) -> AsyncGenerator[Any]:
        batch_rows, batch_bytes = self._limits
        collector = TypedCollector(self.schema, batch_rows=batch_rows, batch_bytes=batch_bytes)
        return self._how.collected(typed_processor(), collector, problems)


class _Watcher(Collector):
    """Sees records as a collector does, to infer a schema, and keeps none of them.

    Args:
        sample: how many records are enough; `None` if it should see all.
    """

    def __init__(self, sample: int | None) -> None:
        most = sys.maxsize if sample is None else sample
        super().__init__(FIXED, batch_rows=most, batch_bytes=sys.maxsize)
        self.inferred = Inferred()
        self._left = most

    @property
    def free_rows(self) -> int:
        """How many records more there are to be in the sample."""
        return self._left

    def add(
        self, keys: Sequence[str], cids: Sequence[bytes], rows: Sequence[TypedRow] = ()
    ) -> None:
        """See records."""
        for record, _, size in rows:
            self.inferred.add(record)
            self._bytes += size
        self._left -= len(rows)

    def take(self) -> None:
        """Return nothing."""


@takes(CollectionKeywords)
def table(
    sources: ArrowSources,
    *,
    collection: str,
    schema: Any = None,  # noqa: ANN401 - pyarrow has no types
    sample: int | None = None,
    on_error: OnBadSource = "raise",
    network: ScanNetwork | None = None,
    earlier_keys: bool = False,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = TYPED_BATCH_BYTES,
    **keywords: Unpack[CollectionKeywords],
) -> Table:
    """Return the records of one collection as an Arrow stream with typed columns.

    The first columns are those of `records`, without `collection` and `record`: `uri`, `did`,
    `rkey`, `cid`, `rev` and `created_at`. Then comes a column for each field of the records, sorted
    by name, and at last `other`. Without `schema`, the fields and their types are inferred from the
    records, in a first pass over the sources:

    | In the records | In Arrow |
    |---|---|
    | text, integers, booleans, bytes | `string`, `int64`, `bool`, `binary` |
    | a link | `string`, its CID |
    | a list | `list` |
    | a map | `struct`, with all fields that any of the records has there |
    | a union of a lexicon | the same; its field `$type` tells which member it is |
    | different kinds in different records | `string`, JSON as the API has it |

    JSON is also what always is empty or null, what is nested deeper than 16 levels, and maps with
    more than 128 different keys. A schema has at most 1,000 fields, with all that are nested, and
    128 columns for them. `createdAt` stays the text that it is, and `created_at` is the
    time.

    Nothing of a record is lost. What does not fit its column, or has none, is in `other`: a JSON
    text, null if there is nothing left over. It has what is left over at its place, so that
    `{"embed":{"new":1}}` is a record whose map `embed` has another field than the column, beside
    those that are in the column. A list that does not fit is there as a whole. With a schema that
    was inferred from all records, it only has explicit nulls: a null in a column means that there
    is no such field. (In a list, it is an explicit null.)

    A field that is named like a column before it, or differs from another one in upper and lower
    case alone, gets a number: `uri_2`. The metadata of each Arrow field says what is not plain:
    `repo_stream.form` is `link` or `json`, and `repo_stream.key` the name in the record. JSON in
    these columns has one form that the API does not have: if a map has a key that is reserved
    there (`$link`, `$bytes`), it is `{"$map":[[key,value],...]}`.

    Args:
        sources: see `records`. With a first pass, they are read twice, and accounts are downloaded
            twice: pass `schema` or `sample`, or keep CARs.
        collection: the NSID of the collection.
        schema: the columns of the records, to be taken as they are: the `schema` of another
            `Table`, so that many files have one; or any that has fields of the types above, and
            their other widths. Links and JSON fit columns whose metadata says so, as above; a
            schema that has been through DuckDB or Polars has lost it, so that they are in `other`.
            `uri` and the other columns of each `Table` need not be in it. It is a `pyarrow.Schema`,
            or what `pyarrow.schema` takes.
        sample: from how many records to infer the schema, the first ones; `None` is all. What only
            later records have is in `other`.
        on_error: see `records`. Problems are those of the scan, not of the first pass.
        network: see `records`.
        earlier_keys: see `open_repo`.
        batch_rows: how many records a batch has at most.
        batch_bytes: how much memory the decoded records of a batch take at most, in bytes, by a
            rule of thumb, but for the last one.
        **keywords: those of `records`, but for `collections`, with the same defaults, such as
            `mem_limit_mb=16`, in MiB.

    Returns:
        The stream.

    Raises:
        MissingExtra, FileNotFoundError, TypeError: see `records`.
        ValueError: see `records`; or if a column of the schema has a type that no value of a record
            has.

    Example:
        >>> import duckdb
        >>> posts = table("tests/cars/sample.car", collection="app.bsky.feed.post")
        >>> duckdb.sql("select count(*), count(reply.parent.uri) from posts").fetchall()
        [(134, 73)]
    """
    check_kind("collection", collection, str, such_as='"app.bsky.feed.post"')
    if not is_nsid(collection):
        raise ValueError(
            f"collection must be the NSID of one collection, such as app.bsky.feed.post, "
            f"not {collection!r}"
        )
    if sample is not None:
        check_whole("sample", sample, least=1)
    check_whole("batch_rows", batch_rows, least=1)
    check_whole("batch_bytes", batch_bytes, least=1)
    opening: OpenKeywords = {**keywords, "collections": [collection]}
    scan = Scan.of(sources, on_error, network, earlier_keys, opening)
    columns = None if schema is None else schema_of_fields(fields_of(pyarrow().schema(schema)))
    return Table(scan, collection, columns, sample, (batch_rows, batch_bytes))
