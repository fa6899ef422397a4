"""`open_repo`: from a name to verified records, and what it says if that does not work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from repo_stream import (
    AccountRepo,
    BadName,
    BadSignature,
    Cid,
    DidTombstoned,
    DiskStore,
    DownloadBroken,
    Gap,
    HandleNotFound,
    LimitExceeded,
    Limits,
    MissingBlock,
    Network,
    NothingNew,
    OtherAccountServed,
    Output,
    ProcessError,
    Repo,
    RepoDeactivated,
    RepoNotFound,
    RepoSuspended,
    RepoTakendown,
    ServerFailed,
    ServerUnreachable,
    TornExport,
    TreeNode,
    open_car,
    open_repo,
    process,
)
from repo_stream.network import opening
from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault, Order
from repo_stream.testing.repos import (
    car_header,
    cid_of,
    commit,
    encode,
    key_height,
    node,
    section,
)

NOTES: dict[str, object] = {
    f"com.example.note/{n:04}": {"n": n, "text": "x" * 50} for n in range(600)
}
LIKES: dict[str, object] = {f"com.example.like/{n:04}": {"n": n} for n in range(50)}
RECORDS = {**LIKES, **NOTES}
FIRST = "com.example.like/0000"
LAST = "com.example.note/0599"
NAME = "alice.example.com"


@pytest.fixture
def alice(atproto_network: AtprotoNetwork) -> AtprotoAccount:
    return atproto_network.add_account(NAME, RECORDS)


@pytest.fixture
async def network(atproto_network: AtprotoNetwork) -> AsyncIterator[Network]:
    async with atproto_network.network(patience=0) as network:
        yield network


async def decoded(who: str, network: Network, **options: Any) -> dict[str, Any]:
    opened: AbstractAsyncContextManager[AccountRepo[Any]] = open_repo(
        who, network=network, block_processor=process.record, **options
    )
    async with opened as repo:
        return {key: value async for key, value in repo}


async def gather(repo: AccountRepo, keys: list[str]) -> None:
    async for key, _ in repo:
        keys.append(key)


def asked(net: AtprotoNetwork, end: str) -> int:
    """How many requests there were whose path ends so."""
    return sum(request.path.endswith(end) for request in net.requests)


# --- From a name to records -----------------------------------------------------------------------


@pytest.mark.both_loops
async def test_each_name_of_an_account_leads_to_its_records(
    alice: AtprotoAccount, network: Network
) -> None:
    for who in (NAME, "@Alice.Example.com", alice.did, f"at://{NAME}", f"at://{alice.did}/"):
        assert await decoded(who, network) == RECORDS


async def test_did_web_leads_to_its_records(
    atproto_network: AtprotoNetwork, network: Network
) -> None:
    atproto_network.add_account(None, LIKES, did="did:web:bob.example.com", curve="p256")
    assert await decoded("did:web:bob.example.com", network) == LIKES


async def test_repo_knows_its_account_and_its_key(alice: AtprotoAccount, network: Network) -> None:
    async with open_repo(NAME, network=network) as repo:
        assert repo.account == await network.resolve(NAME)
        assert (repo.account.did, repo.account.handle) == (alice.did, NAME)
        assert repo.signed_by == repo.account.signing_key == alice.key.did_key
        assert (repo.commit.did, repo.commit.rev) == (alice.did, alice.rev)
        assert repr(repo) == f"<AccountRepo {NAME} at {alice.rev}, in memory>"
        assert isinstance(repo, AccountRepo)


async def test_account_without_handle_is_shown_by_its_did(
    atproto_network: AtprotoNetwork, network: Network
) -> None:
    bob = atproto_network.add_account(None, LIKES)
    async with open_repo(bob.did, network=network) as repo:
        assert repr(repo).startswith(f"<AccountRepo {bob.did} at ")


async def test_network_of_its_own_is_closed(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Network] = []

    def make() -> Network:
        made.append(atproto_network.network())
        return made[-1]

    monkeypatch.setattr(opening, "Network", make)
    async with open_repo(NAME) as repo:
        assert len([each async for each in repo]) == len(RECORDS)
    with pytest.raises(RuntimeError, match="closed"):
        await made[0].resolve(NAME, fresh=True)


async def test_network_of_the_caller_serves_many(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    for _ in range(3):
        assert await decoded(NAME, network) == RECORDS
    assert asked(atproto_network, alice.did) == 1  # one document


# --- What is walked -------------------------------------------------------------------------------


async def test_uri_of_a_collection_narrows_the_walk(
    alice: AtprotoAccount, network: Network
) -> None:
    assert await decoded(f"at://{NAME}/com.example.like", network) == LIKES


async def test_uri_of_a_record_fetches_that_alone(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    for key in (FIRST, "com.example.note/0300", LAST):
        assert await decoded(f"at://{NAME}/{key}", network) == {key: RECORDS[key]}
    assert await decoded(f"at://{NAME}/com.example.note/none", network) == {}
    assert asked(atproto_network, "sync.getRepo") == 0
    assert asked(atproto_network, "sync.getRecord") == 4


@pytest.mark.parametrize(
    "narrowing",
    [
        {"collections": ["com.example.like"]},
        {"key_range": ("com.example.like/0001", None)},
        {"prefix": "com.example.like/"},
    ],
    ids=lambda narrowing: next(iter(narrowing)),
)
async def test_uri_and_keyword_cannot_both_say_what_to_walk(narrowing: dict[str, Any]) -> None:
    (name,) = narrowing
    with pytest.raises(ValueError, match=f"and {name} say what to walk; leave {name} out"):
        open_repo(f"at://{NAME}/com.example.like", **narrowing)
    with pytest.raises(ValueError, match=f"pass the account alone, '{NAME}'"):
        open_repo(f"at://{NAME}/com.example.like/0001", **narrowing)


async def test_keywords_of_open_car_hold(alice: AtprotoAccount, network: Network) -> None:
    def fails(data: bytes) -> int:
        if len(data) < 20:
            raise KeyError("text")
        return len(data)

    assert await decoded(NAME, network, collections=["com.example.like"]) == LIKES
    assert len(await decoded(NAME, network, key_range=("com.example.note/0590", None))) == 10
    assert await decoded(NAME, network, prefix="com.example.l") == LIKES
    options: dict[str, Any] = {"network": network, "block_processor": fails}
    async with open_repo(NAME, **options, on_error="skip") as repo:
        assert [key async for key, _ in repo] == [*NOTES]
        assert [each.key for each in repo.problems] == [*LIKES]
    async with open_repo(NAME, **options, on_error="yield") as repo:
        values = [value async for _, value in repo]
        assert [isinstance(each, ProcessError) for each in values] == [True] * 50 + [False] * 600
    async with open_repo(NAME, **options) as repo:  # a fault of a record is not one of a download
        with pytest.raises(ProcessError, match="'text'"):
            await repo.next_chunk()
    with pytest.raises(LimitExceeded):
        await decoded(NAME, network, limits=Limits(block_bytes=100))


async def test_repo_that_does_not_fit_in_memory_goes_to_disk(
    alice: AtprotoAccount, network: Network, disk_store: DiskStore
) -> None:
    for spill in (None, disk_store):
        async with open_repo(NAME, network=network, mem_limit_mb=0, spill=spill) as repo:
            assert [key async for key, _ in repo] == [*RECORDS]
            assert repo.spilled


async def test_every_call_begins_with_the_first_record(
    alice: AtprotoAccount, network: Network
) -> None:
    """Though the first records have been taken before the block begins."""

    async def calls(repo: AccountRepo | Repo, seek: str | None) -> list[object]:
        if seek is not None:
            await repo.seek(seek)
        # After a seek, there may be more nodes.
        items = await repo.next_items(5) if not seek or seek == FIRST else None
        return [
            items,
            await repo.next_keys(3),
            await repo.next_chunk(2),
            await repo.next_outputs(1),
            await repo.get(FIRST),
            await repo.collections(),
            await anext(aiter(repo)),
        ]

    orders: list[Order] = ["export", "stream"]
    for alice.order in orders:
        for seek in (None, "", FIRST, "com.example.like/0003", "com.example.like/0040", LAST[:-3]):
            async with (
                open_repo(NAME, network=network) as repo,
                open_car(alice.car()) as expected,
            ):
                assert await calls(repo, seek) == await calls(expected, seek)


async def test_seek_after_records_goes_on_from_there(
    alice: AtprotoAccount, network: Network
) -> None:
    orders: list[Order] = ["export", "stream"]
    for alice.order in orders:
        async with open_repo(NAME, network=network) as repo:
            await repo.seek("com.example.like/0005")
            assert await repo.next_keys(1) == [await key_of(repo, "com.example.like/0005")]
            for key in ("com.example.note/0300", "com.example.note/0100", FIRST, LAST):
                await repo.seek(key)
                assert await repo.next_keys(1) == [await key_of(repo, key)]


async def key_of(repo: AccountRepo, key: str) -> tuple[str, Cid]:
    output = await repo.get(key)
    assert output is not None
    return key, output.cid


async def test_first_record_is_not_skipped_by_a_second_seek(
    alice: AtprotoAccount, network: Network
) -> None:
    async with open_repo(NAME, network=network) as repo:
        for key in ("com.example.like/0005", FIRST, "com.example.note/0300", ""):
            await repo.seek(key)
        assert [key async for key, _ in repo] == [*RECORDS]


async def test_seek_back_after_records_begins_anew_however_many_wait(
    atproto_network: AtprotoNetwork, network: Network
) -> None:
    few = dict([*NOTES.items()][:80])
    bob = atproto_network.add_account(None, few)
    for read in range(40, len(few)):
        async with open_repo(bob.did, network=network) as repo:
            loop = aiter(repo)
            for _ in range(read):
                await anext(loop)
            await repo.next_items(1)
            await repo.seek("")
            assert [key async for key, _ in repo] == [*few]


async def test_nodes_come_with_the_first_record(alice: AtprotoAccount, network: Network) -> None:
    async with open_repo(NAME, network=network) as repo:
        items: list[Any] = []
        while part := await repo.next_items(100):
            items += part
    assert [item.cid for item in items if isinstance(item, TreeNode)] == [*alice.repo.nodes]
    assert [item.key for item in items if isinstance(item, Output)] == [*RECORDS]


async def test_seek_back_to_the_first_record_reads_nothing_more(
    alice: AtprotoAccount, network: Network
) -> None:
    alice.order = "stream"
    async with open_repo(NAME, network=network) as repo:
        await repo.seek("")
        assert not repo.fully_read
        assert [key async for key, _ in repo] == [*RECORDS]


async def test_empty_repo_has_no_records(atproto_network: AtprotoNetwork, network: Network) -> None:
    atproto_network.add_account("empty.example.com")
    for first in (False, True):
        assert await decoded("empty.example.com", network, check_first=first) == {}


# --- Whose it is ----------------------------------------------------------------------------------


async def test_repo_of_another_account_is_refused(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    bob = atproto_network.add_account("bob.example.com", LIKES)
    alice.inject("getRepo", Fault(body=bob.car()))
    with pytest.raises(OtherAccountServed, match=bob.did) as caught:
        await decoded(NAME, network)
    assert (caught.value.expected, caught.value.server) == (alice.did, alice.server.url)
    assert asked(atproto_network, "sync.getRepo") == 1


async def test_commit_of_another_key_is_refused_after_a_second_look(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    bob = atproto_network.add_account("bob.example.com")
    alice.signs_with = bob.key
    alice.write({})
    with pytest.raises(BadSignature, match="use earlier_keys=True") as caught:
        await decoded(NAME, network)
    assert caught.value.did_key == alice.key.did_key
    assert asked(atproto_network, alice.did) == 2
    assert asked(atproto_network, "sync.getRepo") == 1
    with pytest.raises(BadSignature, match="none of the keys that the account has had"):
        await decoded(NAME, network, earlier_keys=True)


async def test_key_that_was_changed_meanwhile_is_looked_up_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    await network.resolve(NAME)
    new = alice.rotate_key("p256")
    async with open_repo(NAME, network=network) as repo:
        assert repo.signed_by == repo.account.signing_key == new.did_key
        assert [key async for key, _ in repo] == [*RECORDS]
    assert asked(atproto_network, "sync.getRepo") == 2


async def test_account_is_looked_up_again_by_the_only_connection_of_a_client() -> None:
    limits = httpx.Limits(max_connections=1)
    with AtprotoNetwork(plain=True) as net:
        alice = net.add_account(None, NOTES)
        alice.order = "stream"
        async with (
            httpx.AsyncClient(limits=limits, trust_env=False) as client,
            net.network(client=client) as network,
        ):
            await network.resolve(alice.did)
            alice.rotate_key()
            with anyio.fail_after(10):
                assert await decoded(alice.did, network) == NOTES


async def test_earlier_key_is_accepted_if_asked_for(
    alice: AtprotoAccount, network: Network
) -> None:
    old = alice.key
    for _ in range(2):
        alice.rotate_key(write=False)
    with pytest.raises(BadSignature):
        await decoded(NAME, network)
    async with open_repo(NAME, network=network, earlier_keys=True) as repo:
        assert repo.signed_by == old.did_key
        assert repo.account.signing_key == alice.key.did_key
        assert len([each async for each in repo]) == len(RECORDS)


async def test_did_web_has_no_earlier_keys(
    atproto_network: AtprotoNetwork, network: Network
) -> None:
    did = "did:web:bob.example.com"
    bob = atproto_network.add_account(None, LIKES, did=did)
    bob.rotate_key(write=False)
    with pytest.raises(BadSignature):
        await decoded(did, network, earlier_keys=True)


@pytest.mark.parametrize("rotate", [False, True], ids=["same key", "new key"])
async def test_account_that_moved_meanwhile_is_looked_up_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, rotate: bool
) -> None:
    await network.resolve(NAME)
    old = alice.key
    alice.move_to(atproto_network.add_server("new.example.com"), rotate=rotate)
    async with open_repo(NAME, network=network, earlier_keys=True, retries=0) as repo:
        assert repo.account.pds == "https://new.example.com"
        assert repo.signed_by == old.did_key
        assert [key async for key, _ in repo] == [*RECORDS]


async def test_account_whose_server_is_gone_is_looked_up_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    await network.resolve(NAME)
    alice.server.close()
    with pytest.raises(ServerUnreachable):
        await decoded(NAME, network)
    alice.move_to(atproto_network.add_server("new.example.com"), rotate=False)
    assert await decoded(NAME, network, keep=None) == RECORDS


@pytest.mark.parametrize("status", [404, 502])
async def test_account_whose_server_was_dismantled_is_looked_up_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, status: int
) -> None:
    """What is there instead answers, but not as a server of repos."""
    await network.resolve(NAME)
    alice.inject("getRepo", Fault(times=2, status=status, body=b"<html>"))
    with pytest.raises(ServerFailed):
        await decoded(NAME, network)
    alice.move_to(atproto_network.add_server("new.example.com"), rotate=False)
    assert await decoded(NAME, network) == RECORDS


async def test_server_that_an_account_has_left_is_left_if_it_signs_otherwise(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    """It goes on sending the repo, by a key that is not the account's any more."""
    await network.resolve(NAME)
    before = alice.server
    alice.move_to(atproto_network.add_server("new.example.com"))
    alice.write({"com.example.new/1": {}})
    alice.hosting[before] = "active"
    async with open_repo(NAME, network=network, retries=0) as repo:
        assert repo.account.pds == "https://new.example.com"
        assert len([each async for each in repo]) == len(RECORDS) + 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("takendown", RepoTakendown),
        ("suspended", RepoSuspended),
        ("deactivated", RepoDeactivated),
        ("deleted", RepoNotFound),
    ],
)
async def test_account_that_is_refused_says_why(
    alice: AtprotoAccount, network: Network, status: Any, error: type[Exception]
) -> None:
    alice.status = status
    with pytest.raises(error, match=alice.did):
        await decoded(NAME, network)


