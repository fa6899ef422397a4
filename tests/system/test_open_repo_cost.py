"""What `open_repo` costs beside the same download by hand: finding the account and checking it all.

Measured by the time that the thread of the client takes, since the server is in the same process.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import httpx
import pytest

from repo_stream import AccountRepo, Network, Repo, noop, open_car, open_repo
from repo_stream.testing import AtprotoAccount, AtprotoNetwork

pytestmark = [pytest.mark.alone, pytest.mark.long]

RECORDS = 20_000


async def count(repo: Repo[bytes] | AccountRepo[bytes]) -> None:
    number = 0
    async for _ in repo:
        number += 1
    assert number == RECORDS


async def by_name(net: AtprotoNetwork, alice: AtprotoAccount) -> None:
    own = Network(directory=net.directory, allow_private=True)
    async with own as network, open_repo(alice.did, block_processor=noop, network=network) as repo:
        await count(repo)


async def by_hand(net: AtprotoNetwork, alice: AtprotoAccount) -> None:
    url = f"{alice.server.url}/xrpc/com.atproto.sync.getRepo"
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{net.directory}/{alice.did}")).json()["id"] == alice.did
        async with (
            client.stream("GET", url, params={"did": alice.did}) as response,
            open_car(response.aiter_bytes(), block_processor=noop) as repo,
        ):
            repo.commit.verify_signature(alice.key.did_key)
            await count(repo)


def seconds(work: Callable[[], Awaitable[None]]) -> float:
    begun = time.thread_time()
    anyio.run(work)
    return time.thread_time() - begun


def test_open_repo_costs_little_more_than_a_download_by_hand() -> None:
    """At most 1.1 of it, and there is room for what machines do."""
    records: dict[str, object] = {
        f"com.example.note/{n:06}": {"n": n, "text": "some words " * 20} for n in range(RECORDS)
    }
    with AtprotoNetwork(plain=True) as net:
        alice = net.add_account(None, records)
        ways = [partial(way, net, alice) for way in (by_name, by_hand)]
        taken = [[seconds(way) for way in ways] for _ in range(6)][1:]  # the first one imports
        named, manual = (min(each) for each in zip(*taken, strict=True))
        assert named < 1.25 * manual, f"{named:.3f} s, {manual:.3f} s by hand"
