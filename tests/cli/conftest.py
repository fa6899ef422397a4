"""What runs the command in this process, and what it reads."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn, cast

import pytest

from repo_stream.cli import accounts, main
from repo_stream.testing import AtprotoNetwork
from support.cli import Run, small_car


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; give its exit code, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code: object = main([str(argument) for argument in arguments])
        except SystemExit as usage:
            code = usage.code
        out, err = capsys.readouterr()
        return cast("int", code), out, err

    return run


@pytest.fixture
def car(tmp_path: Path) -> Path:
    """The file of a small repo."""
    path = tmp_path / "repo.car"
    path.write_bytes(small_car())
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the servers of the world by accident."""

    def refuse(**_: object) -> NoReturn:
        pytest.fail("a test that needs a network has to ask for one")

    monkeypatch.setattr(accounts, "new_network", refuse)


@pytest.fixture
def world(
    no_network: None, atproto_network: AtprotoNetwork, monkeypatch: pytest.MonkeyPatch
) -> AtprotoNetwork:
    """A network of accounts, which is the one that the command finds, whatever it is told."""
    monkeypatch.setattr(accounts, "new_network", atproto_network.network)
    return atproto_network
