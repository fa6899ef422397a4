"""What several of these files need."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.cli import small_car
from support.growth import Cars
from support.packaging import needs, run


@pytest.fixture
def car(tmp_path: Path) -> Path:
    """The file of a small repo."""
    path = tmp_path / "repo.car"
    path.write_bytes(small_car())
    return path


@pytest.fixture(scope="session")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cars]:
    """Files of large repos, each made when it is first asked for."""
    made = Cars(tmp_path_factory.mktemp("cars"))
    yield made
    made.remove()  # pytest keeps the directories of the last runs


@pytest.fixture(scope="module")
def started_as_by_people() -> Iterator[None]:
    """Have children hear Ctrl-C if these tests were started deaf to it, as by `&`.

    And have their output buffered, as it is by default.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        yield
    signal.signal(signal.SIGINT, before)


# --- What is released ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from it."""
    needs("build", "hatchling")
    out = tmp_path_factory.mktemp("dist")
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    done = run(*command, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path
