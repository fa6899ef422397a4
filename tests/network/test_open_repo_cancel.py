"""`open_repo` cancelled at each of its awaits: no connection, no file and no thread is left."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import Network, get_record, open_repo
from repo_stream.network import opening
from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault
from support.cancelling import every_stop, in_every_way, in_two_ways, leaving_nothing
from support.stores import becomes

NOTES: dict[str, object] = {f"com.example.note/{n:03}": {"n": n} for n in range(120)}
FIRST, LAST = "com.example.note/000", "com.example.note/119"
NAME = "alice.example.com"


@pytest.fixture
def alice(atproto_network: AtprotoNetwork) -> AtprotoAccount:
    return atproto_network.add_account(NAME, NOTES)


async def records_of(network: Network | None, **options: Any) -> list[str]:
    async with open_repo(NAME, network=network, **options) as repo:
        return [key async for key, _ in repo]


@asynccontextmanager
async def network_leaving_nothing(net: AtprotoNetwork, folder: Path) -> AsyncGenerator[Network]:
    """A network of which no connection, no file and no thread is left when it has been closed."""
    async with leaving_nothing():
        async with net.network(patience=0) as network:
            yield network
        assert await becomes(lambda: net.connections == 0)
        assert names(folder) in ([], ["alice.car"])


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "stream": lambda folder: {},
    "check first": lambda folder: {"check_first": True},
    "keep, on disk": lambda folder: {"mem_limit_mb": 0, "keep": folder / "alice.car"},
}


@in_two_ways
@pytest.mark.parametrize("way", [*WAYS])
async def test_cancelled_anywhere_nothing_is_left(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, tmp_path: Path, how: str, way: str
) -> None:
    options = WAYS[way](tmp_path)
    for stop in every_stop(how, at_least=10):
        async with network_leaving_nothing(atproto_network, tmp_path) as network:
            for keys in await stop.run(partial(records_of, network, **options)):
                assert keys == [*NOTES]


@pytest.mark.long
@in_two_ways
async def test_cancelled_while_it_is_repaired_nothing_is_left(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, tmp_path: Path, how: str
) -> None:
    """The key has changed, the download breaks off, then it is torn, and then the slice is."""

    def write() -> None:
        alice.write({FIRST: {"n": len(alice.revs)}, LAST: {"n": len(alice.revs)}})

    keep = tmp_path / "alice.car"
    for stop in every_stop(how, at_least=30):
        atproto_network.clear_faults()
        alice.inject("getRepo", Fault(times=1, stop_at=1000))
        alice.inject("getRepo", Fault(times=2, skip=0, during_at=1000, during=write))
        async with network_leaving_nothing(atproto_network, tmp_path) as network:
            options: dict[str, Any] = {"check_first": True, "keep": keep, "retries": 3}
            for keys in await stop.run(partial(records_of, network, **options)):
                assert keys == [*NOTES]


@in_every_way
async def test_network_of_its_own_is_closed_wherever_it_is_cancelled(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AtprotoNetwork(plain=True) as net:
        alice = net.add_account(NAME, NOTES)
        alice.order = "stream"
        own = partial(
            Network, directory=net.directory, resolver=net.resolver, allow_private=True, patience=0
        )
        monkeypatch.setattr(opening, "Network", own)
        for stop in every_stop(how, at_least=10):
            async with leaving_nothing():
                for keys in await stop.run(partial(records_of, None)):
                    assert keys == [*NOTES]
                assert await becomes(lambda: net.connections == 0)


@in_two_ways
async def test_get_record_cancelled_anywhere_leaves_nothing(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, tmp_path: Path, how: str
) -> None:
    for stop in every_stop(how, at_least=10):
        async with network_leaving_nothing(atproto_network, tmp_path) as network:
            get = partial(get_record, f"at://{NAME}/{LAST}", network=network)
            for output in await stop.run(get):
                assert output is not None
                assert output.key == LAST


@pytest.mark.both_loops
async def test_cancellation_does_not_wait_for_a_server_that_sends_nothing(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork
) -> None:
    alice.order = "stream"
    for fault in (Fault(silent=True), Fault(stall_at=100), Fault(stall_at=2000)):
        atproto_network.clear_faults()
        alice.inject("getRepo", fault)
        with anyio.fail_after(10):
            async with atproto_network.network() as network:
                with anyio.move_on_after(0.2) as scope:
                    await records_of(network)
        assert scope.cancelled_caught
        assert await becomes(lambda: atproto_network.connections == 0)


@pytest.mark.both_loops
async def test_leaving_the_block_releases_the_connection(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork
) -> None:
    alice.order = "stream"
    alice.inject("getRepo", Fault(stall_at=2000))
    with anyio.fail_after(10):
        async with (
            atproto_network.network() as network,
            open_repo(NAME, network=network) as repo,
        ):
            async for _ in repo:
                break
    assert await becomes(lambda: atproto_network.connections == 0)


@pytest.mark.both_loops
async def test_call_that_is_cancelled_loses_no_records(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, tmp_path: Path
) -> None:
    """But the download is over, as those of httpx are."""
    alice.order = "stream"
    alice.inject("getRepo", Fault(stall_at=2000))
    found: list[str] = []
    async with (
        atproto_network.network() as network,
        open_repo(NAME, network=network) as repo,
    ):
        with anyio.CancelScope() as scope:
            async for key, _ in repo:  # the first one is there
                found.append(key)
                scope.deadline = anyio.current_time() + 0.1
        with pytest.raises(Exception, match="was cancelled"):
            await repo.next_chunk()
    assert found == [*NOTES][: len(found)]
    assert found
