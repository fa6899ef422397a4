"""What happens to memory while a CAR is walked as it comes in, in each order of blocks.

For each order a process of its own streams a made repo and looks at its memory at every piece.

    python benches/orders.py
    python benches/orders.py --records 100000 --limit 8 --plot orders.png
"""

import argparse
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from compare import SOURCES, UnavailableError, add_cache, job_of, machine, note

WAYS = {
    "streamable order": ("stream", 16.0),
    "as the reference server exports": ("export", 16.0),
    "shuffled": ("shuffled", 16.0),
    "shuffled, no limit": ("shuffled", 4096.0),
}
COLOURS = ["#1257b8", "#2a9d5c", "#c8553d", "#f0a03c"]


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def watch(path: str, limit: float) -> dict[str, Any]:
    """Stream a file and give what was seen: MB read and MiB of growth, piece by piece."""
    from repo_stream import DiskBuilder, DriverBuilder  # noqa: PLC0415 - in the child only

    async with DiskBuilder().open() as store:  # what SQLite takes to be there is not the repo's
        base = resident_mib()
        seen: list[tuple[float, float]] = []

        async def pieces() -> AsyncIterator[bytes]:
            taken = 0
            async with await anyio.open_file(path, "rb") as file:
                while piece := await file.read(1 << 18):
                    taken += len(piece)
                    seen.append((taken / 1e6, resident_mib() - base))
                    yield piece

        first = None
        builder = DriverBuilder(mem_limit_mb=limit, block_processor=len)
        async with builder.stream_car(pieces(), spill=store) as (_, driver):
            while await driver.next_chunk(256):
                first = first if first is not None else seen[-1][0]
                seen.append((seen[-1][0], resident_mib() - base))
            spilled = driver.spilled
    return {"seen": seen, "first_mb": first, "spilled": spilled}


def plot(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - only for whoever plots

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, found), colour in zip(report["ways"].items(), COLOURS, strict=True):
        read, grown = zip(*found["seen"], strict=True)
        axes.plot(read, grown, color=colour, linewidth=1.8, label=name)
        axes.plot([found["first_mb"]], [0], marker="^", color=colour, clip_on=False, zorder=3)
    axes.set_xlabel("MB of the CAR that have come (a triangle: the first record is out)")
    axes.set_title("memory growth, MiB", loc="left")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=int, default=300_000)
    add("--plot", type=Path, metavar="OUT.png", help="needs matplotlib")
    add_cache(parser)
    add("--child", nargs=2, metavar=("CAR", "LIMIT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(SOURCES))
    if options.child:
        print(json.dumps(anyio.run(watch, options.child[0], float(options.child[1]))))
        return 0
    report: dict[str, Any] = {"machine": machine(), "ways": {}}
    for name, (order, limit) in WAYS.items():
        note(name)
        try:
            (path,) = job_of(f"{order}:{options.records}", options.cache).paths
        except UnavailableError as error:
            print(f"{name}: {error}")
            return 1
        command = [sys.executable, __file__, "--child", str(path), str(limit)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        found = report["ways"][name] = json.loads(ran.stdout)
        most = max(grown for _, grown in found["seen"])
        where = "through the disk" if found["spilled"] else "in memory"
        print(f"{name:<34}first record after {found['first_mb']:6.1f} MB, {most:6.1f} MiB, {where}")
    if options.plot:
        plot(report, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
