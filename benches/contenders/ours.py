"""`repo_stream` as it lies in this tree: FILE... [OPTIONS].

Without `--disk` everything stays in memory; with it a repo over 16 MiB goes through the disk.
`--stream` walks while the file comes in. `--raw` keeps the records' bytes, not only their lengths.
`--source` says what the repo comes from: the path; the open file; an async generator; or a download
from a server on loopback, which is a process of its own.
"""

import argparse
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from measure import Gauge, Tally

from repo_stream import DiskBuilder, Driver, DriverBuilder, RepoDriver, Source

PIECE = 1 << 16


async def main(options: argparse.Namespace) -> None:
    import aiosqlite  # noqa: F401, PLC0415 - its import is no part of the job

    with serving(options) as url:
        gauge, tally = Gauge(), Tally(record_bytes=0)
        builder: DriverBuilder[Any] = DriverBuilder()
        builder = builder.with_mem_limit_mb(16 if options.disk else 4096)
        builder = builder.with_cid_verification(not options.unverified)
        if not options.raw:
            builder = builder.with_block_processor(len)
        for file in options.files:
            async with source_of(file, url, options) as source:
                if options.stream:
                    async with builder.stream_car(source) as (_, streaming):
                        await count(streaming, options.raw, tally)
                        tally.spilled += streaming.spilled
                else:
                    await load(source, builder, options, tally)
        gauge.report("atproto-repo-stream", tally)


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[str]:
    """Serve the folder of the file, if it is to be downloaded."""
    if options.source != "http":
        yield ""
        return
    import httpx  # noqa: F401, PLC0415 - its import is no part of the job

    folder = str(Path(options.files[0]).parent)
    serve = ("-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder)
    with subprocess.Popen(
        [sys.executable, *serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(" port ")[1].split()[0]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@asynccontextmanager
async def source_of(file: str, url: str, options: argparse.Namespace) -> AsyncGenerator[Source]:
    match options.source:
        case "file":
            async with await anyio.open_file(file, "rb") as opened:
                yield opened
        case "generator":
            async with aclosing(pieces_of(file)) as pieces:
                yield pieces
        case "http":
            import httpx  # noqa: PLC0415 - has been imported

            async with (
                httpx.AsyncClient(trust_env=False, timeout=60) as client,
                client.stream("GET", f"{url}/{Path(file).name}") as response,
            ):
                yield response.aiter_bytes()
        case _ if len(options.files) > 1:
            # Of many small repos the peers read each into memory, in no other thread; so do we.
            yield Path(file).read_bytes()  # noqa: ASYNC240 - says why
        case _:
            yield file


async def pieces_of(file: str) -> AsyncGenerator[bytes]:
    with open(file, "rb", buffering=0) as opened:  # noqa: ASYNC230, PTH123 - a source that takes no time
        while piece := opened.read(PIECE):
            yield piece


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
    for flag in ("--disk", "--stream", "--raw", "--unverified"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--source", choices=["path", "file", "generator", "http"], default="path")
    anyio.run(main, parser.parse_args())
