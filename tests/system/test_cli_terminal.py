"""The shell command on a terminal: its progress bar, and what does not belong there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream.cli import progress
from repo_stream.cli.progress import Meter, Position
from repo_stream.testing import build_car, build_repo
from support import SAMPLE
from support.cli import command

termios: Any = pytest.importorskip("termios", reason="needs terminals as Unix has them")

pytestmark = pytest.mark.usefixtures("started_as_by_people")


def on_terminal(
    arguments: list[str],
    *,
    drip: bytes | None = None,
    errors: int | None = None,
    columns: int = 80,
    environment: dict[str, str] | None = None,
) -> str:
    """Run the command on a terminal of 80 columns; give what the terminal was sent.

    Its input is what drips, which takes a tenth of a second for every 20 kB from when it reads.
    """
    settings = {"TERM": "xterm", "CI": "", "COLUMNS": str(columns)}
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs if errors is None else errors,
        env={**os.environ, **settings, **(environment or {})},
    )
    os.close(theirs)
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for piece in pieces_of(drip or b""):
                pipe.write(piece)
                pipe.flush()
                time.sleep(0.1)
        shown = read_to_end(ours)
        process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown


def test_progress_is_shown_and_leaves_no_trace() -> None:
    pytest.importorskip("rich")
    shown = on_terminal(command("inspect", "-"), drip=SAMPLE.read_bytes())
    assert "Reading" in shown
    assert "500 records" in shown
    assert "kB" in shown
    after = shown.rpartition("\x1b[2K")[2]
    assert "DID" in after
    assert "Reading" not in after


def frames(shown: str, word: str) -> list[str]:
    """What the bar showed, each time that it said a word."""
    parts = re.split(r"\r|\x1b\[2K|\n", re.sub(r"\x1b\[[0-9;]*m", "", shown))
    return [part for part in parts if word in part]


@pytest.mark.parametrize("columns", [80, 30])
def test_reading_is_told_from_walking(columns: int) -> None:
    """In streamable order a repo is walked while it is read, and else afterwards."""
    pytest.importorskip("rich")
    repo = build_repo({f"a.b.c/{n:04}": {"text": f"{n:0400}"} for n in range(500)})
    for order in ("stream", "shuffled"):
        car = repo.to_car(order=order)
        shown = on_terminal(command("inspect", "-"), drip=car, columns=columns)
        reading, walking = frames(shown, "Reading"), frames(shown, "Walking")
        assert reading
        assert "Reading" not in shown.rpartition("Walking")[2]
        assert max(map(len, reading + walking)) <= columns
        assert not any("\u2026" in frame for frame in reading + walking)  # cut off
        assert not any("kB" in frame or "left" in frame for frame in walking)
        if columns == 80:
            along = sum("record" in frame for frame in reading)
            assert along > 1 if order == "stream" else along <= 1
            assert "500 records" in walking[-1]
        assert frames(shown.rpartition("\x1b[2K")[2], "ing ") == []


def test_an_ordered_car_is_read_and_then_written(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    shown = on_terminal(command("order", "-", tmp_path / "out.car"), drip=SAMPLE.read_bytes())
    assert frames(shown, "Reading")
    assert "kB" in frames(shown, "Writing")[-1]
    assert not frames(shown, "Walking")
    assert "blocks written" in shown.rpartition("\x1b[2K")[2]


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        pytest.param(["-q"], {}, id="quiet"),
        pytest.param([], {"TERM": "dumb"}, id="dumb terminal"),
        pytest.param([], {"TERM": "unknown"}, id="unknown terminal"),
        pytest.param([], {"TERM": ""}, id="unnamed terminal"),
        pytest.param([], {"CI": "true"}, id="CI"),
        pytest.param([], {"TTY_COMPATIBLE": "0"}, id="no terminal to rich"),
    ],
)
def test_progress_is_not_shown(flags: list[str], environment: dict[str, str]) -> None:
    drip = SAMPLE.read_bytes()
    shown = on_terminal(command("inspect", "-", *flags), drip=drip, environment=environment)
    assert shown.startswith("DID")
    assert "\x1b" not in shown


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}], ids=["plain", "forced color"])
def test_progress_is_not_shown_where_errors_go_to_a_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path = tmp_path / "errors.txt"
    with path.open("wb") as file:
        drip = SAMPLE.read_bytes()
        shown = on_terminal(
            command("inspect", "-"), drip=drip, errors=file.fileno(), environment=environment
        )
    assert shown.startswith("DID")
    assert "\x1b" not in shown
    assert path.read_bytes() == b""


def test_time_left_is_said_of_a_file_of_known_size_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads 2 MB a second; a file of 29 MB would have ended, so its size is not that."""
    pytest.importorskip("rich")
    for total, expected in ((100_000_000, "0:35 left"), (None, None), (29_000_000, None)):
        name = "archive-of-a-friend.car" if total == 100_000_000 else ""
        shown = metered(monkeypatch, total=total, name=name)
        reading = frames(shown, "Reading")
        assert ("left" in shown) == (expected is not None)
        assert max(map(len, reading)) <= 80
        if expected is not None:
            assert "archive-of-a-..." in reading[-1]
            assert f"30.0/100.0 MB {expected}" in reading[-1]
        else:
            assert "30.0 MB 2.0 MB/s" in reading[-1]


