"""The records of repos as an Arrow stream, for DuckDB, Polars, pandas, pyarrow and all like them.

- `records`: all records of any number of repos, each as JSON, in one stream.
- `table`: the typed columns of one collection.
- `row_processor` and `batches`, `typed_processor` and `typed_batches`: the same of one open repo,
  for programs that have an event loop.

The public names are in `__init__.pyi`. It needs the extra `[arrow]`, which installs `pyarrow`. That
is larger than `arro3` (170 MB installed, against 34 with its Parquet) and slower to import (120 ms,
against 3). But it makes an array of texts in 29 ns a text, of JSON in 45, against 72 and 173; it
casts to what a reader asks for; it writes Parquet and Arrow files; and pandas needs it to read a
stream. Both read lazily from a generator.
"""

from repo_stream import _face


def __getattr__(name: str) -> object:
    return _face.named(__name__, name)


def __dir__() -> list[str]:
    return _face.directory_of(__name__)
