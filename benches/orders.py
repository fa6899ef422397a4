"""How memory grows while a CAR is walked as it comes in, in each order of its blocks.

For each order, a process of its own streams a made repo and measures its memory at every piece.

    python benches/orders.py
    python benches/orders.py --records 100000 --json orders.json --plot orders.png
    python benches/orders.py --from orders.json --plot orders.png
"""

import argparse
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from compare import SOURCES, UnavailableError, add_cache, job_of, machine, note
from drawing import DPI, End, Style, label_ends, plain

WAYS = {
    "streamable order": ("stream", 16.0),
    "as the reference server exports": ("export", 16.0),
    "shuffled": ("shuffled", 16.0),
    "shuffled, no limit": ("shuffled", 4096.0),
}
# Lines of the picture: their names, and the ways that they stand for. What two ways take is one
# line, at the higher of both.
LINES = {
    "streamable order": (["streamable order"], Style("#1257b8", marker="")),
    "any other order, limit of 16 MiB": (
        ["as the reference server exports", "shuffled"],
        Style("#b4491f", marker=""),
    ),
    "any other order, no limit": (
        ["shuffled, no limit"],
        Style("#222222", strong=False, marker=""),
    ),
}
# How wide the walk after the end of the CAR is in the picture, as a share of the CAR.
WALK = 0.4


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def watch(path: str, limit: float) -> dict[str, Any]:
    """Stream a file; return MB read, records out and MiB of growth, piece by piece."""
    from repo_stream import DiskBuilder, DriverBuilder  # noqa: PLC0415 - in the child only

    async with DiskBuilder().open() as store:  # what SQLite takes to be there is not the repo's
        base = resident_mib()
        seen: list[tuple[float, int, float]] = []
        taken = records = 0

        def look() -> None:
            seen.append((taken / 1e6, records, resident_mib() - base))

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal taken
            async with await anyio.open_file(path, "rb") as file:
                while piece := await file.read(1 << 18):
                    taken += len(piece)
                    look()
                    yield piece

        first = None
        builder = DriverBuilder(mem_limit_mb=limit, block_processor=len)
        async with builder.stream_car(pieces(), spill=store) as (_, driver):
            while chunk := await driver.next_chunk(256):
                first = len(seen) if first is None else first
                records += len(chunk)
                look()
            spilled = driver.spilled
    return {"seen": seen, "first": first, "spilled": spilled}


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw memory growth: first while the CAR comes in, then while the rest of it is walked."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only to draw a picture

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    whole = max(mb for found in report["ways"].values() for mb, _, _ in found["seen"])
    ends: list[End] = []
    for name, (ways, style) in LINES.items():
        lines = [line_of(report["ways"][way], whole) for way in ways]
        x, y = max(lines, key=lambda line: max(line[1]))
        axes.plot(x, y, **style.options())
        first = report["ways"][ways[0]]["first"]
        axes.plot(x[first], y[first], marker="^", markersize=10, color=style.colour, zorder=4)
        ends.append(End(name, x[-1], y[-1], style))
    plain(axes, "Growth in memory, MiB", "MB of the CAR that have come")
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.set_xlim(0, whole * (1 + WALK))
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= whole])
    axes.axvline(whole, color="black", linewidth=0.8, linestyle=":")
    top = axes.get_ylim()[1]
    axes.text(whole, top, "the CAR comes in  ", ha="right", va="top")
    axes.text(whole, top, "  the rest of the walk", ha="left", va="top")
    axes.plot([], [], marker="^", linestyle="", color="black", label="the first record comes out")
    axes.legend(frameon=False, loc="upper left")
    label_ends(axes, ends)
    figure.savefig(path, dpi=DPI)


def line_of(found: dict[str, Any], whole: float) -> tuple[list[float], list[float]]:
    """Put what was seen of one way on the axes."""
    everything = found["seen"][-1][1]
    ended = next((records for mb, records, _ in found["seen"] if mb >= whole), everything)
    return (
        [
            mb + whole * WALK * max(records - ended, 0) / everything
            for mb, records, _ in found["seen"]
        ],
        [grown for _, _, grown in found["seen"]],
    )


def main() -> int:
    options = arguments()
    sys.path.insert(0, str(SOURCES))
    if options.child:
        print(json.dumps(anyio.run(watch, options.child[0], float(options.child[1]))))
        return 0
    if options.plot and find_spec("matplotlib") is None:
        print("--plot needs matplotlib, which is not installed", file=sys.stderr)
        return 2
    report = json.loads(options.source.read_text()) if options.source else measured(options)
    for name, found in report["ways"].items():
        first = found["seen"][found["first"]][0]
        most = max(grown for _, _, grown in found["seen"])
        where = "through the disk" if found["spilled"] else "in memory"
        print(f"{name:<34}first record after {first:6.1f} MB, {most:6.1f} MiB, {where}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report) + "\n")
    if options.plot:
        plot(report, options.plot)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=int, default=300_000)
    add_cache(parser)
    add("--json", type=Path, metavar="OUT")
    add("--plot", type=Path, metavar="OUT.png", help="needs matplotlib")
    add("--from", type=Path, dest="source", metavar="JSON", help="measure nothing, show this one")
    add("--child", nargs=2, metavar=("CAR", "LIMIT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Stream a repo in each way, and watch its memory."""
    ways: dict[str, Any] = {}
    for name, (order, limit) in WAYS.items():
        note(name)
        try:
            (path,) = job_of(f"{order}:{options.records}", options.cache).paths
        except UnavailableError as error:
            sys.exit(f"{name}: {error}")
        command = [sys.executable, __file__, "--child", str(path), str(limit)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        ways[name] = json.loads(ran.stdout)
    return {"machine": machine(), "ways": ways}


if __name__ == "__main__":
    sys.exit(main())