def test_walking_of_a_pipe_is_seen_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is read only when something is missing. A pause of a download is not its end."""
    pytest.importorskip("rich")
    for pause, walked, doing in (
        ((5, 15), 7, "Walking"),
        ((5, 15), 0, "Reading"),
        ((5, 10), 7, "Reading"),
        ((14.5, 15), 7, "Reading"),
    ):
        shown = metered(monkeypatch, total=None, pause=pause, walked=walked)
        assert (pause, walked, frames(shown, "ing ")[-1][:7]) == (pause, walked, doing)


def metered(
    monkeypatch: pytest.MonkeyPatch,
    *,
    total: int | None,
    name: str = "",
    pause: tuple[float, float] = (0, 0),
    walked: int = 0,
) -> str:
    """What a meter shows of 15 seconds, which pass in a moment.

    In a pause nothing is read, and so many records are walked every half a second.
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    now = 0.0
    read = 0
    bar: Meter
    over: anyio.Event

    def come() -> Position:
        nonlocal now, read
        now += 0.5
        if pause[0] < now <= pause[1]:
            bar.walked(walked)
        else:
            read += 1_000_000
        if now >= 15:
            over.set()
        return Position(min(read, 30_000_000), fully_read=False)

    async def meter() -> None:
        nonlocal bar, over
        over = anyio.Event()
        bar = Meter(shown=True, name=name)
        bar.expect(total)
        async with bar.following(come):
            await over.wait()
        bar.close()

    for setting, value in {"TERM": "xterm", "CI": "", "COLUMNS": "80"}.items():
        monkeypatch.setenv(setting, value)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(progress, "monotonic", lambda: now)
        monkeypatch.setattr(progress, "_PERIOD", 0.001)
        anyio.run(meter)
    try:
        return read_to_end(ours)
    finally:
        os.close(ours)


def pieces_of(data: bytes) -> Iterator[bytes]:
    """Cut data up; the first piece is more than a pipe holds, so the reader has begun after it."""
    if data:
        yield data[:70_000]
    for at in range(70_000, len(data), 20_000):
        yield data[at : at + 20_000]


def read_to_end(terminal: int) -> str:
    """What a terminal was sent until nobody had it open any more."""
    seen = bytearray()
    with contextlib.suppress(OSError):  # how a terminal ends
        while piece := os.read(terminal, 65536):
            seen += piece
    return seen.decode()


def test_progress_is_not_shown_of_what_is_soon_done(car: Path) -> None:
    shown = on_terminal(command("inspect", car))
    assert shown.startswith("DID")
    assert "\x1b" not in shown


def test_record_is_spread_out_and_escaped(tmp_path: Path) -> None:
    path = tmp_path / "repo.car"
    text = "\x1b[2J\x9b2J\u202e\u2713"
    path.write_bytes(build_car({"a.b/c": {"text": text}}))
    for arguments in (("get", path, "a.b/c"), ("export", "-q", path)):
        shown = on_terminal(command(*arguments)).replace("\r\n", "\n")
        assert json.loads(shown)["value"] == {"text": text}
        assert shown.replace("\n", "").isprintable()
        assert (shown.count("\n") > 1) == (arguments[0] == "get")


def test_parquet_is_not_for_a_terminal() -> None:
    shown = on_terminal(command("export", SAMPLE, "--format", "parquet"))
    assert "-o" in shown
    assert "PAR1" not in shown


def test_car_is_not_for_a_terminal(car: Path) -> None:
    for arguments in (("order", car, "-"), ("join", car, car)):
        assert "cannot be shown on a terminal" in on_terminal(command(*arguments))
