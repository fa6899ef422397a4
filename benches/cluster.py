"""Many repos on a local Ray: how fast 1 and 2 workers read them, and what a million would take.

    pip install ".[ray,fast]"
    python benches/cluster.py
    python benches/cluster.py --repos 2000 --workers 1 2 4

The repos are made, in shuffled order, and as different in size as accounts are: see `SHARES`. Each
number of workers has a Ray of its own, on loopback, whose workers have started before. What comes
out is a table for people:

- keys: all columns but `created_at` and `record`, which needs no record; the blocks are taken by
  the program, and their rows counted;
- all columns: the same with all;
- to Parquet: all columns, which the workers write as Parquet;
- alone: `repo_stream.arrow.records` in this process, without Ray, for comparison.

`--plan 1000000` measures instead what the program itself needs for so many files: to look up their
sizes, and to make read tasks of them.
"""

import argparse
import logging
import os
import pickle
import re
import resource
import secrets
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import anyio

from compare import machine
from repo_stream._compiled import COMPILED
from repo_stream.arrow import records
from repo_stream.ray.files import listed
from repo_stream.ray.grouping import groups_of
from repo_stream.ray.tasks import Source
from repo_stream.testing import made_car

#: How many records repos have, and which share of the repos: a median of 30, a mean of 678.
SHARES = {30: 0.60, 300: 0.30, 3_000: 0.09, 30_000: 0.01}
KEYS = ["uri", "did", "collection", "rkey", "cid", "rev"]


# --- Repos ----------------------------------------------------------------------------------------


def counts_of(repos: int) -> list[int]:
    """How many records each of the repos has, the sizes well mixed."""
    counts = [count for count, share in SHARES.items() for _ in range(round(share * repos))]
    return [counts[n * 7919 % len(counts)] for n in range(len(counts))]


async def make(folder: Path, counts: list[int]) -> None:
    for number, count in enumerate(counts):
        path = folder / f"{number:06}.car"
        with path.open("wb") as file:
            async for piece in made_car(count, did=f"did:web:{number}.example", seed=number):
                file.write(piece)


# --- Runs -----------------------------------------------------------------------------------------


@contextmanager
def local_ray(workers: int) -> Generator[Any]:
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # how Ray is told to stay on loopback
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    import ray  # noqa: PLC0415 - reads these
    import ray.data  # noqa: PLC0415 - the same

    folder = tempfile.mkdtemp(prefix="ray-")
    try:
        with ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        ):
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield ray
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Times(NamedTuple):
    """How long a run took, in seconds, and how much CPU time it took those who read."""

    seconds: float
    cpu: float


def read_all(dataset: Any) -> Any:  # noqa: ANN401 - Ray is imported later
    for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        pass
    return dataset


def to_parquet(dataset: Any) -> Any:  # noqa: ANN401 - the same
    folder = tempfile.mkdtemp()
    dataset.write_parquet(folder)
    shutil.rmtree(folder)
    return dataset


def timed(work: Callable[[], Any], rounds: int) -> Times:
    times: list[float] = []
    cpu: list[float] = []
    for _ in range(rounds):
        start, own_cpu = time.perf_counter(), time.process_time()
        dataset = work()
        times.append(time.perf_counter() - start)
        own_cpu = time.process_time() - own_cpu
        cpu.append(own_cpu if dataset is None else cpu_of(dataset.stats()))
    return Times(median(times), median(cpu))


def cpu_of(stats: str) -> float:
    """The CPU time of the workers, as Ray shows it: `Remote cpu time: ..., 2.31s total`."""
    units = {"s": 1, "ms": 1e-3, "us": 1e-6}
    found = re.findall(r"Remote cpu time: .* ([\d.]+)(m?u?s) total", stats)
    return sum(float(number) * units[unit] for number, unit in found)


def run(folder: Path, workers: int, rounds: int) -> dict[str, Times]:
    from repo_stream.ray import read_repos  # noqa: PLC0415 - after the environment is set

    with local_ray(workers):
        read_all(read_repos(folder / "0000[0-4]*.car"))  # workers start, and import
        return {
            "keys": timed(lambda: read_all(read_repos(folder, columns=KEYS)), rounds),
            "all columns": timed(lambda: read_all(read_repos(folder)), rounds),
            "to Parquet": timed(lambda: to_parquet(read_repos(folder)), rounds),
        }


def run_alone(folder: Path, rounds: int) -> dict[str, Times]:
    def read(columns: list[str] | None) -> None:
        for _ in records(folder, columns=columns).batches():
            pass

    return {
        "keys": timed(lambda: read(KEYS), rounds),
        "all columns": timed(lambda: read(None), rounds),
    }


def show(name: str, times: dict[str, Times], repos: int, rows: int) -> None:
    for what, (took, cpu) in times.items():
        print(
            f"{name:10} {what:12} {took:7.2f} s {rows / took:10,.0f} records/s"
            f" {repos / took:8,.0f} repos/s {1e6 * cpu / rows:6.1f} us of CPU a record"
        )
    sys.stdout.flush()


# --- A plan for many files ------------------------------------------------------------------------


def plan(files: int) -> None:
    """Measure what the program needs before anything is read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(files):
            (folder / f"{number:07}.car").touch()
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        found = [file for [*group] in listed([name], None) for file in group]
        looked_up = time.perf_counter()
        tasks = groups_of([Source(*file) for file in found], 2000)
        sent = sum(len(pickle.dumps(task)) for task in tasks)
        end = time.perf_counter()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    print(f"{files:,} files: looked up in {looked_up - start:.1f} s, {len(tasks):,} tasks made in")
    print(
        f"{end - looked_up:.1f} s, of {sent / 1e6:,.0f} MB; the program grows by {grown:,.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repos", type=int, default=500, help="how many repos (default: 500)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plan", type=int, metavar="FILES", help="see above")
    options = parser.parse_args()
    # Ray sets its own deprecated options whenever it makes a `DataContext`.
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
    compiled = "compiled" if COMPILED else "plain Python"
    print(machine(), compiled, f"load {os.getloadavg()[0]:.1f}")
    if options.plan:
        plan(options.plan)
        return
    counts = counts_of(options.repos)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        anyio.run(make, folder, counts)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{len(counts):,} repos, {sum(counts):,} records, {size / 1e6:,.0f} MB")
        show("alone", run_alone(folder, options.rounds), len(counts), sum(counts))
        for workers in options.workers:
            times = run(folder, workers, options.rounds)
            show(f"{workers} worker{'s'[: workers > 1]}", times, len(counts), sum(counts))


if __name__ == "__main__":
    main()
