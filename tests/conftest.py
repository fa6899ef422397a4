"""How every test runs: under which event loop, beside whom, and in which order.

Async tests run under asyncio. Those marked `both_loops` run under trio too: mark a test (or a file)
whose subject is threads, stores, sources, cancellation or timing.

Tests marked `alone` measure time, or the memory of a process. While one of them runs, no other test
does, in any of the processes that share the tests out.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if sys.platform != "win32":
    import fcntl

TESTS = Path(__file__).parent
SYSTEM = TESTS / "system"
CLUSTER = TESTS / "cluster"  # not "ray": tests are on the path, so `import ray` would find it
CORE = TESTS / "core"


# No example has a time to keep: machines have slow moments.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds", type=int, default=60, help="how long each test marked fuzz may take"
    )


# --- Event loops ----------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = getattr(request, "param", "asyncio")
    return backend


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    both = metafunc.definition.get_closest_marker("both_loops") is not None
    if both and "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)


# --- Speeds and order -----------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SYSTEM in item.path.parents:
            item.add_marker("system")
        if CLUSTER in item.path.parents:
            item.add_marker("ray")
        if CORE in item.path.parents and "anyio_backend" in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid}: tests/core is for tests without an event loop")
    items.sort(key=starts)


def pytest_collection_finish() -> None:
    """Leave thousands of tests, and what they import, out of each collection of garbage."""
    gc.collect()
    gc.freeze()


def starts(item: pytest.Item) -> int:
    """Which tests begin first: those that run alone, then those that take long."""
    return next(
        (turn for turn, name in enumerate(["alone", "long"]) if item.get_closest_marker(name)), 2
    )


# --- Alone ----------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, mode: int) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)  # which unlocks it


@contextmanager
def machine(*, alone: bool) -> Generator[None]:
    """Share the machine with other tests, or have it alone.

    Whoever waits to be alone keeps the door shut, so that no other test begins meanwhile.
    """
    if sys.platform == "win32":  # where tests that measure may be disturbed
        yield
        return
    mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with ExitStack() as inside:
        with locked(TESTS, mode):
            inside.enter_context(locked(SYSTEM, mode))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with machine(alone=item.get_closest_marker("alone") is not None):
        return (yield)
