"""`get_record`: one record of an account, with the proof that it is there, or that it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from repo_stream import (
    BadName,
    BadSignature,
    DownloadBroken,
    IncompleteRange,
    MissingBlock,
    Network,
    OtherAccountServed,
    ProcessError,
    RecordNotFound,
    RepoDeactivated,
    ServerFailed,
    TreeNode,
    get_record,
    key_depth,
    noop,
    open_car,
    open_repo,
    process,
)
from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault
from repo_stream.testing.repos import car_header, section

NOTES: dict[str, object] = {f"com.example.note/{n:03}": {"n": n} for n in range(0, 400, 2)}
NAME = "alice.example.com"
URI = f"at://{NAME}/com.example.note/100"


@pytest.fixture
def alice(atproto_network: AtprotoNetwork) -> AtprotoAccount:
    return atproto_network.add_account(NAME, NOTES)


@pytest.fixture
async def network(atproto_network: AtprotoNetwork) -> AsyncIterator[Network]:
    async with atproto_network.network(patience=0) as network:
        yield network


@pytest.mark.both_loops
async def test_every_record_and_every_absence_is_proven(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    for n in range(-1, 400, 7):
        key = f"com.example.note/{n:03}"
        output = await get_record(
            f"at://{alice.did}/{key}", network=network, block_processor=process.record
        )
        assert (output and output.value) == NOTES.get(key)
        if output is not None:
            assert (output.key, bytes(output.cid)) == (key, alice.repo.records[key])
    assert not [each for each in atproto_network.requests if "getRepo" in each.path]


async def test_record_is_decoded_unless_asked_otherwise(
    alice: AtprotoAccount, network: Network
) -> None:
    output = await get_record(URI, network=network)
    assert output is not None
    assert output.value == NOTES[output.key]
    as_it_is = await get_record(URI, network=network, block_processor=noop)
    assert as_it_is is not None
    assert as_it_is.value == alice.repo.blocks[output.cid]


async def test_failing_processor_is_named(alice: AtprotoAccount, network: Network) -> None:
    with pytest.raises(ProcessError, match=r"com\.example\.note/100"):
        await get_record(URI, network=network, block_processor=lambda data: data[1000])


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        (NAME, ValueError, "names an account, not a record"),
        (f"at://{NAME}", ValueError, "names an account, not a record"),
        (f"at://{NAME}/com.example.note", ValueError, "names a collection, not a record"),
        ("com.example.note/100", BadName, "com.example.note/100"),
        (f"at://{NAME}/com.example.note/a/b", BadName, "a slash too many"),
        (None, TypeError, "uri must be"),
    ],
    ids=["handle", "account", "collection", "key", "a slash too many", "None"],
)
async def test_what_names_no_record_is_refused(
    uri: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await get_record(uri)


async def test_record_that_the_server_says_is_not_there_is_an_error(
    alice: AtprotoAccount, network: Network
) -> None:
    """It has not proven that."""
    alice.inject("getRecord", Fault(error="RecordNotFound", status=404))
    with pytest.raises(RecordNotFound, match=f"at://{alice.did}/com.example.note/100"):
        await get_record(URI, network=network)


async def test_server_without_the_method_says_so(alice: AtprotoAccount, network: Network) -> None:
    alice.inject("getRecord", Fault(error="MethodNotImplemented", status=501))
    with pytest.raises(ServerFailed, match="501"):
        await get_record(URI, network=network)


async def test_refused_account_says_why(alice: AtprotoAccount, network: Network) -> None:
    alice.status = "deactivated"
    with pytest.raises(RepoDeactivated):
        await get_record(URI, network=network)


async def test_proof_is_checked(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    bob = atproto_network.add_account("bob.example.com", NOTES)
    key = "com.example.note/100"
    proof = alice.proof(key)
    record = alice.repo.records[key]
    root = section(alice.repo.root, alice.repo.blocks[alice.repo.root])
    cases: list[tuple[bytes, type[Exception]]] = [
        (bob.proof(key), OtherAccountServed),
        (alice.proof("com.example.note/390"), IncompleteRange),
        (proof.replace(root, b""), IncompleteRange),
        (proof.replace(section(record, alice.repo.blocks[record]), b""), MissingBlock),
    ]
    for body, error in cases:
        atproto_network.clear_faults()
        alice.inject("getRecord", Fault(body=body))
        with pytest.raises(error) as caught:
            await get_record(URI, network=network)
        assert type(caught.value) is error


async def test_proof_of_absence_need_not_go_below_the_depth_of_the_key(
    alice: AtprotoAccount, network: Network
) -> None:
    """No valid tree has the key there."""
    repo = alice.repo
    depths: dict[bytes, int] = {}
    async with open_car(alice.car()) as whole:
        while items := await whole.next_items():
            depths.update({each.cid: each.depth for each in items if isinstance(each, TreeNode)})
    lower = 0
    for key in (f"com.example.note/{n:03}" for n in range(1, 400, 8)):
        cids = [cid for cid in repo.proof(key) if depths.get(cid, 99) >= key_depth(key.encode())]
        lower += len(cids) < len(repo.proof(key))
        body = b"".join(section(cid, repo.blocks[cid]) for cid in cids)
        alice.inject("getRecord", Fault(times=2, body=car_header([repo.commit_cid]) + body))
        uri = f"at://{NAME}/{key}"
        assert await get_record(uri, network=network) is None
        async with open_repo(uri, network=network) as proof:
            assert await proof.next_chunk() is None
    assert lower > 10


async def test_proof_of_one_record_proves_nothing_about_others(
    alice: AtprotoAccount, network: Network
) -> None:
    """A node that it need not have, as its key cannot be there, may have any other key."""
    depths = {key: key_depth(key.encode()) for key in NOTES}
    top = max(depths.values())
    proven = max(NOTES, key=depths.__getitem__)
    lower = [key for key in NOTES if depths[key] < top]
    async with open_repo(f"at://{NAME}/{proven}", network=network) as repo:
        assert await repo.collections() == ["com.example.note"]
        for key in lower:
            with pytest.raises(IncompleteRange):
                await repo.get(key)
            with pytest.raises(IncompleteRange):
                await repo.prove(key)
        with pytest.raises(IncompleteRange):
            await repo.prove_range()
        with pytest.raises(MissingBlock):
            await repo.collections(whole_repo=True)
    assert len(lower) > 150


async def test_signature_is_checked(alice: AtprotoAccount, network: Network) -> None:
    alice.rotate_key(write=False)
    with pytest.raises(BadSignature):
        await get_record(URI, network=network)
    output = await get_record(URI, network=network, earlier_keys=True)
    assert output is not None


async def test_broken_proof_is_fetched_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    alice.inject("getRecord", Fault(times=2, stop_at=300))
    assert await get_record(URI, network=network) is not None
    alice.inject("getRecord", Fault(stop_at=300))
    with pytest.raises(DownloadBroken):
        await get_record(URI, network=network)
