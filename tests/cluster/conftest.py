"""One local Ray for all tests of the folder: two workers, on loopback, nothing left at its end.

Ray is imported by its fixture and not by a test's file, which is also imported if other tests run.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]

# Two CPUs, and no more memory for blocks than tests need.
CPUS = 2
STORE_BYTES = 256 * 1024 * 1024


def imported(name: str) -> Any:  # Any: half of Ray has no types
    return import_module(name)


@pytest.fixture(scope="session")
def local_ray() -> Generator[None]:
    """A Ray of this session. Its files are in a folder of its own: paths of sockets are short."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # Ray reads these when it is imported. The first one is how it is told to stay on loopback.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Without a token in its environment, it would keep one in the home folder.
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        ray = imported("ray")
        folder = tempfile.mkdtemp(prefix="ray-")
        stack.callback(remove, folder)
        stack.enter_context(
            ray.init(
                num_cpus=CPUS,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
        )
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        yield


def remove(folder: str) -> None:
    """Remove the folder of a Ray, whose last processes may still write into it."""
    until = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


@pytest.fixture
def by_value(request: pytest.FixtureRequest, local_ray: None) -> Generator[None]:
    """Send functions and classes of the test's file to workers by value: they do not have it."""
    del local_ray
    cloudpickle = imported("ray.cloudpickle")
    module = sys.modules[request.node.path.stem]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def context(local_ray: None) -> Generator[object]:
    """Settings of data sets for one test: in order, without progress bars."""
    del local_ray
    contexts = imported("ray.data").DataContext
    settings = contexts.get_current().copy()
    settings.enable_progress_bars = False
    settings.execution_options.preserve_order = True
    with contexts.current(settings):
        yield settings
