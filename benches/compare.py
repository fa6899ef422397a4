"""This library and its peers at the same job, side by side.

The job: read a repo and visit the key and the length of every record, in key order. Each contender
does it in a process of its own, turn by turn (A B C A B C ...), so that a slow minute of the
machine slows all of them; what they counted is compared. The programs in other languages are in
`upstream` and are built first, as is the compiled form of this library, by pip. What is not
available is listed as skipped, with the reason.

    python benches/compare.py
    python benches/compare.py --files midsize shuffled:50000 --only 'ours*' 'Rust 0.2.2*'
    python benches/compare.py --readme --json report.json --plot report.png --markdown
    python benches/compare.py --from report.json --plot report.png --markdown

A file is the path of a CAR; `little` or `midsize` of the shared ones; a made one, `ORDER:RECORDS`;
or `small:REPOS`, that many small repos, read one after the other by one process.
"""

import argparse
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import anyio

from drawing import DPI, End, Style, label_ends, plain

BENCHES = Path(__file__).resolve().parent
SOURCES = BENCHES.parent / "src"
COMPILED = BENCHES / "target" / "compiled"
SHARED_CARS = BENCHES.parents[1] / "shared" / "cars"

FILES = [
    *("little", "midsize", "shuffled:11585", "export:11585", "shuffled:300000", "export:300000"),
    *("stream:300000", "small:1000"),
]
PLOT_FILES = ["shuffled:1000", "shuffled:3500", "shuffled:35000", "shuffled:100000"]
README_FILES = [*PLOT_FILES, "shuffled:11585", "shuffled:300000", "stream:300000"]
SMALL_RECORDS = 20


class UnavailableError(Exception):
    """What is asked for cannot be had here; the message says why."""


# --- Contenders ------------------------------------------------------------------------------

