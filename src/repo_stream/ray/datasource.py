"""Ray's `Datasource` of repos: how many read tasks there are, and which sources each reads.

It imports Ray, so it is imported when it is needed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from repo_stream.arrow.columns import pyarrow, schema_of
from repo_stream.ray.grouping import bytes_of, groups_of
from repo_stream.ray.tasks import Plan, Source, read_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ray.data import DataContext

__all__ = ["RepoDatasource"]

# How many bytes each column takes in Arrow for each byte of a CAR, about: as in a real repo of 452
# bytes a record, of which all collections are read.
_WEIGHTS: Final = {
    "uri": 0.16,
    "did": 0.08,
    "collection": 0.05,
    "rkey": 0.04,
    "cid": 0.14,
    "rev": 0.04,
    "created_at": 0.02,
    "record": 0.78,
}


class RepoDatasource(Datasource):
    """Repos as a source of Ray Data.

    Args:
        plan: how they are read.
        sources: the repos.
    """

    def __init__(self, plan: Plan, sources: Sequence[Source]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's is not typed
        self._plan = plan
        self._sources = sources

    def get_name(self) -> str:
        """Return what the read tasks are called after `Read`."""
        return "Repos"

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes all records take in Arrow."""
        return sum(self._bytes_of(source) for source in self._sources)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """Return about `parallelism` read tasks; see `grouping`."""
        groups = groups_of(self._sources, parallelism)
        return [self._task(group, per_task_row_limit) for group in groups]

    def _task(self, sources: list[Source], limit: int | None) -> ReadTask:
        plan = self._plan

        def read_repos() -> Any:  # noqa: ANN401 - pyarrow has no types
            return read_sources(plan, sources)

        metadata = BlockMetadata(
            num_rows=None,
            size_bytes=sum(map(self._bytes_of, sources)),
            exec_stats=None,
            input_files=tuple(source.given.name for source in sources),
        )
        # Ray asks for no columns at all if it only counts rows.
        schema = schema_of(plan.columns) if plan.columns else pyarrow().schema([])
        return ReadTask(read_repos, metadata, schema, limit)

    def _bytes_of(self, source: Source) -> int:
        return int(bytes_of(source) * sum(_WEIGHTS[name] for name in self._plan.columns))

    # --- Columns that are left out later, as by `select_columns`, are not read --------------------

    def supports_projection_pushdown(self) -> bool:
        """Return `True`."""
        return True

    def get_projection_map(self) -> dict[str, str] | None:
        """Return the columns that are read, or `None` if nothing was left out."""
        return {name: name for name in self._plan.columns} if self._plan.projected else None

    def apply_projection(self, projection_map: Mapping[str, str] | None) -> RepoDatasource:
        """Return the same source with those of its columns that are named."""
        if projection_map is None:
            return self
        columns = tuple(name for name in projection_map if name in self._plan.columns)
        plan = replace(self._plan, columns=columns, projected=True)
        return RepoDatasource(plan, self._sources)
