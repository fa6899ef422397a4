"""The shell command on a terminal: its progress bar, and what does not belong there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import build_car
from support import SAMPLE
from support.cli import command

termios: Any = pytest.importorskip("termios", reason="needs terminals as Unix has them")

pytestmark = pytest.mark.usefixtures("started_as_by_people")


def on_terminal(arguments: list[str], *, drip: bytes | None = None, term: str = "xterm") -> str:
    """Run the command on a terminal of 80 columns; give what the terminal was sent.

    Its input is what drips, which takes a tenth of a second for every 20 kB.
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": term, "COLUMNS": "80"},
    )
    os.close(theirs)
    assert process.stdin is not None
    seen = bytearray()
    try:
        with process.stdin as pipe:
            for at in range(0, len(drip or b""), 20_000):
                pipe.write((drip or b"")[at : at + 20_000])
                pipe.flush()
                time.sleep(0.1)
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 65536):
                seen += piece
        process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return seen.decode()


def test_progress_is_shown_and_leaves_no_trace() -> None:
    pytest.importorskip("rich")
    shown = on_terminal(command("inspect", "-"), drip=SAMPLE.read_bytes())
    assert "Reading" in shown
    assert "500 records" in shown
    assert "kB" in shown
    after = shown.rpartition("\x1b[2K")[2]
    assert "DID" in after
    assert "Reading" not in after


@pytest.mark.parametrize(
    ("flags", "term"),
    [pytest.param(["-q"], "xterm", id="quiet"), pytest.param([], "dumb", id="dumb terminal")],
)
def test_progress_is_not_shown(flags: list[str], term: str) -> None:
    shown = on_terminal(command("inspect", "-", *flags), drip=SAMPLE.read_bytes(), term=term)
    assert shown.startswith("DID")
    assert "\x1b" not in shown


def test_progress_is_not_shown_of_what_is_soon_done(car: Path) -> None:
    shown = on_terminal(command("inspect", car))
    assert shown.startswith("DID")
    assert "\x1b" not in shown


def test_record_is_spread_out_and_escaped(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    text = "\x1b[2J\x9b2J\u202e\u2713"
    path.write_bytes(build_car({"a.b/c": {"text": text}}))
    for arguments in (("get", path, "a.b/c"), ("export", path)):
        shown = on_terminal(command(*arguments)).replace("\r\n", "\n")
        assert json.loads(shown)["value"] == {"text": text}
        assert shown.replace("\n", "").isprintable()
        assert (shown.count("\n") > 1) == (arguments[0] == "get")


def test_parquet_is_not_for_a_terminal() -> None:
    shown = on_terminal(command("export", SAMPLE, "--format", "parquet"))
    assert "-o" in shown
    assert "PAR1" not in shown


def test_car_is_not_for_a_terminal(car: Path) -> None:
    assert "cannot be shown on a terminal" in on_terminal(command("order", car, "-"))
