"""The records of repos as an Arrow stream, for DuckDB, Polars, pandas, pyarrow and all like them.

The public names are in `__init__.pyi`. It needs the extra `[arrow]`, which installs `pyarrow`.
"""

from repo_stream import _face


def __getattr__(name: str) -> object:
    return _face.named(__name__, name)


def __dir__() -> list[str]:
    return _face.directory_of(__name__)
