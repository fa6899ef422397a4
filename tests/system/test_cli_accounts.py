"""The shell command as a process of its own, reading accounts on a network of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault
from support.cli import LIKE, RECORDS, command, keys

pytestmark = pytest.mark.usefixtures("started_as_by_people")

HANDLE = "alice.example.com"


@pytest.fixture
def net() -> Iterator[AtprotoNetwork]:
    """A network that any program can reach."""
    with AtprotoNetwork(plain=True) as network:
        yield network


@pytest.fixture
def alice(net: AtprotoNetwork) -> AtprotoAccount:
    return net.add_account(HANDLE, RECORDS)


def asking(net: AtprotoNetwork, *arguments: str | Path) -> list[str]:
    """The command line that asks the servers of a network."""
    return command(*arguments, "--plc", net.directory, "--allow-private")


def done(arguments: list[str]) -> tuple[int, str, str]:
    ended = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_account_is_read_and_kept(
    net: AtprotoNetwork, alice: AtprotoAccount, tmp_path: Path
) -> None:
    code, out, err = done(asking(net, "ls", alice.did, "--json"))
    assert (code, err) == (0, "")
    assert keys(out) == sorted(RECORDS)
    target = tmp_path / "alice.car"
    code, out, err = done(asking(net, "fetch", alice.did, "-o", target))
    assert (code, out) == (0, "")
    assert f"signed by {alice.key.did_key}" in err
    assert target.read_bytes() == alice.car()
    code, out, err = done(asking(net, "get", f"at://{alice.did}/{LIKE}/1"))
    assert (code, err) == (0, "")
    assert json.loads(out)["value"] == {"n": 1}


def test_handles_below_test_are_found_by_the_server_that_is_named(net: AtprotoNetwork) -> None:
    alice = net.add_account("alice.test", RECORDS)
    code, out, err = done(asking(net, "ls", "alice.test", "--handle-server", alice.server.url))
    assert (code, err) == (0, "")
    assert out.count("\n") == len(RECORDS)


def test_private_network_has_to_be_allowed(net: AtprotoNetwork, alice: AtprotoAccount) -> None:
    code, out, err = done(command("ls", alice.did, "--plc", net.directory))
    assert (code, out) == (1, "")
    assert "no connection is made to 127.0.0.1: " in err
    assert err.endswith("use --allow-private\n")


# --- What is not installed ------------------------------------------------------------------------

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from repo_stream.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("package", "name"), [("httpx", HANDLE), ("dns", HANDLE), ("cryptography", "DID")]
)
def test_what_the_extra_lacks_is_said(
    net: AtprotoNetwork, alice: AtprotoAccount, package: str, name: str
) -> None:
    who = alice.did if name == "DID" else name
    more = ["--plc", net.directory, "--allow-private"]
    code, out, err = done([sys.executable, "-c", WITHOUT, package, "ls", who, *more])
    assert (code, out) == (2, "")
    assert err.startswith("repo-stream: ")
    assert re.search(r"of the extra atproto-repo-stream\[(network|crypto)\]", err)
    assert "install it with: pip install" in err
    assert ("there is no such file" in err) == (who == HANDLE)
    assert err.count("\n") == 1


def test_files_are_read_without_the_extra(tmp_path: Path, alice: AtprotoAccount) -> None:
    path = tmp_path / "repo.car"
    path.write_bytes(alice.car())
    code, out, err = done([sys.executable, "-c", WITHOUT, "httpx", "ls", str(path), "--json"])
    assert (code, err) == (0, "")
    assert keys(out) == sorted(RECORDS)


# --- While it is downloaded -----------------------------------------------------------------------


def slowly(account: AtprotoAccount) -> None:
    """Have its server take two seconds and more for the repo, which has so many blocks."""
    account.inject("getRepo", Fault(drip=(65536, 0.004)))


@pytest.fixture
def large(net: AtprotoNetwork) -> AtprotoAccount:
    records = {f"{LIKE}/{n:04}": {"text": f"{n:0400}"} for n in range(500)}
    return net.add_account("large.example.com", records)


def test_ctrl_c_during_a_download_leaves_nothing(
    net: AtprotoNetwork, large: AtprotoAccount, tmp_path: Path
) -> None:
    slowly(large)
    process = subprocess.Popen(
        asking(net, "fetch", large.did, "-o", tmp_path / "x.car"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 60
        while not any("getRepo" in request.path for request in net.requests):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, b"", b"")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("arguments", [["ls"], ["order", "/dev/null"], ["verify"]])
def test_progress_without_a_known_length_is_bytes_and_their_rate(
    net: AtprotoNetwork, large: AtprotoAccount, arguments: list[str]
) -> None:
    pytest.importorskip("rich")
    slowly(large)
    name, *more = arguments
    code, shown = on_terminal(asking(net, name, large.did, *more))
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    frames = [part for part in re.split(r"\r|\x1b\[2K|\n", plain) if "Reading" in part]
    assert len(frames) > 5
    assert re.search(r"Reading .* \d+\.\d kB .*\d+\.\d kB/s", frames[-1])
    assert not any("left" in frame or "/0" in frame for frame in frames)
    assert max(map(len, frames)) <= 80


def test_error_in_a_terminal_is_what_is_left_of_it(
    net: AtprotoNetwork, large: AtprotoAccount
) -> None:
    pytest.importorskip("rich")
    large.inject("getRepo", Fault(drip=(65536, 0.004), stop_at=len(large.car()) // 2))
    code, shown = on_terminal(asking(net, "ls", large.did, "--patience", "0"))
    assert code == 1
    after = shown.rpartition("\x1b[2K")[2].replace("\r", "")
    assert after.startswith(f"repo-stream: {large.did}: the download from http://127.0.0.1:")
    assert after.endswith("; try again later\n")
    assert after.count("\n") == 1


def on_terminal(arguments: list[str]) -> tuple[int, str]:
    """Run the command on a terminal of 80 columns; give its exit code and what was shown."""
    termios: Any = pytest.importorskip("termios", reason="needs terminals as Unix has them")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    settings = {"TERM": "xterm", "CI": "", "COLUMNS": "80"}
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **settings},
    )
    os.close(theirs)
    seen = bytearray()
    try:
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 65536):
                seen += piece
        return process.wait(timeout=120), seen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
