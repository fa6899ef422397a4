"""A store that was forgotten must not keep the interpreter, however it comes to its end.

Each test is a program of its own, which has a minute to be gone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.both_loops

WARNING = "was not closed; use `async with`"
SECONDS = 60

HEAD = """
import signal, sys
import anyio
from repo_stream import *
from repo_stream.testing import build_car

# Who starts this may have turned it off.
signal.signal(signal.SIGINT, signal.default_int_handler)

backend, path = sys.argv[1], sys.argv[2] or None
CAR = build_car({f"app.test.a/{n:03}": {"n": n} for n in range(300)})
held = []

async def loaded(store):
    match await DriverBuilder(mem_limit_mb=0).load_car(CAR):
        case Driver.Disk(paused):
            commit, driver = await paused.finish_loading(store)
            return driver
"""

HOLDERS = {
    "in a global": "held.append(await DiskBuilder().open(path))",
    "in a local": "store = await DiskBuilder().open(path)",
    "in a cycle": "store = await DiskBuilder().open(path); cycle = [store]; cycle.append(cycle)",
    "by a driver": "held.append(await loaded(await DiskBuilder().open(path)))",
    "in a context": "held.append(DiskBuilder().open(path)); await held[0].__aenter__()",
}

# An event loop of asyncio that is about to wait for a minute may not see a Ctrl-C that comes right
# then until the minute is over. So it is woken now and then.
WAITS = "[await anyio.sleep(0.1) for _ in range(600)]"

# What the program does then, the code that it ends with, and what it says at last.
ENDINGS = {
    "falls off the end": ("pass", 0, ""),
    "sys.exit": ("sys.exit(3)", 3, ""),
    "an exception": ("raise LookupError('mine')", 1, "LookupError: mine"),
    "Ctrl-C": (
        f"print('ready', flush=True); {WAITS}",
        -signal.SIGINT,
        "KeyboardInterrupt",
    ),
}


def run(program: str, *arguments: str, interrupt_after: float | None = None) -> tuple[int, str]:
    """Run a program; return its exit code and what it wrote to stderr.

    Python drops a Ctrl-C that comes while it finalizes an object, and says so. Then it comes again,
    as from a person.
    """
    command = [sys.executable, "-W", "always", "-c", HEAD + program, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            if interrupt_after is not None:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                time.sleep(interrupt_after)
                process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=SECONDS / 2)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=SECONDS / 2)
                assert "Exception ignored in" in errors
        finally:
            process.kill()
    return process.returncode, errors


# Every holder and every ending, but not every pair of them: each is a new interpreter.
@pytest.mark.parametrize(
    ("holder", "ending"),
    [
        ("in a global", "falls off the end"),
        ("in a global", "an exception"),
        ("in a local", "falls off the end"),
        ("in a local", "an exception"),
        ("in a cycle", "sys.exit"),
        ("by a driver", "Ctrl-C"),
        ("in a context", "falls off the end"),
    ],
)
def test_forgotten_store_warns_and_lets_the_process_end(
    anyio_backend: str, holder: str, ending: str, tmp_path: Path
) -> None:
    does, code, says = ENDINGS[ending]
    path = str(tmp_path / "store.db") if holder in {"in a global", "in a cycle"} else ""
    program = f"""
async def main():
    {HOLDERS[holder]}
    {does}

anyio.run(main, backend=backend)
"""
    found, errors = run(
        program, anyio_backend, path, interrupt_after=0 if ending == "Ctrl-C" else None
    )
    assert found == code, errors
    assert says in errors
    assert WARNING in errors
    assert "Exception ignored" not in errors
    assert "Exception in thread" not in errors


@pytest.mark.parametrize("ending", ENDINGS)
def test_store_in_its_context_is_closed_without_a_warning(
    anyio_backend: str, ending: str, tmp_path: Path
) -> None:
    does, code, says = ENDINGS[ending]
    program = f"""
async def main():
    async with DiskBuilder().open(path) as store:
        driver = await loaded(store)
        async with driver.to_channel(10) as chunks:
            async for chunk in chunks:
                {does}

anyio.run(main, backend=backend)
"""
    found, errors = run(
        program,
        anyio_backend,
        str(tmp_path / "store.db"),
        interrupt_after=0 if ending == "Ctrl-C" else None,
    )
    assert found == code, errors
    assert says in errors
    assert "Warning" not in errors
    assert "Exception ignored" not in errors
    assert [file.name for file in tmp_path.iterdir()] == ["store.db"]


@pytest.mark.parametrize(
    ("held", "after"),
    [
        pytest.param("in a context", 0.0, id="in a context, at once"),
        pytest.param("in a context", 0.1, id="in a context"),
        pytest.param("forgotten", 0.1, id="forgotten"),
    ],
)
def test_ctrl_c_in_the_middle_of_work_ends_the_process(
    anyio_backend: str, held: str, after: float, tmp_path: Path
) -> None:
    program = """
async def main():
    opening = DiskBuilder().open(path)
    if held_in_context:
        async with opening as store:
            await work(store)
    else:
        await work(await opening)

async def work(store):
    await loaded(store)
    print("ready", flush=True)
    while True:
        driver = await loaded(store)
        while await driver.next_chunk(7):
            pass
        await driver.reset_store()

anyio.run(main, backend=backend)
""".replace("held_in_context", str(held == "in a context"))
    found, errors = run(program, anyio_backend, str(tmp_path / "store.db"), interrupt_after=after)
    assert found == -signal.SIGINT, errors
    assert errors.rstrip().splitlines()[-1].startswith("KeyboardInterrupt") or WARNING in errors
    assert (WARNING in errors) == (held == "forgotten")
    assert "Exception in thread" not in errors
    assert "never retrieved" not in errors


def test_store_that_outlives_its_event_loop_warns_when_it_is_collected(anyio_backend: str) -> None:
    program = """
import gc

async def main():
    held.append(await DiskBuilder().open())

anyio.run(main, backend=backend)
del held[:]
gc.collect()
print("still here", file=sys.stderr)
"""
    found, errors = run(program, anyio_backend, "")
    assert found == 0, errors
    assert errors.index(WARNING) < errors.index("still here")
    assert "Exception ignored" not in errors


@pytest.mark.parametrize("ending", ["falls off the end", "an exception"])
def test_stores_of_daemon_threads_let_the_process_end(anyio_backend: str, ending: str) -> None:
    does, code, says = ENDINGS[ending]
    program = f"""
import threading

async def work(ready):
    async with DiskBuilder().open() as store:
        await loaded(store)
        ready.set()
        while True:
            await loaded(store)

ready = [threading.Event() for _ in range(3)]
for event in ready:
    threading.Thread(
        target=anyio.run, args=[work, event], kwargs=dict(backend=backend), daemon=True
    ).start()
for event in ready:
    event.wait()
{does}
"""
    found, errors = run(program, anyio_backend, "")
    assert found == code, errors
    assert says in errors
