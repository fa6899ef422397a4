"""The pytest plugin in other people's test runs, and its server at the end of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]


def test_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for name in ("car_builder", "made_repo", "disk_store", "car_server", "atproto_network"):
        assert name in shown


def test_run_without_the_fixtures_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_imports():
            assert "repo_stream.testing.pytest_plugin" in sys.modules
            ours = {name for name in sys.modules if name.startswith("repo_stream")}
            face = {"repo_stream", "repo_stream._face", "repo_stream.testing"}
            assert ours == {*face, "repo_stream.testing.pytest_plugin"}
            assert not {"anyio._core", "cbor2", "aiosqlite", "multiformats"} & set(sys.modules)
    """)
    pytester.runpytest_subprocess("-p", "no:anyio").assert_outcomes(passed=1)


def test_server_ends_with_a_client_that_does_not_read() -> None:
    code = """
import socket
from repo_stream.testing import CarServer
with CarServer() as server:
    server.serve(bytes(50_000_000), did="d")
    client = socket.create_connection(server.url.removeprefix("http://").split(":"))
    client.sendall(b"GET /xrpc/com.atproto.sync.getRepo?did=d HTTP/1.1\\r\\n\\r\\n")
    assert client.recv(10)
client.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