Find: TypeAlias = Callable[[bool], list[str]]
"""Finds the command of a program, after building it if told so. Raises `UnavailableError`."""


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        name: How it is called in the report.
        find: Finds its program.
        options: What its program is called with, after the files.
        verifies: Whether it checks the bytes of every record against their CID.
        rival: Which of ours does the same, to be compared with.
        package: Where Python finds `repo_stream`: in plain Python, or compiled.
    """

    name: str
    find: Find
    options: tuple[str, ...] = ()
    verifies: bool = True
    rival: str = "ours memory"
    package: Path = SOURCES


def contenders() -> Iterator[Contender]:
    modes = {"memory": (), "disk raw": ("--disk", "--raw"), "disk processed": ("--disk",)}

    ours = script("ours.py", needs="repo_stream")
    for mode, options in modes.items():
        name = f"ours {mode}"
        yield Contender(name, ours, options, rival=name)
        yield Contender(f"{name}, compiled", compiled, options, rival=name, package=COMPILED)
    yield Contender("ours memory unverified", ours, ("--unverified",), verifies=False)
    # Within 16 MiB: what has to be kept beyond that goes through disk.
    streams = ("--stream", "--disk")
    for mode, options in {"processed": streams, "raw": (*streams, "--raw")}.items():
        yield Contender(f"ours stream disk {mode}", ours, options)
        name = f"ours stream disk {mode}, compiled"
        yield Contender(name, compiled, options, package=COMPILED)
    yield from ours_from_other_sources(ours, modes)

    libipld = script("with_libipld.py", needs="libipld")
    yield Contender("libipld + walk", libipld, verifies=False)
    yield Contender("libipld + walk, collector off", libipld, ("--no-gc",), verifies=False)
    atproto = script("with_atproto.py", needs="atproto")
    yield Contender("atproto SDK's CAR + walk", atproto, verifies=False)
    yield Contender("atmst", script("with_atmst.py", needs="atmst"))

    # Of the newer crate's examples, that which goes through disk brings an allocator of its own.
    cargo = ("cargo", "build", "--release", "--target-dir", "target")
    older = upstream("rust022", "release/rust022", cargo)
    newer = upstream("rust05", "release/rust05", cargo)
    mimalloc = upstream("rust05", "release/mimalloc", cargo)
    buffers = {"8K": ("--buffer", str(1 << 13)), "1M": ("--buffer", str(1 << 20))}
    for mode, options in modes.items():
        for reads, buffer in buffers.items():
            name = f"Rust 0.2.2 {mode} {reads}"
            yield Contender(name, older, (*options, *buffer), verifies=False, rival=f"ours {mode}")
    for mode, options in modes.items():
        for reads, buffer in buffers.items():
            name = f"Rust 0.5.0-alpha.10 {mode} {reads}"
            program = mimalloc if "--disk" in options else newer
            yield Contender(name, program, (*options, *buffer), rival=f"ours {mode}")
    yield Contender("Rust 0.5.0-alpha.10 memory 1M mimalloc", mimalloc, buffers["1M"])

    go = ("go", "build", "-trimpath", "-buildvcs=false", "-o", "target/indigo", ".")
    indigo = upstream("indigo", "indigo", go)
    yield Contender("indigo (Go)", indigo)
    yield Contender(
        "indigo (Go) stream",
        indigo,
        ("--stream",),
        verifies=False,
        rival="ours stream disk processed",
    )
    npm = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock")
    atcute = upstream("atcute", "@atcute/repo", npm, "node_modules", ("node", "main.js"))
    yield Contender(
        "atcute (TypeScript) stream",
        atcute,
        ("--stream",),
        verifies=False,
        rival="ours stream disk processed",
    )


def ours_from_other_sources(ours: Find, modes: dict[str, tuple[str, ...]]) -> Iterator[Contender]:
    """What comes from anywhere but a path, beside the same from a path."""
    streams = {f"stream {mode}": ("--stream", *options) for mode, options in modes.items()}
    for mode, options in (modes | streams).items():
        for kind, source in {"open file": "file", "generator": "generator", "HTTP": "http"}.items():
            if mode == "stream memory":
                continue
            name = f"ours {mode}, {kind}"
            flags = (*options, "--source", source)
            yield Contender(name, ours, flags, rival=f"ours {mode}")
            fast = f"ours {mode}, compiled, {kind}"
            rival = f"ours {mode}, compiled"
            yield Contender(fast, compiled, flags, rival=rival, package=COMPILED)


def script(name: str, needs: str) -> Find:
    """A program in `contenders` that needs a Python module."""

    def find(_build: bool) -> list[str]:
        if find_spec(needs) is None:
            raise UnavailableError(f"{needs} is not installed")
        return [sys.executable, str(BENCHES / "contenders" / name)]

    return find


def compiled(build: bool) -> list[str]:
    """`ours.py`, with this package as a compiled wheel has it."""
    if build:
        note("compiling repo_stream")
        shutil.rmtree(COMPILED, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", COMPILED)
        built = run(
            (*map(str, pip), str(BENCHES.parent)), env=os.environ | {"REPO_STREAM_COMPILE": "1"}
        )
        if built.returncode != 0:
            raise UnavailableError("REPO_STREAM_COMPILE=1 pip install -v . fails, and says why")
    # What was built for another Python has other names.
    if not any(COMPILED.rglob(f"*{EXTENSION_SUFFIXES[0]}")):
        raise UnavailableError("not built")
    return script("ours.py", needs="repo_stream")(build)


def upstream(
    name: str,
    program: str,
    command: tuple[str, ...],
    built_in: str = "target",
    runs: tuple[str, ...] = (),
) -> Find:
    """A program that a command builds in a folder of `upstream`, run as it is or by a command."""
    folder = BENCHES / "upstream" / name

    def find(build: bool) -> list[str]:
        has_tool = shutil.which(command[0]) is not None
        if build and has_tool:
            note(f"building {name}")
            built = run(command, cwd=folder)
            if built.returncode != 0:
                raise UnavailableError(f"does not build: {reason_in(built.stderr)}")
        binary = folder / built_in / program
        if not binary.exists():
            raise UnavailableError("not built" if has_tool else f"no {command[0]} here")
        return [*runs[:-1], str(folder / runs[-1])] if runs else [str(binary)]

    return find


@functools.cache  # contenders that share a program share its build, and its failure
def command_of(find: Find, build: bool) -> list[str] | UnavailableError:
    try:
        return find(build)
    except UnavailableError as error:
        return error


# --- Files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """The files that one process reads, and how they are called in the report."""

    name: str
    paths: list[Path]


def job_of(name: str, cache: Path) -> Job:
    """Find or make the files of a job. Raises `UnavailableError`."""
    kind, _, number = name.partition(":")
    if number.isdecimal():
        if kind == "small":
            seeds = range(int(number))
            return Job(name, [made(SMALL_RECORDS, "shuffled", seed, cache) for seed in seeds])
        return Job(name, [made(int(number), kind, 0, cache)])
    for path in Path(name), SHARED_CARS / f"{name}.car":
        if path.is_file():
            return Job(path.stem, [path])
    raise UnavailableError("no such file")


def made(records: int, order: str, seed: int, cache: Path) -> Path:
    """The path of a made repo, which is made once."""
    path = cache / f"{order}-{records}-{seed}.car"
    if not path.exists():
        try:
            from repo_stream.testing import made_car  # noqa: PLC0415 - ours is one of many here

            cache.mkdir(parents=True, exist_ok=True)
            anyio.run(write, path, made_car(records, order=order, seed=seed))
        except (ImportError, ValueError) as error:
            raise UnavailableError(f"cannot be made: {error}") from None
    return path


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where `made` keeps its files."""
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir(), "repo-stream-bench"),
        metavar="DIR",
        help="where the made files are kept",
    )


