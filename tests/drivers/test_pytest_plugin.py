"""The fixtures, in test runs of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

USES_ALL = """
    from urllib.request import urlopen

    import pytest
    from repo_stream import open_car

    @pytest.mark.anyio
    async def test_all(car_builder, made_repo, disk_store, car_server):
        car = car_builder({"a.b.c/1": {"text": "hi"}})
        async with open_car(car, spill=disk_store, mem_limit_mb=0) as repo:
            assert repo.spilled
            assert [rkey async for rkey, _ in repo] == ["a.b.c/1"]
        with urlopen(car_server.serve(made_repo.to_car())) as answer:
            async with open_car(answer.read()) as repo:
                assert [rkey async for rkey, _ in repo] == list(made_repo.records)

    def test_without_async(made_repo, car_server):
        assert len(made_repo.records) == 100
        assert car_server.url.startswith("http://127.0.0.1:")
"""


def test_every_fixture_does_its_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES_ALL)
    result = pytester.runpytest_subprocess("-p", "anyio")
    result.assert_outcomes(passed=3)


def test_the_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for name in ("car_builder", "made_repo", "disk_store", "car_server"):
        assert name in shown


def test_a_run_without_them_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_imports():
            assert "repo_stream.pytest_plugin" in sys.modules
            ours = {name for name in sys.modules if name.startswith("repo_stream")}
            assert ours == {"repo_stream", "repo_stream.pytest_plugin"}
            assert not {"anyio._core", "cbor2", "aiosqlite", "multiformats"} & set(sys.modules)
    """)
    pytester.runpytest_subprocess("-p", "no:anyio").assert_outcomes(passed=1)


def test_a_server_ends_with_a_client_that_does_not_read() -> None:
    code = """
import socket
from repo_stream.car_server import CarServer
with CarServer() as server:
    server.serve(bytes(50_000_000), did="d")
    client = socket.create_connection(server.url.removeprefix("http://").split(":"))
    client.sendall(b"GET /xrpc/com.atproto.sync.getRepo?did=d HTTP/1.1\\r\\n\\r\\n")
    assert client.recv(10)
client.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
