"""The fixtures of the pytest plugin, in a test run of their own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

USES_ALL = """
    from urllib.request import urlopen

    import pytest
    from repo_stream import open_car, open_repo
    from repo_stream.process import record

    @pytest.mark.anyio
    async def test_all(car_builder, made_repo, disk_store, car_server):
        car = car_builder({"a.b.c/1": {"text": "hi"}})
        async with open_car(car, spill=disk_store, mem_limit_mb=0, check_first=True) as repo:
            assert repo.spilled
            assert [key async for key, _ in repo] == ["a.b.c/1"]
        with urlopen(car_server.serve(made_repo.to_car())) as answer:
            async with open_car(answer.read()) as repo:
                assert [key async for key, _ in repo] == list(made_repo.records)

    @pytest.mark.anyio
    async def test_names(atproto_network):
        atproto_network.add_account("alice.example.com", {"com.example.note/1": {"n": 1}})
        async with (
            atproto_network.network() as network,
            open_repo("alice.example.com", network=network, block_processor=record) as repo,
        ):
            assert [note async for _, note in repo] == [{"n": 1}]

    def test_without_async(made_repo, car_server):
        assert len(made_repo.records) == 100
        assert car_server.url.startswith("http://127.0.0.1:")
"""


@pytest.mark.long
def test_every_fixture_does_its_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES_ALL)
    result = pytester.runpytest_subprocess("-p", "anyio")
    result.assert_outcomes(passed=5)
