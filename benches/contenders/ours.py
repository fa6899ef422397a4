"""`repo_stream` as it lies in this tree: FILE... [OPTIONS].

Without `--disk` everything stays in memory; with it a repo over 16 MiB is read in place, or with
`--copied` through a store, as it would be where it came from anywhere but a file.
`--stream` walks while the file comes in. `--raw` keeps the records' bytes, not only their lengths.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import anyio
from measure import Gauge, Tally

from repo_stream import DiskBuilder, Driver, DriverBuilder, RepoDriver, Source


async def main(options: argparse.Namespace) -> None:
    gauge, tally = Gauge(), Tally(record_bytes=0)
    builder: DriverBuilder[Any] = DriverBuilder()
    builder = builder.with_mem_limit_mb(16 if options.disk else 4096)
    builder = builder.with_cid_verification(not options.unverified)
    if not options.raw:
        builder = builder.with_block_processor(len)
    for file in options.files:
        # Of many small repos the peers read each into memory, in no other thread; so do we.
        source = Path(file).read_bytes() if len(options.files) > 1 else file  # noqa: ASYNC240 - says why
        if options.stream:
            async with builder.stream_car(source) as (_, streaming):
                await count(streaming, options.raw, tally)
                tally.spilled += streaming.spilled
        elif options.copied:
            async with await anyio.open_file(file, "rb") as opened:
                await load(opened, builder, options, tally)
        else:
            await load(source, builder, options, tally)
    gauge.report("atproto-repo-stream", tally)


async def load(
    source: Source, builder: DriverBuilder[Any], options: argparse.Namespace, tally: Tally
) -> None:
    match await builder.load_car(source):
        case Driver.Memory(_, in_memory):
            await count(in_memory, options.raw, tally)
        case Driver.Disk(paused) if options.disk:
            async with DiskBuilder().open() as store:
                _, on_disk = await paused.finish_loading(store)
                await count(on_disk, options.raw, tally)
                await on_disk.reset_store()
            tally.spilled += 1
        case _:
            sys.exit("does not fit in memory")


async def count(driver: RepoDriver[Any], raw: bool, tally: Tally) -> None:
    records = key_bytes = record_bytes = 0
    while chunk := await driver.next_chunk(256):
        records += len(chunk)
        for key, value in chunk:
            key_bytes += len(key)  # a key is ASCII
            record_bytes += len(value) if raw else value
    tally.add(records, key_bytes, record_bytes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", metavar="FILE")
    for flag in ("--disk", "--copied", "--stream", "--raw", "--unverified"):
        parser.add_argument(flag, action="store_true")
    anyio.run(main, parser.parse_args())