async def write(path: Path, pieces: AsyncIterable[bytes]) -> None:
    part = path.with_suffix(".part")
    async with await anyio.open_file(part, "wb") as file:
        async for piece in pieces:
            await file.write(piece)
    part.replace(path)


# --- Runs ------------------------------------------------------------------------------------


@dataclass
class Entry:
    """One contender at one job: its turns, or why it takes no more."""

    contender: Contender
    command: list[str]
    runs: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    skipped: str = ""

    def take_turn(self, timeout: float) -> None:
        """Do the job once more, in a process of its own."""
        if self.failure or self.skipped:
            return
        with tempfile.TemporaryDirectory() as scratch:  # gone even if the contender is killed
            package = str(self.contender.package)
            environment = os.environ | {"PYTHONPATH": package, "TMPDIR": scratch}
            try:
                ran = run(self.command, timeout=timeout, env=environment)
            except subprocess.TimeoutExpired:
                self.failure = f"took longer than {timeout:g} s"
                return
        if ran.returncode != 0:
            self.failure = ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
            return
        seen = json.loads(ran.stdout)
        through_disk = "--disk" in self.contender.options
        if through_disk and "--stream" not in self.contender.options and not seen["spilled"]:
            self.skipped = "fits in 16 MiB"
        else:
            self.runs.append(seen)

    def result(self) -> dict[str, Any]:
        """What the report says of it."""
        facts = {
            "contender": self.contender.name,
            "rival": self.contender.rival,
            "verifies": self.contender.verifies,
        }
        if self.failure:
            return facts | {"failure": self.failure}
        seconds = [seen["seconds"] for seen in self.runs]
        counted = ("version", "records", "key_bytes", "record_bytes")
        return (
            facts
            | {name: self.runs[-1][name] for name in counted}
            | {"median": median(seconds), "seconds": seconds}
            | {"growth_kib": max(seen["growth_kib"] for seen in self.runs)}
        )


