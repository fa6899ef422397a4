"""`Problems`: what was wrong with repos that were read on a cluster.

An actor keeps it, one for all workers. Read tasks tell it what they find, and at their end, that it
is all. So what is told in a second try of a task, as its worker has died, is kept once, and what
was found only in the first try is forgotten.

The actor runs on the node of the program that made it. So it is lost only if that node is, and with
it the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from repo_stream.arrow.problems import ScanProblem, table_of
from repo_stream.errors import MissingExtra

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Kept", "Problems", "import_ray"]


# How often a call is tried again if the actor cannot be reached. It may be run twice.
_TRIES: Final = 3


class Problems:
    """What is wrong with repos that `read_repos` reads, from all workers.

    Make one for each data set, and pass it to `read_repos(..., on_error="report", problems=...)`.
    It fills while the data set is read. Each problem is in it once for each source, key and class
    of error, however often Ray tries to read a source. Of a source, it has at most the first 1,000
    records that could not be read.

    It is kept by an actor on the node where this was called, which ends with the last reference to
    it. If that node is lost, so is the program that reads the data set.

    Raises:
        MissingExtra: if `ray` is not installed.

    Example:
        >>> def read(folder: str) -> None:
        ...     problems = Problems()
        ...     records = read_repos(folder, on_error="report", problems=problems)
        ...     records.write_parquet("records")
        ...     for problem in problems.rows():
        ...         print(problem.source, problem.key, problem.message)
    """

    def __init__(self) -> None:
        ray = import_ray()
        if not ray.is_initialized():
            ray.init()
        # Unique in all clusters; `None` in other processes, which this is sent to.
        self._node: str | None = ray.get_runtime_context().get_node_id()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(self._node, soft=False)
        actor: Any = ray.remote(Kept).options(  # Any: Ray makes the methods of an actor as it runs
            num_cpus=0, scheduling_strategy=here, max_restarts=0, max_task_retries=_TRIES
        )
        self._actor: Any = actor.remote()

    def rows(self) -> list[ScanProblem]:
        """Return all problems so far, by source and key; see `ScanProblem`.

        Raises:
            RuntimeError: if they were lost, as the actor has ended, or Ray was shut down.
        """
        rows: list[ScanProblem] = self._ask("rows")
        return rows

    def dataset(self) -> Dataset:
        """Return all problems so far as a data set.

        Its columns are those of a `ScanProblem`, all of them text: `source`, `did`, `key`, `cid`,
        `error` and `message`.

        Raises:
            RuntimeError: if they were lost, as the actor has ended, or Ray was shut down.
        """
        dataset: Dataset = import_ray().data.from_arrow(table_of(self.rows()))
        return dataset

    def tell(self, found: Sequence[ScanProblem], *, instead_of: Sequence[str] = ()) -> None:
        """Add problems; read tasks call this.

        Args:
            found: the problems.
            instead_of: of these sources, forget what was told before.

        Raises:
            RuntimeError: if they were lost, as the actor has ended, or Ray was shut down.
        """
        self._ask("tell", found, instead_of)

    def __getstate__(self) -> dict[str, object]:
        self._check()
        return {"_actor": self._actor, "_node": None}

    def _check(self) -> None:
        """Check that Ray is still the same: it aborts the program that sends an earlier actor."""
        ray = import_ray()
        if self._node is None:
            return
        if not ray.is_initialized() or ray.get_runtime_context().get_node_id() != self._node:
            raise RuntimeError(
                "what was wrong with repos is lost: Ray was shut down after Problems() was made. "
                "Make a new one, pass it to read_repos, and read again"
            )

    def _ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - as it is declared there
        self._check()
        ray = import_ray()
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            raise RuntimeError(
                "what is wrong with repos can no longer be kept, and what was told before is lost: "
                f"the actor of Problems() has ended, perhaps with its node. Read again; {error}"
            ) from error


class Kept:
    """The actor of `Problems`. A call can be repeated without a difference."""

    def __init__(self) -> None:
        self._by_source: dict[str, dict[tuple[str | None, str], ScanProblem]] = {}

    def tell(self, found: Iterable[ScanProblem], instead_of: Iterable[str]) -> None:
        """Add problems; see `Problems.tell`."""
        for source in instead_of:
            self._by_source.pop(source, None)
        for problem in found:
            of_source = self._by_source.setdefault(problem.source, {})
            of_source[problem.key, problem.error] = problem

    def rows(self) -> list[ScanProblem]:
        """Return all problems, by source and key."""
        rows = [row for rows in self._by_source.values() for row in rows.values()]
        return sorted(rows, key=lambda row: (row.source, row.key or "", row.error))


def import_ray() -> Any:  # noqa: ANN401 - an extra, half of which has no types
    """Import Ray and its data sets.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        for module in ("ray.data", "ray.util.scheduling_strategies"):
            import_module(module)
        return import_module("ray")
    except ImportError as error:
        raise MissingExtra(extra="ray", package="ray[data]", feature="repo_stream.ray") from error
