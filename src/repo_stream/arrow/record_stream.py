"""`records`: the records of any number of repos, as one Arrow stream."""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Unpack

from repo_stream.arrow.batching import (
    BATCH_BYTES,
    BATCH_ROWS,
    Collector,
    JsonForm,
    row_processor,
)
from repo_stream.arrow.columns import chosen, schema_of
from repo_stream.arrow.problems import Problems
from repo_stream.arrow.scanning import OnBadSource, Scan, ScanNetwork
from repo_stream.arrow.sources import ArrowSources
from repo_stream.arrow.streams import ArrowStream
from repo_stream.drivers.keywords import OpenKeywords, takes

__all__ = ["Records", "records"]


class Records(ArrowStream):
    """The records of repos as an Arrow stream; `records` makes it.

    DuckDB, Polars, pandas and pyarrow read it as they read a table. Nothing is read before they ask
    for it, and no more is held than the memory limit and a batch. It can be read again and again,
    also by several readers at once: each time is a scan of its own, which reads the sources anew. A
    reader that stops half-way frees all that its scan has opened. It can be pickled, and then be
    read in another process, if `network` can.
    """

    def __init__(
        self,
        scan: Scan,
        columns: tuple[str, ...],
        json_form: JsonForm,
        batch_rows: int,
        batch_bytes: int,
    ) -> None:
        super().__init__(schema_of(columns), listing=scan.on_error == "report")
        self._how = scan
        self._columns = columns
        self._json_form: JsonForm = json_form
        self._limits = (batch_rows, batch_bytes)
        self._processor = row_processor(columns, json_form)
        self._new_collector()  # what is wrong with the limits is told now

    def __repr__(self) -> str:
        return f"<Records of {self._how.title}: {', '.join(self._columns)}>"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._how, self._columns, self._json_form, *self._limits)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self._columns

    def select(self, *columns: str) -> Records:
        """Return the same records with fewer columns, or in another order.

        The interface has no way for a reader to say which columns it needs: DuckDB asks for all of
        them, whatever the query. So leave out `record` and `created_at` if you can: then no record
        is read at all, which takes a quarter of the time.

        Args:
            *columns: their names; see `records`.

        Raises:
            ValueError: if there is no such column, or if one is named twice.

        Example:
            >>> import duckdb
            >>> collections = records("tests/cars/sample.car").select("collection")
            >>> duckdb.sql("select count(*) from collections").fetchall()
            [(500,)]
        """
        names = chosen(columns)
        for name in names:
            if name not in self._columns:
                raise ValueError(f"{name!r} was left out; there are {', '.join(self._columns)}")
        return Records(self._how, names, self._json_form, *self._limits)

    def _scan(self, problems: Problems) -> AsyncGenerator[Any]:
        return self._how.collected(self._processor, self._new_collector(), problems)

    def _new_collector(self) -> Collector:
        batch_rows, batch_bytes = self._limits
        return Collector(self._columns, batch_rows=batch_rows, batch_bytes=batch_bytes)


@takes(OpenKeywords)
def records(
    sources: ArrowSources,
    *,
    columns: Iterable[str] | None = None,
    on_error: OnBadSource = "raise",
    json_form: JsonForm = "atproto",
    network: ScanNetwork | None = None,
    earlier_keys: bool = False,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    **keywords: Unpack[OpenKeywords],
) -> Records:
    """Return the records of repos as an Arrow stream, for DuckDB, Polars, pandas and the like.

    The records come in the order of the sources, and those of a repo in key order. The columns are,
    in this order:

    | Column | Type | What it is |
    |---|---|---|
    | `uri` | text | `at://did/collection/rkey` |
    | `did` | text | the account |
    | `collection` | text | the NSID of the collection |
    | `rkey` | text | the record key |
    | `cid` | text | the CID of the record |
    | `rev` | text | the revision of the repo that the record was read from |
    | `created_at` | timestamp, UTC | the time in `createdAt`; null if it is not one: `created_at` |
    | `record` | text | the record as JSON |

    Text is of Arrow's plainest type, `string`. With dictionaries for the columns that repeat,
    DuckDB would count by collection in 1.5 instead of 4.7 ms per 300,000 records, which take 600 ms
    to read; but Polars would make a `Categorical` of them, which has no `.str`, and some functions
    of pyarrow take no dictionaries.

    Readers:

    - DuckDB: `duckdb.sql("from r where ...")` with the stream in a variable `r`, or `register`.
    - Polars: `polars.DataFrame(r)`; `polars.scan_arrow_c_stream(r)` does not hold all of it, and
      can be collected once.
    - pandas: `pandas.DataFrame.from_arrow(r)`.
    - pyarrow: `pyarrow.table(r)`, or `r.batches()` for one batch after the other.

    Args:
        sources: one source or a list: paths of CARs, globs, folders, names of accounts, and bytes;
            see `expand`. Accounts are downloaded, in each scan anew. What can only be read once,
            such as an open file, is refused.
        columns: the names of the columns, in the order that you want; `None` is all of them. What
            is left out is not made: without `record` and `created_at` no record is read, only the
            tree.
        on_error: what to do if a source or a record cannot be read:

            - `"raise"`: raise the error, after the records before it;
            - `"skip"`: leave it out. Of a source, the records before the error stay in;
            - `"report"`: the same, and list it in `Records.problems`.

            A record that the JSON of the API cannot express is one that cannot be read, if its
            JSON is asked for: see `process.atproto_json`. With `json_form="dag-json"` such records
            can be written, but for one with a map that DAG-JSON takes for a link.
        json_form: what `record` is: `"atproto"`, JSON as the API has it, or `"dag-json"`.
        network: finds the accounts: a `repo_stream.sync.Network`, which you close; or a function
            that returns a new `Network`. It is called in each scan that downloads, and the network
            is closed at the end of that. `None` is `Network` itself.
        earlier_keys: see `open_repo`.
        batch_rows: how many records a batch has at most.
        batch_bytes: at how many bytes of JSON a batch ends, more or less.
        **keywords: those of `open_car`, with their defaults

            - `mem_limit_mb=16`: how much memory a scan may take for a repo, in MiB, beside two
              batches.
            - `spill=None`: where blocks go that do not fit in memory: the path of a database, for
              one scan at a time; `None`, a temporary file; or `False`, nowhere.
            - `collections=None`: NSIDs of the collections to read, or wildcards.
            - `key_range=None`: `(start, stop)`, see `DriverBuilder.with_key_range`.
            - `prefix=None`: see `DriverBuilder.with_prefix`.
            - `drain=True`: read each file to its end, and check the rest too.
            - `check_first=False`: read and check each whole file before its first record.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input; `None` is `Limits()`.

    Returns:
        The stream. Its readers raise what reading raises, in errors of their own whose text has the
        name of ours, its message, and the source; `Records.batches` and `Records.to_reader` raise
        it as it is.

    Raises:
        MissingExtra: if `pyarrow` is not installed; the extra is `[arrow]`.
        FileNotFoundError: if nothing matches a glob, or a folder has no CARs.
        TypeError: if a source is not one, or an argument is of the wrong type.
        ValueError: if a column, a name, a range or a choice is not valid.

    Example:
        >>> import duckdb
        >>> posts = records("tests/cars/sample.car", collections=["app.bsky.feed.post"])
        >>> duckdb.sql("select count(*), max(created_at)::date::text from posts").fetchall()
        [(134, '2023-04-01')]
    """
    scan = Scan.of(sources, on_error, network, earlier_keys, keywords)
    return Records(scan, chosen(columns), json_form, batch_rows, batch_bytes)