def compare(
    job: Job, commands: dict[Contender, list[str]], rounds: int, timeout: float
) -> dict[str, Any]:
    """Let all contenders do one job, turn by turn."""
    for path in job.paths:
        path.read_bytes()  # from here on it lies in the system's cache
    paths = [str(path) for path in job.paths]
    entries = [
        Entry(contender, [*command, *paths, *contender.options])
        for contender, command in commands.items()
    ]
    for turn in range(rounds):
        note(f"{job.name}: round {turn + 1} of {rounds}")
        for entry in entries:
            entry.take_turn(timeout)
    results = [entry.result() for entry in entries if not entry.skipped]
    medians = {result["contender"]: result.get("median") for result in results}
    for result in results:
        for name, rival in ("ratio", result["rival"]), ("compiled", f"{result['rival']}, compiled"):
            if "median" in result and medians.get(rival):
                result[name] = result["median"] / medians[rival]
    return {
        "job": job.name,
        "files": len(job.paths),
        "bytes": sum(path.stat().st_size for path in job.paths),
        "results": results,
        "disagreements": disagreements(results),
        "skipped": {entry.contender.name: entry.skipped for entry in entries if entry.skipped},
    }


def disagreements(results: list[dict[str, Any]]) -> list[str]:
    """Name what the contenders do not agree on; one that cannot know a sum has no say in it."""
    found = []
    for what in ("records", "key_bytes", "record_bytes"):
        said: dict[int, list[str]] = {}
        for result in results:
            if (value := result.get(what)) is not None:
                said.setdefault(value, []).append(result["contender"])
        if len(said) > 1:
            claims = (f"{value:,} ({', '.join(names)})" for value, names in said.items())
            found.append(f"{what}: {' or '.join(claims)}")
    return found


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        _, _, model = cpuinfo.read_text().partition("model name")
        cpu = model.partition("\n")[0].strip("\t :") or cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


# --- Reports ---------------------------------------------------------------------------------


def table(report: dict[str, Any], width: int = 115) -> Iterator[str]:
    """The report as people read it, line by line."""
    yield "{cpu}, {cores} cores, {system}, {python}".format(**report["machine"])
    yield f"rounds: {report['rounds']}, turn by turn; grows: at most; 8K, 1M: the crate's reads"
    yield "x ours: time against ours doing the same, in memory and verified, or through disk"
    yield "x comp.: time against the same of ours, compiled"
    for job in report["jobs"]:
        records = max((result.get("records", 0) for result in job["results"]), default=0)
        files = f" in {job['files']:,} files" if job["files"] > 1 else ""
        yield ""
        yield f"{job['job']}: {records:,} records, {job['bytes'] / 1e6:.2f} MB{files}"
        yield (
            f"{'contender':<39}{'verifies':<9}{'median s (min-max)':>25}"
            f"{'records/s':>10}{'MB/s':>6}{'grows MiB':>10}{'x ours':>8}{'x comp.':>8}"
        )
        for result in job["results"]:
            yield row(result, job["bytes"])[:width]
        yield from skipped(job["skipped"], width)
        yield from (f"DISAGREEMENT on {what}" for what in job["disagreements"])
    if report["skipped"]:
        yield ""
        yield from skipped(report["skipped"], width)


def row(result: dict[str, Any], size: int) -> str:
    name = f"{result['contender']:<39}"
    if "failure" in result:
        return f"{name}failed: {result['failure']}"
    middle, low, high = (f(result["seconds"]) for f in (median, min, max))
    spread = f"{middle:#.3g} ({low:#.3g}-{high:#.3g})"
    ratios = [f"{result[of]:.2f}" if of in result else "-" for of in ("ratio", "compiled")]
    return (
        f"{name}{'yes' if result['verifies'] else 'no':<9}{spread:>25}"
        f"{result['records'] / middle:>10,.0f}{size / 1e6 / middle:>6.0f}"
        f"{result['growth_kib'] / 1024:>10.1f}{ratios[0]:>8}{ratios[1]:>8}"
    )


