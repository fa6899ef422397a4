"""`export --typed`: a file for each collection, with columns of the types that its records have.

Records are read twice: what the columns are is known when all of them were seen. What cannot be
read twice is kept in a temporary file meanwhile.

The records of a collection come one after the other in a repo, but not those of several repos. So
all files are open to the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from repo_stream import Commit, Output, RepoStreamError
from repo_stream.arrow import Inferred, TypedCollector, TypedRow, typed_processor
from repo_stream.cli.arrow_files import ColumnarFile, columnar_file
from repo_stream.cli.folder import collection_of
from repo_stream.cli.opened import as_file, opened
from repo_stream.cli.output import OutputError, destination, new_file
from repo_stream.cli.several_cars import narrowed

__all__ = ["Schemas", "TypedFile", "TypedFiles", "look_at", "typed_files"]

_ENDING: Final = ".parquet"
# Each is an open file, if there are several CARs. Real repos have some tens of collections.
_MOST_COLLECTIONS: Final = 200
# In all collections together, with what is nested. Each is a column of an open file, which takes
# some 10 kB. Real repos have some hundreds.
_MOST_FIELDS: Final = 5000
# How many bytes wait to be written, in all files together.
_MOST_COLLECTED: Final = 32 * 1024 * 1024


class Schemas:
    """What the records of each collection look like.

    Args:
        path: what is written, for errors.

    Attributes:
        path: the same; never `None`.
        failures: why CARs could not be read, by their names.
    """

    def __init__(self, path: str | None) -> None:
        self.failures: dict[str, RepoStreamError | OSError] = {}
        self.path: str = "standard output" if path is None else path
        self._inferred: dict[str, Inferred] = {}
        self._fields = 0

    def add(self, chunk: Iterable[Output[TypedRow]]) -> None:
        """Add records.

        Raises:
            OutputError: if they are of too many collections, or have too many fields.
        """
        for name, outputs in groupby(chunk, _name_of):
            inferred = self._inferred.setdefault(name, Inferred())
            before = inferred.size
            for output in outputs:
                inferred.add(output.value[0])
            self._fields += inferred.size - before
            if len(self._inferred) > _MOST_COLLECTIONS:
                self._refuse(f"there are more than {_MOST_COLLECTIONS:,} collections")
            if self._fields > _MOST_FIELDS:
                self._refuse(f"the records have more than {_MOST_FIELDS:,} different fields")

    def _refuse(self, reason: str) -> NoReturn:
        reason = f"{reason}; name some collections: --collection"
        raise OutputError(self.path, OSError(0, reason))

    def of(self, name: str) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return the schema of the file with a name."""
        return self._inferred.get(name, Inferred()).schema()


def _name_of(output: Output[TypedRow]) -> str:
    return collection_of(output.key, _ENDING)


async def look_at(options: argparse.Namespace, schemas: Schemas, stack: AsyncExitStack) -> None:
    """Look at the records of all CARs, and keep what cannot be read again.

    Args:
        options: the command line. Its `kept` gets the files of the CARs.
        schemas: gets what the records look like, and the errors of CARs, which are told later.
        stack: removes the files at its end.
    """
    on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
    for name in options.cars:
        of_car = narrowed(options, name)
        try:
            options.kept[name] = await stack.enter_async_context(as_file(of_car))
            processor = typed_processor(times=False)
            async with opened(of_car, processor, on_error=on_error) as car:
                async for chunk in car.chunks():
                    schemas.add(chunk)
        except (RepoStreamError, OSError) as error:
            schemas.failures[name] = error


class TypedFile:
    """Writes the records of one collection to a file.

    Args:
        file: the file.
        schema: its columns. Any, here: pyarrow has no types.
        several: whether there are several repos.
    """

    def __init__(self, file: ColumnarFile, schema: Any, *, several: bool) -> None:  # noqa: ANN401 - above
        self._file = file
        self._several = several
        self._collector = TypedCollector(schema)

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._collector.begin(commit.did, commit.rev)
        self._file.begin(None if self._several else commit)

    def write(self, chunk: Sequence[Output[TypedRow]]) -> None:
        """Write the next records."""
        if chunk:
            keys, cids, rows = zip(*chunk, strict=True)
            self._collector.add(keys, cids, rows)
        if self._collector.full:
            self.flush()

    def flush(self) -> None:
        """Make a batch of what has been collected."""
        if self._collector.rows:
            self._file.write(self._collector.take())

    @property
    def collected(self) -> int:
        """How many bytes wait to be written."""
        return self._file.collected

    def write_out(self) -> None:
        """Write what waits to be written."""
        self.flush()
        self._file.write_group()


class TypedFiles:
    """Writes the records of each collection to a file of its own; see `folder`.

    Args:
        part: an empty folder.
        schemas: the columns of the files.
        several: whether there are several repos.
        stack: completes the files, or drops them after an error.
    """

    def __init__(self, part: Path, schemas: Schemas, stack: ExitStack, *, several: bool) -> None:
        self._part = part
        self._schemas = schemas
        self._stack = stack
        self._several = several
        self._files: dict[str, TypedFile] = {}
        self._begun: set[str] = set()
        self._last = ""
        self._commit: Commit | None = None

    @property
    def names(self) -> set[str]:
        """The names of the files."""
        return {*self._files}

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._commit = commit
        self._begun = set()

    def write(self, chunk: Sequence[Output[TypedRow]]) -> None:
        """Write the next records."""
        for name, outputs in groupby(chunk, _name_of):
            if name != self._last:
                self._leave()
                self._last = name
            self._file(name).write(list(outputs))

    def flush(self) -> None:
        """Make batches of what has been collected."""
        for file in self._files.values():
            file.flush()

    def _file(self, name: str) -> TypedFile:
        """Return the file with a name, which knows the repo that is written."""
        if name not in self._files:
            schema, path = self._schemas.of(name), self._schemas.path
            file = self._stack.enter_context(new_file(self._part / name, path))
            columnar = self._stack.enter_context(columnar_file("parquet", schema, file, path))
            self._files[name] = TypedFile(columnar, schema, several=self._several)
        found = self._files[name]
        if name not in self._begun and self._commit is not None:
            self._begun.add(name)
            found.begin(self._commit)
        return found

    def _leave(self) -> None:
        """Leave a collection: hardly any of it comes any more."""
        if self._last:
            self._files[self._last].flush()
        if sum(file.collected for file in self._files.values()) > _MOST_COLLECTED:
            for file in self._files.values():
                file.write_out()


@contextmanager
def typed_files(part: Path, schemas: Schemas, *, several: bool) -> Generator[TypedFiles]:
    """Write the records of each collection to a file of its own, as `folder` asks for."""
    with ExitStack() as stack:
        files = TypedFiles(part, schemas, stack, several=several)
        yield files
        files.flush()


@contextmanager
def typed_file(
    kind: Literal["parquet", "arrow"],
    path: str | None,
    schemas: Schemas,
    collection: str,
    *,
    several: bool,
) -> Generator[TypedFile]:
    """Write the records of one collection to a file.

    Args:
        kind: the form of the file.
        path: its path; `None` for standard output.
        schemas: what the records look like.
        collection: the collection.
        several: whether there are several repos.
    """
    schema = schemas.of(collection_of(f"{collection}/", _ENDING))
    with (
        destination(path) as file,
        columnar_file(kind, schema, file, path) as columnar,
    ):
        typed = TypedFile(columnar, schema, several=several)
        yield typed
        typed.flush()
