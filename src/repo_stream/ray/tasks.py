"""What runs in a worker: a read task, which reads its sources one after the other.

It is a generator of Arrow tables, and makes the same ones in every try; see the package. What is
wrong with a source is told to `Problems` before the task ends. So if the worker dies before, it is
told in the next try.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final, NamedTuple

from repo_stream.arrow.batching import Collector, JsonForm, row_processor
from repo_stream.arrow.columns import pyarrow
from repo_stream.arrow.problems import Problems as ScanProblems, ScanProblem
from repo_stream.arrow.scanning import Scan
from repo_stream.arrow.sources import Given
from repo_stream.loop_thread import iterate, loop_thread
from repo_stream.network.resolving import Network
from repo_stream.opening import Repo
from repo_stream.process import Processor
from repo_stream.ray.files import FileSystem, opened_file
from repo_stream.ray.problems import Problems, import_ray

__all__ = ["Plan", "Source", "WorkerScan", "read_sources"]

# How many problems are told at once, so that a million bad records of a repo take no memory.
_TELL_AFTER: Final = 1000
# How many of them are kept for a source: as many as a `RepoDriver` lists.
_OF_A_SOURCE: Final = 1000
# What is read if no column is needed, but the number of rows.
_ANY_COLUMN: Final = ("rkey",)


class Source(NamedTuple):
    """A source as it is sent to a worker.

    Attributes:
        given: its name, and how it is read on a machine alone.
        size: about how many bytes its CAR has, or `None` if that is not known.
        remote: its path on a file system that is not that of the machine; `None` if there is none.
        stored: Ray's reference to its bytes, which are an array; `None` if there are none.
    """

    given: Given
    size: int | None
    remote: str | None = None
    stored: Any = None  # Any: `ray.ObjectRef`, of an extra


@dataclass(frozen=True)
class WorkerScan(Scan):
    """A scan that also reads what only a cluster has: remote files and stored bytes.

    Attributes:
        by_name: the sources by their names.
        filesystem: the file system of all remote ones; `None` if each names its own.
    """

    by_name: dict[str, Source] = field(default_factory=dict[str, Source])
    filesystem: FileSystem | None = None

    def of_sources(self, sources: Sequence[Source]) -> WorkerScan:
        """Return the same scan of some sources."""
        by_name = {source.given.name: source for source in sources}
        return replace(self, sources=[source.given for source in sources], by_name=by_name)

    @asynccontextmanager
    async def opened(
        self, given: Given, network: Network | None, processor: Processor[Any]
    ) -> AsyncGenerator[Repo[Any]]:
        """Open a source; see `Scan.opened`."""
        source = self.by_name[given.name]
        async with AsyncExitStack() as stack:
            if source.remote is not None:
                file = opened_file(given.name, source.remote, self.filesystem)
                opened: Any = await stack.enter_async_context(file)  # Any: `Given` has paths alone
                given = given._replace(source=opened)
            elif source.stored is not None:
                stored: Any = memoryview(import_ray().get(source.stored))  # Any: see above
                given = given._replace(source=stored)
            yield await stack.enter_async_context(super().opened(given, network, processor))


@dataclass(frozen=True)
class Plan:
    """How sources are read.

    Attributes:
        columns: the columns of the tables.
        json_form: see `repo_stream.arrow.records`, as for the following.
        batch_rows: see there.
        batch_bytes: see there.
        scan: how each source is read; it has no sources yet.
        problems: where to tell what is wrong; `None` if nowhere.
        projected: whether columns were left out by Ray, as by `select_columns` or `count`.
    """

    columns: tuple[str, ...]
    json_form: JsonForm
    batch_rows: int
    batch_bytes: int
    scan: WorkerScan
    problems: Problems | None
    projected: bool = False


def read_sources(plan: Plan, sources: Sequence[Source]) -> Iterator[Any]:
    """Read sources, one after the other, and yield their records as `pyarrow.Table`.

    The first table has no rows, so that even a task without records has its columns.

    Raises:
        RepoStreamError, OSError: see `Scan.batches`.
    """
    read = plan.columns or _ANY_COLUMN
    collector = Collector(read, batch_rows=plan.batch_rows, batch_bytes=plan.batch_bytes)
    to_table: Any = pyarrow().Table.from_batches  # Any: pyarrow has no types
    to_block = to_table if plan.columns else _rows_alone(to_table)
    found = _Found(plan.problems)
    scan = plan.scan.of_sources(sources)
    batches = scan.collected(row_processor(read, plan.json_form), collector, found)
    yield to_block([], collector.schema)
    try:
        with loop_thread() as loop, closing(iterate(loop, batches)) as iterator:
            for batch in iterator:
                yield to_block([batch], collector.schema)
    except (Exception, GeneratorExit):  # the latter if Ray needs no more rows
        found.tell()
        raise
    # With fewer columns, not all that is wrong is found, so nothing is taken back.
    found.tell(all_of=[] if plan.projected else [source.given.name for source in sources])


def _rows_alone(to_table: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same without any column: in the form in which Ray still counts the rows."""
    accessor: Any = import_module("ray.data.block").BlockAccessor  # Any: half of it has no types

    def to_block(*arguments: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
        return accessor.for_block(to_table(*arguments)).select([])

    return to_block


class _Found(ScanProblems):
    """The problems of a task: what is added is told to an actor, some of it now and then.

    Args:
        problems: where to tell it; `None` if nowhere.
    """

    def __init__(self, problems: Problems | None) -> None:
        super().__init__(listing=problems is not None)
        self._to = problems
        self._untold: list[ScanProblem] = []
        self._of_source: Counter[str] = Counter()
        self._told_of: set[str] = set()

    def _list(self, problem: ScanProblem) -> None:
        """Keep a problem until it is told; of records, the first 1,000 in each source."""
        if problem.key is not None and self._of_source[problem.source] >= _OF_A_SOURCE:
            return
        self._of_source[problem.source] += 1
        self._untold.append(problem)
        if len(self._untold) >= _TELL_AFTER:
            self.tell()

    def tell(self, *, all_of: Sequence[str] = ()) -> None:
        """Tell what has been added.

        Args:
            all_of: the sources of the task, if all of them have been read. Then what was told of
                them in another try, or in another reading, no longer counts.
        """
        found, self._untold = self._untold, []
        if self._to is not None and (found or all_of):
            self._to.tell(found, instead_of=[name for name in all_of if name not in self._told_of])
            self._told_of.update(problem.source for problem in found)