async def test_error_of_the_server_stays_if_the_account_cannot_be_looked_up_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    """The server may be what answers for the handle, too."""
    await network.resolve(NAME)
    alice.status = "takendown"
    for status in (429, 503):
        alice.inject("document", Fault(status=status, times=1))
        with pytest.raises(RepoTakendown):
            await decoded(alice.did, network)
    atproto_network.resolver.records.clear()
    with pytest.raises(RepoTakendown):
        await decoded(NAME, network)


async def test_account_that_was_deleted_meanwhile_is_found_out(
    alice: AtprotoAccount, network: Network
) -> None:
    await network.resolve(NAME)
    alice.tombstone()
    with pytest.raises(DidTombstoned):
        await decoded(NAME, network)


async def test_unknown_handle_says_so(atproto_network: AtprotoNetwork, network: Network) -> None:
    with pytest.raises(HandleNotFound):
        await decoded("nobody.example.com", network)


# --- Arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"who": "alice"}, BadName, "it is one word"),
        ({"who": "at://alice.example.com/posts"}, BadName, "'posts' is not an NSID"),
        ({"who": b"alice.example.com"}, TypeError, "who must be a handle"),
        ({"network": "https://plc.directory"}, TypeError, "network must be a Network"),
        ({"since": "yesterday"}, ValueError, "since must be a rev"),
        ({"since": 3}, TypeError, "since must be a rev"),
        (
            {"who": f"at://{NAME}/a.b.c/1", "since": "3khuwc52sm222"},
            ValueError,
            "since is for repos",
        ),
        ({"earlier_keys": 1}, TypeError, "earlier_keys"),
        ({"retries": -1}, ValueError, "retries"),
        ({"retries": "2"}, TypeError, "retries"),
        ({"keep": 3}, TypeError, "keep must be a path"),
        ({"collections": "a.b.c"}, TypeError, "collections"),
        ({"proxy": None}, TypeError, "unexpected keyword argument 'proxy'"),
    ],
    ids=[
        "one word",
        "no NSID",
        "bytes",
        "network",
        "since, no rev",
        "since, no text",
        "since of a record",
        "earlier_keys",
        "retries, negative",
        "retries, no number",
        "keep",
        "collections",
        "unknown",
    ],
)
def test_wrong_argument_is_refused_at_once(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {"who": NAME, **options}
    with pytest.raises(error, match=message):
        open_repo(**given)


# --- A download that breaks off -------------------------------------------------------------------

HOW: dict[str, Callable[[int], dict[str, Any]]] = {
    "closed": lambda at: {"stop_at": at},
    "reset": lambda at: {"reset_at": at},
    "closed with length": lambda at: {"stop_at": at, "with_length": True},
    "closed gzip": lambda at: {"stop_at": at // 3, "encoding": "gzip"},
}


@pytest.mark.both_loops
@pytest.mark.parametrize("how", [*HOW])
async def test_download_that_breaks_off_before_the_first_record_begins_anew(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, how: str
) -> None:
    alice.order = "stream"
    for at in (0, 50, 200, alice.first_record_at() - 1):
        atproto_network.clear_faults()
        atproto_network.requests.clear()
        alice.inject("getRepo", Fault(times=2, **HOW[how](at)))
        assert await decoded(NAME, network) == RECORDS
        assert asked(atproto_network, "sync.getRepo") == 3


@pytest.mark.parametrize("cut", [0, 20, 59, 97, 500])
async def test_download_that_is_cut_off_without_a_word_begins_anew(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, cut: int
) -> None:
    alice.inject("getRepo", Fault(times=2, body=alice.car()[:cut]))
    assert await decoded(NAME, network) == RECORDS
    assert asked(atproto_network, "sync.getRepo") == 3


@pytest.mark.parametrize("cut", [0, 20, 59, 97])  # at 59, the header is complete
async def test_download_that_always_ends_too_soon_is_broken(
    alice: AtprotoAccount, network: Network, cut: int
) -> None:
    alice.inject("getRepo", Fault(body=alice.car()[:cut]))
    with pytest.raises(DownloadBroken, match="before the commit") as caught:
        await decoded(NAME, network)
    assert (caught.value.received, caught.value.records) == (cut, 0)


async def test_download_that_breaks_off_again_and_again_is_given_up(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    alice.inject("getRepo", Fault(stop_at=100))
    with pytest.raises(DownloadBroken, match=r"after 100 bytes: .*; try again later") as caught:
        await decoded(NAME, network)
    assert (caught.value.received, caught.value.records) == (100, 0)
    assert asked(atproto_network, "sync.getRepo") == 3
    with pytest.raises(DownloadBroken):
        await decoded(NAME, network, retries=0)
    assert asked(atproto_network, "sync.getRepo") == 4


@pytest.mark.both_loops
@pytest.mark.parametrize("how", [*HOW])
async def test_download_that_breaks_off_later_says_how_many_records_came(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, how: str
) -> None:
    alice.order = "stream"
    alice.inject("getRepo", Fault(**HOW[how](len(alice.car()) // 2)))
    found: list[str] = []
    async with open_repo(NAME, network=network) as repo:
        with pytest.raises(DownloadBroken, match=r"check_first=True") as caught:
            await gather(repo, found)
        assert found == [*RECORDS][: len(found)]
        assert caught.value.records == len(found) > 0
        with pytest.raises(DownloadBroken) as again:
            await repo.next_chunk()
        assert again.value is caught.value
    assert asked(atproto_network, "sync.getRepo") == 1


async def test_download_that_is_cut_off_later_says_so_as_well(
    alice: AtprotoAccount, network: Network
) -> None:
    async def loop(repo: AccountRepo) -> None:
        await gather(repo, [])

    async def get(repo: AccountRepo) -> None:
        await repo.get(FIRST)

    async def keys(repo: AccountRepo) -> None:
        while await repo.next_keys(10):
            pass

    alice.order = "stream"
    alice.inject("getRepo", Fault(body=alice.car()[:-30]))
    for walk in (loop, keys, get):
        async with open_repo(NAME, network=network) as repo:
            with pytest.raises(DownloadBroken, match="in the middle of a block") as caught:
                await walk(repo)
        if walk is loop:
            assert caught.value.records == len(RECORDS) - 1


@pytest.mark.parametrize("how", [*HOW])
async def test_download_that_is_checked_first_begins_anew_wherever_it_breaks_off(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, how: str
) -> None:
    alice.order = "stream"
    alice.inject("getRepo", Fault(times=2, **HOW[how](len(alice.car()) * 3 // 4)))
    assert await decoded(NAME, network, check_first=True) == RECORDS
    assert asked(atproto_network, "sync.getRepo") == 3


# --- A torn export --------------------------------------------------------------------------------


def tear(alice: AtprotoAccount, *, times: int = 1, at: int = 4000) -> None:
    """Have the account write while its repo is sent, so that blocks are missing."""

    def write() -> None:
        n = len(alice.revs)
        alice.write({LAST: {"changed": n}, FIRST: {"changed": n}, f"com.example.note/{n:04}": None})

    alice.inject("getRepo", Fault(times=times, during_at=at, during=write))


async def test_torn_export_is_completed_if_it_is_checked_first(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    tear(alice)
    async with open_repo(
        NAME, network=network, check_first=True, block_processor=process.record
    ) as repo:
        assert {key: value async for key, value in repo} == alice.records != RECORDS
        assert repo.commit.rev == alice.rev == alice.revs[1]
        assert repo.signed_by == alice.key.did_key
    queries = [each.query for each in atproto_network.requests if "getRepo" in each.path]
    assert [each.get("since") for each in queries] == [None, alice.revs[0]]


async def test_torn_slice_is_completed_by_the_next_one(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    tear(alice, times=2, at=1500)
    assert await decoded(NAME, network, check_first=True) == alice.records
    assert asked(atproto_network, "sync.getRepo") == 3
    assert len(alice.revs) == 3


async def test_torn_export_is_given_up_after_so_many_retries(
    alice: AtprotoAccount, network: Network
) -> None:
    tear(alice, times=5, at=1500)
    for retries in (0, 1):
        with pytest.raises(TornExport, match=r"written to during .*; try again later") as caught:
            await decoded(NAME, network, check_first=True, retries=retries)
        assert (caught.value.did, caught.value.records) == (alice.did, 0)
        assert isinstance(caught.value, MissingBlock)


async def test_torn_export_says_so_when_its_walk_gets_there(
    alice: AtprotoAccount, network: Network
) -> None:
    alice.order = "stream"
    tear(alice, at=20_000)
    async with open_repo(NAME, network=network) as repo:
        found: list[str] = []
        with pytest.raises(TornExport, match=r"check_first=True.*keep=PATH") as caught:
            await gather(repo, found)
        assert found == [*RECORDS][: len(found)]
        assert caught.value.records == len(found)
        assert len(found) > 100


async def test_torn_export_says_so_if_a_proof_needs_what_it_lacks(
    alice: AtprotoAccount, network: Network
) -> None:
    *_, lost, _record = alice.repo.proof(LAST)
    torn = alice.car().replace(section(lost, alice.repo.blocks[lost]), b"")
    alice.inject("getRepo", Fault(body=torn))
    asks: list[Callable[[AccountRepo], Awaitable[object]]] = [
        lambda repo: repo.get(LAST),
        lambda repo: repo.prove(LAST),
        lambda repo: repo.prove_range("com.example.note/"),
    ]
    async with open_repo(NAME, network=network, collections=["com.example.like"]) as repo:
        for ask in asks:
            with pytest.raises(TornExport, match=r"check_first=True") as caught:
                await ask(repo)
            assert (caught.value.cid, caught.value.rev) == (lost, alice.rev)
        assert await repo.get(FIRST)


async def test_export_that_is_torn_before_the_first_record_is_repaired(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    tear(alice, at=200)
    assert await decoded(NAME, network) == alice.records
    tear(alice, at=200, times=2)
    assert await decoded(NAME, network) == alice.records
    queries = [each.query for each in atproto_network.requests if "getRepo" in each.path]
    since = [each.get("since") for each in queries]
    assert since == [None, None, None, None, alice.revs[2]]


async def test_export_that_lacks_a_block_though_nothing_has_changed_begins_anew(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    lost = section(alice.repo.records[LAST], alice.repo.blocks[alice.repo.records[LAST]])
    alice.inject("getRepo", Fault(times=1, body=alice.car().replace(lost, b"")))
    assert await decoded(NAME, network, check_first=True) == RECORDS
    queries = [each.query for each in atproto_network.requests if "getRepo" in each.path]
    assert [each.get("since") for each in queries] == [None, alice.rev, None]


@pytest.mark.parametrize("kind", ["temporary", "path", "store", "keep"])
async def test_torn_export_is_completed_wherever_its_blocks_go(
    alice: AtprotoAccount, network: Network, disk_store: DiskStore, tmp_path: Path, kind: str
) -> None:
    tear(alice, times=2, at=1500)
    spill = {"path": tmp_path / "spill.db", "store": disk_store}.get(kind)
    options: dict[str, Any] = {"keep": tmp_path / "alice.car"} if kind == "keep" else {}
    found = await decoded(NAME, network, check_first=True, mem_limit_mb=0, spill=spill, **options)
    assert found == alice.records


async def test_limits_hold_for_what_completes_an_export(
    alice: AtprotoAccount, network: Network
) -> None:
    copy = section(alice.repo.records[LAST], alice.repo.blocks[alice.repo.records[LAST]])
    tear(alice)
    alice.inject("getRepo", Fault(skip=1, body=alice.car() + 1000 * copy))
    with pytest.raises(LimitExceeded, match="car_bytes"):
        await decoded(NAME, network, check_first=True, limits=Limits(car_bytes=150_000))


async def test_slice_that_is_cut_off_is_fetched_again(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    tear(alice)
    alice.inject("getRepo", Fault(skip=1, times=1, stop_at=300))
    assert await decoded(NAME, network, check_first=True) == alice.records
    assert asked(atproto_network, "sync.getRepo") == 3


async def test_export_that_is_torn_and_kept_is_completed_before_the_first_record(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, tmp_path: Path
) -> None:
    tear(alice, at=200)
    assert await decoded(NAME, network, keep=tmp_path / "alice.car") == alice.records
    queries = [each.query for each in atproto_network.requests if "getRepo" in each.path]
    assert [each.get("since") for each in queries] == [None, alice.revs[0]]
    async with open_car(tmp_path / "alice.car", block_processor=process.record) as repo:
        assert {key: value async for key, value in repo} == alice.records


async def test_with_gaps_a_torn_export_is_walked_as_it_is(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    tear(alice)
    async with open_repo(NAME, network=network, gaps=True, check_first=True) as repo:
        values = [value async for _, value in repo]
    assert any(isinstance(value, Gap) for value in values)
    assert asked(atproto_network, "sync.getRepo") == 1


async def test_node_that_breaks_a_rule_is_left_to_the_walk(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    async with open_repo(
        NAME, network=network, check_first=True, limits=Limits(key_bytes=10)
    ) as repo:
        with pytest.raises(LimitExceeded, match="key_bytes"):
            await repo.next_chunk()
    assert asked(atproto_network, "sync.getRepo") == 1


async def test_node_that_is_none_but_was_processed_is_left_to_the_walk(
    atproto_network: AtprotoNetwork, network: Network
) -> None:
    """That its result cannot be stored is noticed before that it is no node."""
    no_node, record = encode({"n": 1}), encode({"n": 2})
    key = next(key.encode() for key in NOTES if key_height(key.encode()) == 1)
    root = node(cid_of(no_node), [(0, key, cid_of(record), None)])
    mallory = atproto_network.add_account("mallory.example.com")
    head = commit(cid_of(root), did=mallory.did, rev=mallory.rev, sign=mallory.key.sign)
    filler = [encode({"n": n, "text": 2000 * "x"}) for n in range(100)]
    blocks = [section(cid_of(each), each) for each in (head, root, no_node, record, *filler)]
    mallory.inject("getRepo", Fault(body=b"".join([car_header([cid_of(head)]), *blocks])))

    def unstorable(_: bytes) -> object:
        return lambda: None

    spilling: Any = {"mem_limit_mb": 0.01, "block_processor": unstorable}
    async with open_repo(mallory.did, network=network, check_first=True, **spilling) as repo:
        with pytest.raises(ProcessError) as caught:
            await repo.next_chunk()
        assert caught.value.key is None
        assert caught.value.cid == cid_of(no_node)


async def test_damage_is_no_tear(alice: AtprotoAccount, network: Network) -> None:
    """Missing records that are skipped, and failing ones, do not hinder a check."""

    def fails(data: bytes) -> int:
        raise KeyError("text")

    async with open_repo(
        NAME, network=network, check_first=True, block_processor=fails, on_error="skip"
    ) as repo:
        assert [each async for each in repo] == []
        assert repo.problem_count == len(RECORDS)


# --- Since ----------------------------------------------------------------------------------------


async def test_slice_has_what_is_new_and_gaps(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    before = alice.rev
    alice.write({"com.example.note/0300": {"new": 1}})
    async with open_repo(
        NAME, network=network, since=before, block_processor=process.record
    ) as repo:
        assert repo.commit.rev == alice.rev
        found = {key: value async for key, value in repo if not isinstance(value, Gap)}
    assert found == {"com.example.note/0300": {"new": 1}}
    for options in ({"gaps": True}, {"gaps": "all"}, {"check_first": True}):
        assert "com.example.note/0300" in await decoded(NAME, network, since=before, **options)


async def test_seek_in_a_slice_goes_past_its_gaps(alice: AtprotoAccount, network: Network) -> None:
    before = alice.rev
    alice.write({"com.example.note/0300": {"new": 1}})
    async with open_repo(NAME, network=network, since=before) as repo:
        await repo.seek("com.example.note/0300")
        assert [key for key, _ in await repo.next_chunk(1) or []] == ["com.example.note/0300"]
        await repo.seek("")
        assert len([each async for each in repo]) > 1


async def test_slice_with_nothing_new_says_so(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network
) -> None:
    with pytest.raises(NothingNew):
        await decoded(NAME, network, since=alice.rev)
    assert asked(atproto_network, "sync.getRepo") == 1


async def test_slice_that_is_damaged_is_an_error_and_no_gap(
    alice: AtprotoAccount, network: Network
) -> None:
    before = alice.rev
    alice.write({"com.example.note/0300": {"new": 1}})
    alice.inject("getRepo", Fault(body=alice.car(before)[:-10]))
    with pytest.raises(DownloadBroken):
        await decoded(NAME, network, since=before)
    assert LAST not in await decoded(NAME, network, since=before, gaps=True)


# --- Flow -----------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_slow_reader_slows_down_the_server(
    atproto_network: AtprotoNetwork, network: Network
) -> None:
    big = {f"com.example.note/{n:04}": {"n": n, "text": "x" * 40_000} for n in range(1000)}
    carol = atproto_network.add_account("carol.example.com", big)
    carol.order = "stream"
    async with open_repo("carol.example.com", network=network) as repo:
        await anext(aiter(repo))
        await anyio.sleep(0.3)
        assert carol.server.sent < 20_000_000
    assert atproto_network.connections <= 3
