"""`read_repos`: the records of many repos as a data set of Ray.

Arguments are checked here, in the program that calls it, and not in the workers.
"""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Unpack

from repo_stream.arguments import check_kind, check_whole
from repo_stream.arrow.batching import BATCH_BYTES, BATCH_ROWS, JsonForm, row_processor
from repo_stream.arrow.columns import chosen
from repo_stream.arrow.scanning import OnBadSource
from repo_stream.arrow.sources import ArrowSources, Given, each_source
from repo_stream.drivers.keywords import OpenKeywords, takes
from repo_stream.ray.files import FileSystem, as_file_system, listed
from repo_stream.ray.problems import Problems, import_ray
from repo_stream.ray.tasks import Plan, Source, WorkerScan

if TYPE_CHECKING:
    from ray.data import Dataset

    from repo_stream.network.resolving import Network

__all__ = ["read_repos"]


@takes(OpenKeywords)
def read_repos(
    sources: ArrowSources,
    *,
    columns: Iterable[str] | None = None,
    on_error: OnBadSource = "raise",
    problems: Problems | None = None,
    json_form: JsonForm = "atproto",
    filesystem: FileSystem | None = None,
    network: Callable[[], Network] | None = None,
    earlier_keys: bool = False,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    override_num_blocks: int | None = None,
    concurrency: int | None = None,
    num_cpus: float | None = None,
    memory: float | None = None,
    **keywords: Unpack[OpenKeywords],
) -> Dataset:
    """Return the records of many repos as a data set of Ray, which its workers read.

    Its rows are those of `repo_stream.arrow.records`, verified in the same way. Nothing is read yet
    but the sizes of the files, to share them out: many small ones are one read task, a large one is
    a task of its own. The records of a repo come in key order. Repos come in the order of the
    sources if `preserve_order` of `ray.data.DataContext.execution_options` is set.

    Columns that are left out later, as by `Dataset.select_columns`, are not read either. Ray drops
    the time zone of `created_at`, which is UTC, in `map` and in NumPy batches, the default of
    `map_batches`; it keeps it with `batch_format="pyarrow"` or `"pandas"`.

    If a worker dies, what it was reading is read again, and each row still comes exactly once.
    There is one exception: if an account is downloaded again, and wrote meanwhile, then rows of its
    task may come twice or be missing. The column `rev` tells. If that matters, fetch the CARs
    first (`repo-stream fetch`), and read the files.

    Args:
        sources: one of these, or a list:

            - paths and URLs of files on any file system of fsspec, such as `s3://bucket/a.car`;
              some need a package of their own, which fsspec names. They can be patterns such as
              `s3://bucket/cars/*.car`, or folders, of which all `.car`, `.car.gz` and `.car.zst`
              files are read. A path without a scheme is one of this machine, and has to be readable
              by the same name on all nodes. A file of another file system is streamed, through the
              buffer that fsspec has for it, often 5 MiB; it is never kept as a whole in memory. It
              is decompressed if its name ends in `.gz` or, with the extra `[zstd]`, in `.zst`.
            - names of accounts: handles, DIDs, `at://` URIs; see `repo_stream.arrow.expand`.
              Workers download them; that needs the extra `[network]` there.
            - bytes of CARs. They are kept in Ray's object store.
        columns: the columns to read, in that order; see `repo_stream.arrow.records`. `None` is all.
            Without `record` and `created_at`, no record is read at all.
        on_error: what to do about a repo or a record that cannot be read: `"raise"` ends the job,
            `"skip"` leaves it out, `"report"` leaves it out and adds it to `problems`. What came
            before it is kept.
        problems: where to report it; see `Problems`.
        json_form: what the column `record` is: `"atproto"`, JSON as the API has it, or
            `"dag-json"`.
        filesystem: the file system of all paths, of fsspec or of `pyarrow.fs`. By default, each
            path tells its own by its scheme.
        network: a function that returns a new `Network`. It is called in each read task that
            downloads, and the network is closed there.
        earlier_keys: see `open_repo`.
        batch_rows: how many records are made into Arrow arrays at once.
        batch_bytes: at how many bytes of JSON such a batch ends, more or less.
        override_num_blocks: about how many read tasks there are; see `ray.data.read_datasource`, as
            for the following.
        concurrency: how many read tasks run at a time, at most.
        num_cpus: the CPUs that each of them takes; 1 by default.
        memory: the memory that each of them takes, in bytes.
        **keywords: those of `open_car`, with their defaults

            - `mem_limit_mb=16`: how much memory a repo may take in a worker before it goes to the
              disk there, in MiB. A task reads one repo at a time. What Ray collects for a block
              comes on top; see `repo_stream.ray`.
            - `spill=None`: where blocks go that do not fit in memory: `None`, a temporary file; or
              `False`, nowhere.
            - `collections=None`: NSIDs of the collections to read, or wildcards.
            - `key_range=None`, `prefix=None`, `drain=True`, `check_first=False`,
              `verify_cids=True`, `limits=None`: see `open_car`.

    Returns:
        The `ray.data.Dataset`, lazy as all are.

    Raises:
        MissingExtra: if `ray[data]` is not installed; the extra is `[ray]`.
        FileNotFoundError: if nothing matches a pattern, or a folder has no CARs.
        TypeError, ValueError: if an argument is not valid.
        RepoStreamError, OSError: when the data set is read, with `on_error="raise"`. Ray passes it
            on in an error of its own, which has the whole text of ours.

    Example:
        >>> def posts_by_account(pattern: str) -> object:
        ...     posts = read_repos(pattern, collections=["app.bsky.feed.post"], columns=["did"])
        ...     return posts.groupby("did").count().to_pandas()
    """
    ray = import_ray()
    _check_report(on_error, problems)
    _check_for_workers(network, keywords)
    for name, value in (("batch_rows", batch_rows), ("batch_bytes", batch_bytes)):
        check_whole(name, value, least=1)
    names = chosen(columns)
    row_processor(names, json_form)  # what is wrong with it is told now
    plan = Plan(
        columns=names,
        json_form=json_form,
        batch_rows=batch_rows,
        batch_bytes=batch_bytes,
        scan=replace(
            WorkerScan.of(b"", on_error, network, earlier_keys, keywords),
            filesystem=None if filesystem is None else as_file_system(filesystem),
        ),
        problems=problems,
    )
    found = _found(sources, plan.scan.filesystem)
    options = {"concurrency": concurrency, "num_cpus": num_cpus, "memory": memory}
    from repo_stream.ray.datasource import RepoDatasource  # noqa: PLC0415 - imports Ray

    dataset: Dataset = ray.data.read_datasource(
        RepoDatasource(plan, found),
        override_num_blocks=override_num_blocks,
        **{name: value for name, value in options.items() if value is not None},
    )
    return dataset