def skipped(reasons: dict[str, str], width: int) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        yield from textwrap.wrap(
            f"skipped, {reason}: {'; '.join(names)}", width, subsequent_indent="    "
        )


# File -> the contenders in its table in benches/README.md, and their names there.
TABLES = {
    "shuffled:300000": {
        "ours memory": "this library, in memory",
        "ours memory, compiled": "the same, compiled",
        "ours disk raw": "this library, a file at 16 MiB, raw",
        "ours disk raw, compiled": "the same, compiled",
        "ours disk raw, open file": "this library, copied to disk at 16 MiB, raw",
        "libipld + walk": "`libipld` and a walk",
        "libipld + walk, collector off": "the same, garbage collector off",
        "atproto SDK's CAR + walk": "`atproto`'s `CAR` and a walk",
        "atmst": "`atmst`",
        "Rust 0.2.2 memory 1M": "Rust `repo-stream` 0.2.2, in memory",
        "Rust 0.2.2 memory 8K": "the same, read in pieces of 8 KiB as in its example",
        "Rust 0.2.2 disk raw 1M": "Rust `repo-stream` 0.2.2, through disk at 16 MiB, raw",
        "Rust 0.5.0-alpha.10 memory 1M": "Rust `repo-stream` 0.5.0-alpha.10, in memory",
        "Rust 0.5.0-alpha.10 disk raw 1M": (
            "Rust `repo-stream` 0.5.0-alpha.10, through disk at 16 MiB, raw"
        ),
        "indigo (Go)": "Go `indigo`",
    },
    "stream:300000": {
        "ours stream disk processed": "this library, `stream_car`",
        "ours stream disk processed, compiled": "the same, compiled",
        "ours memory": "this library, in memory",
        "indigo (Go) stream": "Go `indigo`, `StreamRepoRecords`",
        "atcute (TypeScript) stream": "TypeScript `@atcute/repo`, `fromStream`",
    },
}


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """The tables of benches/README.md, line by line."""
    for job in report["jobs"]:
        names = TABLES.get(job["job"], {})
        rows = {result["contender"]: result for result in job["results"] if "median" in result}
        if not names.keys() & rows.keys():
            continue
        size = f"{job['job']}, {job['bytes'] / 1e6:.0f} MB"
        yield ""
        yield f"| {size} | checks CIDs | seconds | growth in MiB |"
        yield "|:--|:-:|--:|--:|"
        for contender, name in names.items():
            if (result := rows.get(contender)) is not None:
                checks = "yes" if result["verifies"] else "no"
                seconds = float(f"{result['median']:.2g}")
                yield f"| {name} | {checks} | {seconds:g} | {result['growth_kib'] / 1024:.0f} |"


# Contender -> its name and its line in the plot. Their figures are in the table, and so are others.
LINES = {
    "ours memory": ("this library, not compiled", Style("#8fb6e3", marker="D", width=6)),
    "ours memory, compiled": ("this library", Style("#1257b8")),
    "ours disk processed, compiled": ("this library in 16 MiB", Style("#0b2f66", marker="s")),
    "Rust 0.5.0-alpha.10 memory 1M": ("Rust repo-stream", Style("#a4452c", strong=False)),
    "indigo (Go)": ("Go indigo", Style("#5f5f5f", strong=False, marker="^")),
    "libipld + walk": ("libipld, unverified", Style("#2c7a4b", strong=False, marker="v")),
    "atmst": ("atmst", Style("#8a5a9e", strong=False, marker="X")),
}


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw time and memory growth against the size of the repo, from the shuffled made ones."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only to draw a picture

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    time, memory = figure.subplots(1, 2)
    draw(report, time, "seconds", lambda result: result["median"])
    draw(report, memory, "growth in memory, MiB", lambda result: result["growth_kib"] / 1024)
    figure.suptitle("Every record of a repo, in key order", x=0.01, ha="left", weight="bold")
    figure.supxlabel(
        "{cpu}, {cores} cores, {system}, {python}".format(**report["machine"]), fontsize=8
    )
    figure.savefig(path, dpi=DPI)


