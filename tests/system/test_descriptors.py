"""Few file descriptors: everything works, or says at once that it lacks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")

# Prints a line for each way and number of free descriptors: what came of it.
SCRIPT = """
import gc, importlib, os, resource, sys
import anyio
from repo_stream import DiskBuilder, Driver, DriverBuilder, RepoStreamError, open_car
from repo_stream.testing import build_car

backend, home, imported = sys.argv[1:]
CAR = build_car({f"app.test.a/{n:03}": {"n": n, "x": "y" * 300} for n in range(300)})
PATH = home + "/repo.car"
with open(PATH, "wb") as file:
    file.write(CAR)
if imported == "imported":
    for name in ("aiosqlite", "tempfile", "repo_stream.store.disk", "repo_stream.store.log"):
        importlib.import_module(name)


class Pieces:
    # Not a generator, which trio wants to be closed.
    def __init__(self):
        self.at = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        piece = CAR[self.at : self.at + 5000]
        if not piece:
            raise StopAsyncIteration
        self.at += 5000
        return piece


async def count(driver):
    found = 0
    while part := await driver.next_chunk(100):
        found += len(part)
    return found


async def open_store(path=None):
    async with DiskBuilder().open(path):
        return 300


async def load(source, path=None):
    match await DriverBuilder(mem_limit_mb=0).load_car(source):
        case Driver.Disk(paused):
            async with paused, DiskBuilder().open(path) as store:
                _, driver = await paused.finish_loading(store)
                return await count(driver)


async def stream(source, spill=None):
    async with open_car(source, mem_limit_mb=0, spill=spill) as repo:
        return await count(repo)


STORE = home + "/spill.db"
WAYS = {
    "open-temporary": open_store,
    "open-path": lambda: open_store(STORE),
    "load-stream": lambda: load(Pieces()),
    "load-path": lambda: load(PATH),
    "load-stream-to-path": lambda: load(Pieces(), STORE),
    "open_car-stream": lambda: stream(Pieces()),
    "open_car-path": lambda: stream(PATH),
    "open_car-stream-to-path": lambda: stream(Pieces(), STORE),
}


def opened():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def attempt(way, free):
    before = opened()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for _ in range(free):
        os.close(held.pop())
    try:
        with anyio.fail_after(20):
            outcome = await WAYS[way]()
    except (RepoStreamError, OSError) as error:
        outcome = f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)
    for _ in range(500):
        gc.collect()
        if opened() <= before:
            break
        await anyio.sleep(0.01)
    else:
        outcome = f"{opened() - before} files are still open"
    print(way, free, outcome, flush=True)


async def main():
    for way in WAYS:
        for free in range(9):
            await attempt(way, free)
    print(sorted(os.listdir(home)))


anyio.run(main, backend=backend)
"""

LACKING = ("file descriptor", "Too many open files")


@pytest.mark.long
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("imported", ["imported", "not-imported"])
def test_without_descriptors_it_works_or_says_that_it_lacks_them(
    backend: str, imported: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, backend, str(tmp_path), imported],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    *lines, left = done.stdout.splitlines()
    assert len(lines) == 8 * 9
    worked: dict[str, list[int]] = {}
    faults: list[str] = []
    for line in lines:
        way, free, outcome = line.split(" ", 2)
        if outcome == "300":
            worked.setdefault(way, []).append(int(free))
        elif not any(words in outcome for words in LACKING):
            faults.append(line)
    assert not faults
    # As many as it needs are enough, and more do not harm.
    assert len(worked) == 8, sorted(worked)
    for way, numbers in worked.items():
        assert numbers == [*range(numbers[0], 9)], way
    assert left in {"['repo.car']", "['repo.car', 'spill.db']"}
