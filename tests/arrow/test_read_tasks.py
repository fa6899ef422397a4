"""`repo_stream.ray` without Ray: how sources are shared out, and what a read task does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from repo_stream import TruncatedCar
from repo_stream.arrow import Given, ScanProblem, records
from repo_stream.arrow.scanning import OnBadSource
from repo_stream.ray.grouping import groups_of
from repo_stream.ray.problems import Kept
from repo_stream.ray.tasks import Plan, Source, WorkerScan, read_sources
from repo_stream.testing import RawRecord, build_car

pa: Any = import_module("pyarrow")  # Any: it has no types

KB = 1024
MB = 1024 * KB


class Sized(NamedTuple):
    size: int | None


# --- Groups ---------------------------------------------------------------------------------------


def sizes(groups: list[list[Sized]]) -> list[list[int | None]]:
    return [[source.size for source in group] for group in groups]


def test_small_sources_share_a_task_and_a_large_one_has_its_own() -> None:
    sources = [*map(Sized, [10 * KB, 20 * KB, 90 * MB, 10 * KB, 30 * KB])]
    expected = [[10 * KB, 20 * KB], [90 * MB], [10 * KB, 30 * KB]]
    assert sizes(groups_of(sources, 4)) == expected


@pytest.mark.parametrize("number", [1, 7, 200, 5000])
def test_there_are_about_as_many_tasks_as_asked_for(number: int) -> None:
    sources = [Sized(n * n % 1009 * KB) for n in range(1000)]
    groups = groups_of(sources, number)
    assert [source for group in groups for source in group] == sources
    assert min(number, 1000) // 2 < len(groups) <= min(2 * number, 1000)


def test_sources_of_unknown_size_are_shared_out_by_number() -> None:
    assert [len(group) for group in groups_of([Sized(None)] * 9, 3)] == [3, 3, 3]


# --- A task ---------------------------------------------------------------------------------------


class Told:
    """What a task has told, as an actor keeps it."""

    def __init__(self) -> None:
        self._kept = Kept()
        self.calls = 0

    def tell(self, found: Sequence[ScanProblem], *, instead_of: Sequence[str] = ()) -> None:
        self.calls += 1
        self._kept.tell(found, instead_of)

    def errors(self) -> list[tuple[str, str | None, str]]:
        return [(row.source, row.key, row.error) for row in self._kept.rows()]


def plan_of(on_error: OnBadSource = "raise", told: Told | None = None, **changes: Any) -> Plan:
    scan = WorkerScan(sources=[], on_error=on_error, network=None, earlier_keys=False, keywords={})
    problems: Any = told  # in the place of an actor
    plain: dict[str, Any] = {
        "columns": ("uri", "record"),
        "json_form": "atproto",
        "batch_rows": 2,
        "batch_bytes": MB,
    }
    plain |= {"scan": scan, "problems": problems}
    return Plan(**plain | changes)


def source_of(path: Path) -> Source:
    return Source(Given(path.name, str(path), "file"), path.stat().st_size)


@pytest.fixture
def three(tmp_path: Path) -> list[Source]:
    """Three repos: a good one, one with a bad record, and a cut one."""
    good = {f"com.example.note/{n}": {"n": n} for n in range(5)}
    (tmp_path / "good").write_bytes(build_car(good))
    (tmp_path / "bad").write_bytes(build_car({**good, "com.example.note/2": RawRecord(b"\xff")}))
    (tmp_path / "cut").write_bytes(build_car(good)[:-3])
    return [source_of(tmp_path / name) for name in ("good", "bad", "cut")]


def test_a_task_makes_the_same_tables_in_every_try(three: list[Source]) -> None:
    tables = [*read_sources(plan_of("skip"), three)]
    assert [*read_sources(plan_of("skip"), three)] == tables
    alone = records([source.given.source for source in three], on_error="skip")
    together = pa.concat_tables(tables)
    assert together == alone.select("uri", "record").to_reader().read_all()


def test_what_is_wrong_is_told_at_the_end(three: list[Source]) -> None:
    told = Told()
    told.tell([ScanProblem("good", None, None, None, "TooSlow", "in an earlier try")])
    for _ in read_sources(plan_of("report", told), three):
        assert told.calls == 1
    assert told.errors() == [
        ("bad", "com.example.note/2", "ProcessError"),
        ("cut", None, "TruncatedCar"),
    ]


def test_a_task_that_is_not_needed_to_its_end_takes_nothing_back(three: list[Source]) -> None:
    told = Told()
    told.tell([ScanProblem("cut", None, None, None, "TruncatedCar", "in an earlier reading")])
    reading: Iterator[Any] = iter(read_sources(plan_of("report", told), three))
    assert [next(reading).num_rows for _ in range(5)] == [0, 2, 2, 2, 2]
    reading.close()  # type: ignore[attr-defined]  # it is a generator
    assert told.errors() == [
        ("bad", "com.example.note/2", "ProcessError"),
        ("cut", None, "TruncatedCar"),
    ]


def test_no_more_than_a_thousand_bad_records_of_a_repo_are_told(tmp_path: Path) -> None:
    bad = {f"com.example.note/{n:04}": RawRecord(b"\xff") for n in range(1500)}
    (tmp_path / "bad").write_bytes(build_car(bad)[:-3])
    told = Told()
    assert [
        each.num_rows
        for each in read_sources(plan_of("report", told), [source_of(tmp_path / "bad")])
    ] == [0]
    assert [error[2] for error in told.errors()] == ["TruncatedCar", *["ProcessError"] * 1000]


def test_an_error_names_its_source(three: list[Source]) -> None:
    with pytest.raises(TruncatedCar) as caught:
        list(read_sources(plan_of(), [three[0], three[2]]))
    assert caught.value.__notes__ == ["in cut"]
