"""What several of these files need."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import small_car
from support.growth import Cars


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