# --- Arguments ------------------------------------------------------------------------------------


def _check_report(on_error: str, problems: object) -> None:
    if problems is not None:
        check_kind("problems", problems, Problems, such_as="repo_stream.ray.Problems()")
    if on_error == "report" and problems is None:
        raise ValueError(
            'on_error="report" needs a place for what is wrong: make one before, by '
            "`problems = repo_stream.ray.Problems()`, and pass `problems=problems`"
        )
    if on_error != "report" and problems is not None:
        raise ValueError('problems stays empty unless on_error is "report"')


def _check_for_workers(network: object, keywords: OpenKeywords) -> None:
    """Check what cannot be the same on a cluster as on one machine."""
    if network is not None and not callable(network):
        raise TypeError(
            "network must be a function that returns a new Network, as each worker needs its own: "
            f"`network=lambda: Network(...)`; not {network!r}"
        )
    spill = keywords["spill"]
    if spill is not None and spill is not False:
        raise TypeError(
            f"spill must be None or False, not {spill!r}: each worker has a file of its own"
        )


# --- Sources --------------------------------------------------------------------------------------


def _found(sources: ArrowSources, system: FileSystem | None) -> list[Source]:
    """Return all repos of sources, in order.

    Raises:
        FileNotFoundError: if nothing matches a pattern, or a folder has no CARs.
        TypeError: if something is not a source.
        ValueError: if there are no sources.
    """
    each = each_source(sources)
    paths = [source for source in each if isinstance(source, (str, os.PathLike))]
    files = listed(paths, system)
    found: list[Source] = []
    for at, source in enumerate(each):
        if isinstance(source, (str, os.PathLike)):
            found += [Source(*file) for file in next(files)]
        else:
            found.append(_stored(bytes(source), at))
    return found


def _stored(data: bytes, at: int) -> Source:
    """Put bytes into the object store, as an array: workers read that in its place."""
    numpy: Any = import_module("numpy")  # Any: its types take long to check
    array = numpy.frombuffer(data, dtype=numpy.uint8)
    given = Given(f"sources[{at}]", b"", "bytes")
    return Source(given, len(array), stored=import_ray().put(array))
