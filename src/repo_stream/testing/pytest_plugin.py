"""Fixtures for tests of programs that read repos. pytest loads this plugin by itself.

A test names the fixtures that it uses, and nothing is imported for other tests:

    async def test_backup(car_server, made_repo):
        url = car_server.serve(made_repo.to_car())
        ...

`car_builder` builds CARs of given records, `made_repo` is a repo of a hundred records, `disk_store`
is an open `DiskStore`, and `car_server` serves `getRepo` on loopback, with faults if asked for.

`atproto_network` is a whole network on loopback: accounts with names, keys and servers, and all
that can go wrong between a name and its records:

    async def test_backup_waits_for_a_busy_server(atproto_network):
        alice = atproto_network.add_account("alice.example.com", {"com.example.note/1": {"n": 1}})
        busy = Fault(error="RateLimitExceeded", status=429, headers={"retry-after": "1"}, times=1)
        alice.inject("getRepo", busy)
        async with atproto_network.network() as network:
            await backup("alice.example.com", network)
        assert len(atproto_network.requests) == 3  # the document, and the repo twice
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from repo_stream import DiskStore
    from repo_stream.testing import AtprotoNetwork, BuiltRepo
    from repo_stream.testing.car_server import CarServer

__all__ = ["atproto_network", "car_builder", "car_server", "disk_store", "made_repo"]


@pytest.fixture(scope="session")
def car_builder() -> Callable[..., bytes]:
    """`repo_stream.testing.build_car`, which returns the bytes of a CAR for `{key: record}`.

    Example::

        async def test_lengths(car_builder):
            car = car_builder({"app.bsky.feed.post/3k2": {"text": "hi"}})
            async with open_car(car, block_processor=len) as repo:
                assert await repo.next_chunk() == [("app.bsky.feed.post/3k2", 9)]
    """
    from repo_stream.testing import build_car  # noqa: PLC0415 - only for tests that use it

    return build_car


@pytest.fixture(scope="session")
def made_repo() -> BuiltRepo:
    """A repo of 100 records in four collections; `made_repo.to_car()` is its CAR.

    `made_repo.records` has the CID of each key. The repo is the same in every run.
    """
    from repo_stream.testing import build_repo  # noqa: PLC0415 - only for tests that use it

    names = ("feed.like", "feed.post", "feed.repost", "graph.follow")
    return build_repo(
        {
            f"app.bsky.{names[n % 4]}/3k{n:011d}": {
                "$type": f"app.bsky.{names[n % 4]}",
                "text": f"record {n}",
            }
            for n in range(100)
        }
    )


@pytest.fixture
async def disk_store() -> AsyncGenerator[DiskStore]:
    """An open `DiskStore` in a temporary file, closed after the test.

    The fixture is asynchronous, and needs anyio's plugin: mark the test with `pytest.mark.anyio`.
    """
    from repo_stream import DiskBuilder  # noqa: PLC0415 - only for tests that use it

    async with DiskBuilder().open() as store:
        yield store


@pytest.fixture
def car_server() -> Iterator[CarServer]:
    """A `repo_stream.testing.CarServer`, which serves CARs on loopback until the test ends."""
    from repo_stream.testing import CarServer  # noqa: PLC0415 - only for tests that use it

    with CarServer() as server:
        yield server


@pytest.fixture
def atproto_network() -> Iterator[AtprotoNetwork]:
    """A `repo_stream.testing.AtprotoNetwork`: a directory, names and servers on loopback.

    Example::

        @pytest.mark.anyio
        async def test_notes(atproto_network):
            atproto_network.add_account("alice.example.com", {"com.example.note/1": {"n": 1}})
            async with (
                atproto_network.network() as network,
                open_repo("alice.example.com", network=network) as repo,
            ):
                assert [note async for _, note in repo] == [{"n": 1}]
    """
    from repo_stream.testing import AtprotoNetwork  # noqa: PLC0415 - only for tests that use it

    with AtprotoNetwork() as network:
        yield network
