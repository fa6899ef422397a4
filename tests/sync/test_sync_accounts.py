"""Accounts without `async`: by a `Network` that several threads can use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import repo_stream
from repo_stream import BadSignature, HandleNotFound, sync
from repo_stream.loop_thread import Block, loop_thread
from repo_stream.testing import AtprotoNetwork

NOTES = {f"com.example.note/{n:03}": {"n": n} for n in range(50)}
NAME = "alice.example.com"


@pytest.fixture
def network(atproto_network: AtprotoNetwork) -> Iterator[sync.Network]:
    atproto_network.add_account(NAME, NOTES)
    client = atproto_network.client()
    with (
        loop_thread() as loop,
        Block(loop, client),
        sync.Network(
            client,
            resolver=atproto_network.resolver,
            directory=atproto_network.directory,
            patience=0,
        ) as network,
    ):
        yield network


def test_an_account_is_resolved_downloaded_and_kept(network: sync.Network, tmp_path: Path) -> None:
    account = network.resolve(NAME)
    assert account.handle == NAME
    kept = tmp_path / "alice.car"
    with sync.open_repo(NAME, network=network, keep=kept) as repo:
        assert (repo.account.did, repo.signed_by) == (account.did, account.signing_key)
        assert [key for key, _ in repo] == sorted(NOTES)
    assert sync.load_commit(kept).did == account.did


def test_one_record_is_fetched_with_its_proof(network: sync.Network) -> None:
    found = sync.get_record(f"at://{NAME}/com.example.note/007", network=network)
    assert found is not None
    assert found.value["n"] == 7
    assert sync.get_record(f"at://{NAME}/com.example.note/none", network=network) is None


def test_errors_of_the_network_come_out(
    network: sync.Network, atproto_network: AtprotoNetwork
) -> None:
    with pytest.raises(HandleNotFound):
        network.resolve("nobody.example.com")
    with pytest.raises(HandleNotFound), sync.open_repo("nobody.example.com", network=network):
        pass
    bob = atproto_network.add_account("bob.example.com", NOTES)
    bob.rotate_key(write=False)
    with pytest.raises(BadSignature), sync.open_repo("bob.example.com", network=network):
        pass


def test_several_threads_use_one_network(network: sync.Network) -> None:
    found: list[int] = []

    def read() -> None:
        with sync.open_repo(NAME, network=network) as repo:
            found.append(sum(1 for _ in repo))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [len(NOTES)] * 3


def test_a_network_of_the_async_face_is_refused() -> None:
    network: Any = repo_stream.Network()
    with pytest.raises(TypeError, match=r"a repo_stream\.sync\.Network"):
        sync.open_repo(NAME, network=network)


def test_a_network_is_not_used_after_it_has_been_closed() -> None:
    network = sync.Network()
    network.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        network.resolve(NAME)