def draw(
    report: dict[str, Any],
    axes: Any,  # noqa: ANN401 - matplotlib is not installed for the type checkers
    title: str,
    figure_of: Callable[[dict[str, Any]], float],
) -> None:
    jobs = [job for job in report["jobs"] if job["job"].startswith("shuffled:")]
    jobs.sort(key=lambda job: job["bytes"])
    ends: list[End] = []
    for contender, (name, style) in LINES.items():
        points = [
            (job["bytes"] / 1e6, max(figure_of(result), SMALLEST))
            for job in jobs
            for result in job["results"]
            if result["contender"] == contender and "median" in result
        ]
        if points:
            axes.loglog(*zip(*points, strict=True), **style.options())
            ends.append(End(name, *points[-1], style))
    plain(axes, title, "MB of the CAR")
    for axis in axes.xaxis, axes.yaxis:
        axis.set_major_formatter("{x:g}")
    label_ends(axes, ends)


# What cannot be seen on an axis that has no zero.
SMALLEST = 0.001


# --- Command line ----------------------------------------------------------------------------


def main() -> int:
    options = arguments()
    sys.path.insert(0, str(SOURCES))
    if options.plot and find_spec("matplotlib") is None:
        print("--plot needs matplotlib, which is not installed", file=sys.stderr)
        return 2
    report = json.loads(options.source.read_text()) if options.source else measured(options)
    print("\n".join(table(report)))
    if options.markdown:
        print("\n".join(markdown(report)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)
    failed = any(
        result["contender"].startswith("ours") and "failure" in result
        for job in report["jobs"]
        for result in job["results"]
    )
    return int(failed or any(job["disagreements"] for job in report["jobs"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--files", nargs="+", metavar="FILE", help=f"by default {' '.join(FILES)}")
    add("--only", nargs="+", metavar="NAME", default=["*"], help="contenders; may have wildcards")
    add("--skip", nargs="+", metavar="NAME", default=[])
    add("--rounds", type=int, default=5)
    add("--timeout", type=float, default=600, metavar="SECONDS", help="for one turn")
    add_cache(parser)
    add("--no-build", dest="build", action="store_false", help="take what was built before")
    add("--json", type=Path, metavar="OUT")
    add("--plot", type=Path, metavar="OUT.png", help="needs matplotlib")
    add("--readme", action="store_true", help="only what README.md and benches/README.md show")
    add("--markdown", action="store_true", help="print the tables of benches/README.md, too")
    add("--from", type=Path, dest="source", metavar="JSON", help="measure nothing, show this one")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    if options.readme:
        options.files = options.files or README_FILES
        options.only = [*LINES, *(name for names in TABLES.values() for name in names)]
    return options


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for."""
    omitted = {}
    commands = {}
    for contender in contenders():
        if not matches(contender.name, options.only) or matches(contender.name, options.skip):
            continue
        command = command_of(contender.find, options.build)
        if isinstance(command, UnavailableError):
            omitted[contender.name] = str(command)
        else:
            commands[contender] = command
    jobs = []
    for name in options.files or [*FILES, *(PLOT_FILES if options.plot else ())]:
        try:
            job = job_of(name, options.cache)
        except UnavailableError as error:
            omitted[name] = str(error)
        else:
            jobs.append(compare(job, commands, options.rounds, options.timeout))
    return {"machine": machine(), "rounds": options.rounds, "jobs": jobs, "skipped": omitted}


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def run(command: Iterable[str], **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    return subprocess.run([*command], capture_output=True, text=True, check=False, **options)


def reason_in(complaint: str) -> str:
    """The line of a compiler's complaint that says most."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    for sign in "cannot find", "unable to find", "error":
        for line in lines:
            if sign in line:
                return line
    return lines[-1] if lines else "it did not say why"


def note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
