"""The network of tests: what it serves, and each of its faults, as any client sees them."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast, get_args
from urllib.request import urlopen

import anyio
import httpx
import pytest

from repo_stream import (
    Absent,
    Account,
    AddressRefused,
    BadSignature,
    MissingBlock,
    MissingExtra,
    Present,
    RepoStreamError,
    Source,
    did_key,
    join_cars,
    load_commit,
    open_car,
    open_repo,
    process,
)
from repo_stream.testing import (
    AtprotoAccount,
    AtprotoNetwork,
    AtprotoServer,
    Fault,
    Link,
    Order,
    cid_of,
)
from repo_stream.testing.accounts import Status
from repo_stream.testing.serving import Place
from support.naive import read_car

NOTES: dict[str, object] = {f"com.example.note/{n:04}": {"n": n} for n in range(300)}


@pytest.fixture
async def client(atproto_network: AtprotoNetwork) -> AsyncIterator[httpx.AsyncClient]:
    async with atproto_network.client() as client:
        yield client


@pytest.fixture
def alice(atproto_network: AtprotoNetwork) -> AtprotoAccount:
    return atproto_network.add_account("alice.example.com", NOTES)


def repo_url(account: AtprotoAccount, server: AtprotoServer | None = None, since: str = "") -> str:
    start = f"{(server or account.server).url}/xrpc/com.atproto.sync.getRepo?did={account.did}"
    return f"{start}&since={since}" if since else start


def record_url(account: AtprotoAccount, rkey: str) -> str:
    return (
        f"{account.server.url}/xrpc/com.atproto.sync.getRecord?did={account.did}"
        f"&collection=com.example.note&rkey={rkey}"
    )


def said(answer: httpx.Response) -> tuple[int, str]:
    """The status and the error of an answer."""
    return answer.status_code, answer.json()["error"]


async def records_of(car: Source) -> dict[str, object]:
    async with open_car(car, block_processor=process.record) as repo:
        return {key: record async for key, record in repo}


# --- Content --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"curve": "p256"}, {"legacy": True}], ids=["k256", "p256", "legacy"]
)
async def test_name_leads_to_signed_records(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, options: Any
) -> None:
    account = atproto_network.add_account("alice.example.com", NOTES, **options)
    ((text,),) = await atproto_network.resolver.txt("_atproto.alice.example.com")
    did = text.decode().removeprefix("did=")
    document = (await client.get(f"{atproto_network.directory}/{did}")).json()
    assert document["alsoKnownAs"] == ["at://alice.example.com"]
    server = document["service"][0]["serviceEndpoint"]
    car = await client.get(f"{server}/xrpc/com.atproto.sync.getRepo?did={did}")
    assert car.headers["transfer-encoding"] == "chunked"
    async with open_car(car.content) as repo:
        repo.commit.verify_signature(did_key(document))
        assert (repo.commit.did, repo.commit.rev) == (account.did, account.rev)
    assert await records_of(car.content) == NOTES


@pytest.mark.parametrize("plain", [False, True], ids=["hosts", "plain"])
async def test_network_of_the_library_finds_its_accounts(plain: bool) -> None:
    with AtprotoNetwork(plain=plain) as net:
        bob = net.add_account("bob.example.com", legacy=True)
        async with net.network() as network:
            assert await network.resolve("bob.example.com") == Account(
                did=bob.did,
                handle="bob.example.com",
                pds=bob.server.url,
                signing_key=bob.key.did_key,
                document=bob.document,
            )
        assert [request.path for request in net.requests] == [f"/{bob.did}"]
        assert net.resolver.asked == [("txt", "_atproto.bob.example.com")]


async def test_well_known_file_and_documents_of_did_web(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient
) -> None:
    bob = atproto_network.add_account("bob.example.com", did="did:web:example.com", by="well-known")
    answer = await client.get("https://bob.example.com/.well-known/atproto-did")
    assert answer.text == bob.did
    assert await atproto_network.resolver.txt("_atproto.bob.example.com") == []
    assert (await client.get("https://example.com/.well-known/did.json")).json() == bob.document
    assert (await client.get("https://bob.example.com/.well-known/did.json")).status_code == 404
    assert (await client.get(f"{atproto_network.directory}/{bob.did}")).status_code == 404
    with pytest.raises(httpx.ConnectError, match="there is no host"):
        await client.get("https://carol.example.com/.well-known/atproto-did")


async def test_accounts_that_are_shown_say_which(alice: AtprotoAccount) -> None:
    assert alice.did in repr(alice)
    assert "alice.example.com" in repr(alice)
    assert repr(alice.server) == "<AtprotoServer https://pds.example.com>"
    alice.status = "suspended"
    assert alice.status == "suspended"


async def test_what_is_not_there_is_not_found(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    directory, server = atproto_network.directory, alice.server.url
    for url in (
        f"{directory}/{alice.did}/data",
        "https://alice.example.com/.well-known/atproto-did",
    ):
        assert (await client.get(url)).status_code == 404
    answer = await client.get(f"{server}/xrpc/com.atproto.sync.getBlocks?did={alice.did}")
    assert said(answer) == (501, "MethodNotImplemented")
    alice.server.close()
    with pytest.raises(httpx.ConnectError):
        await client.get(server)


async def test_audit_log_has_the_keys_and_servers_of_an_account(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    first = alice.key
    alice.rotate_key("p256")
    second = alice.key
    alice.move_to(atproto_network.add_server("elsewhere.example.com"))
    alice.rename("alice.example.org")
    alice.tombstone()
    log = (await client.get(f"{atproto_network.directory}/{alice.did}/log/audit")).json()
    *changes, last = [entry["operation"] for entry in log]
    keys = [change["verificationMethods"]["atproto"] for change in changes]
    assert keys == [first.did_key, second.did_key, alice.key.did_key, alice.key.did_key]
    servers = [change["services"]["atproto_pds"]["endpoint"] for change in changes]
    assert [url.removeprefix("https://") for url in servers] == [
        *["pds.example.com"] * 2,
        *["elsewhere.example.com"] * 2,
    ]
    assert changes[-1]["alsoKnownAs"] == ["at://alice.example.org"]
    assert last["type"] == "plc_tombstone"
    assert [entry["operation"]["prev"] for entry in log[1:]] == [entry["cid"] for entry in log[:-1]]


async def test_directory_tells_tombstones_from_the_unknown(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    alice.tombstone()
    answer = await client.get(f"{atproto_network.directory}/{alice.did}")
    assert (answer.status_code, answer.json()["message"][:17]) == (404, "DID not available")
    answer = await client.get(f"{atproto_network.directory}/did:plc:unknown")
    assert (answer.status_code, answer.json()["message"][:18]) == (404, "DID not registered")
    assert said(await client.get(repo_url(alice))) == (400, "RepoNotFound")


async def test_slice_has_what_came_since(client: httpx.AsyncClient, alice: AtprotoAccount) -> None:
    rev, before = alice.rev, alice.car()
    alice.write({"com.example.note/0000": None, "com.example.note/0001": {"n": -1}})
    part = (await client.get(repo_url(alice, since=rev))).content
    assert len(part) < len(before) / 4
    assert await joined_records(before, part) == alice.records
    _, blocks = read_car((await client.get(repo_url(alice, since=alice.rev))).content)
    assert blocks == []


async def joined_records(*cars: bytes) -> dict[str, object]:
    async with join_cars(*cars) as ordered:
        return await records_of(ordered)


async def test_record_comes_with_the_nodes_on_the_way(
    client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    for number in range(300):
        car = alice.proof(f"com.example.note/{number:04}")
        async with open_car(car, gaps=True) as repo:
            proof = await repo.prove(f"com.example.note/{number:04}")
        assert isinstance(proof, Present)
        roots, blocks = read_car(car)
        assert roots == [alice.repo.commit_cid]
        assert len(blocks) < 10
    answer = await client.get(record_url(alice, "0123"))
    assert answer.content == alice.proof("com.example.note/0123")


async def test_absent_record_comes_with_the_nodes_on_the_way(
    client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    for rkey in ("0", "0123-absent", "9"):
        answer = await client.get(record_url(alice, rkey))
        async with open_car(answer.content, gaps=True) as repo:
            assert isinstance(await repo.prove(f"com.example.note/{rkey}"), Absent)


async def test_records_are_listed_page_by_page(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient
) -> None:
    link = Link(cid_of(b"linked"))
    records = {
        **{f"com.example.note/{n}": {"n": [n, None], "b": b"\0", "l": link} for n in range(5)},
        "com.example.other/1": {},
    }
    bob = atproto_network.add_account(None, records)
    url = f"{bob.server.url}/xrpc/com.atproto.repo.listRecords?repo={bob.did}&limit=2"
    listed: list[Any] = []
    url += "&collection=com.example.note"
    page = (await client.get(url)).json()
    while "cursor" in page:
        listed += page["records"]
        page = (await client.get(f"{url}&cursor={page['cursor']}")).json()
    assert page == {"records": []}
    async with open_car(bob.car(), block_processor=process.atproto_json) as repo:
        found = [
            {"uri": f"at://{bob.did}/{each.key}", "cid": str(each.cid), "value": each.value}
            async for each in repo.outputs()
            if each.collection == "com.example.note"
        ]
    assert [{**each, "value": json.loads(each["value"])} for each in reversed(found)] == listed


async def test_handle_resolves_through_the_server(
    client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    url = f"{alice.server.url}/xrpc/com.atproto.identity.resolveHandle?handle="
    assert (await client.get(f"{url}{alice.handle}")).json() == {"did": alice.did}
    assert said(await client.get(f"{url}bob.example.com")) == (400, "HandleNotFound")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("takendown", "RepoTakendown"),
        ("suspended", "RepoSuspended"),
        ("deactivated", "RepoDeactivated"),
        ("deleted", "RepoNotFound"),
    ],
)
async def test_server_names_what_the_account_is(
    client: httpx.AsyncClient, alice: AtprotoAccount, status: Status, error: str
) -> None:
    alice.status = status
    for url in (repo_url(alice), record_url(alice, "0001")):
        assert said(await client.get(url)) == (400, error)
    alice.status = "active"
    assert (await client.get(repo_url(alice))).status_code == 200


async def test_moved_account_sends_the_earlier_keys_commit_until_it_writes(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    before, old_key = alice.server, alice.key
    alice.move_to(atproto_network.add_server("elsewhere.example.com"))
    assert said(await client.get(repo_url(alice, before))) == (400, "RepoDeactivated")
    commit = await load_commit((await client.get(repo_url(alice))).content)
    commit.verify_signature(old_key.did_key)
    with pytest.raises(BadSignature):
        commit.verify_signature(alice.key.did_key)
    alice.write({})
    commit = await load_commit((await client.get(repo_url(alice))).content)
    commit.verify_signature(did_key(alice.document))


async def test_document_can_have_any_defect(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    right = alice.document
    alice.document = {**right, "id": "did:plc:other"}
    url = f"{atproto_network.directory}/{alice.did}"
    assert (await client.get(url)).json() == {**right, "id": "did:plc:other"}
    del alice.document
    assert (await client.get(url)).json() == right


async def test_resolver_answers_as_it_is_told(
    atproto_network: AtprotoNetwork, alice: AtprotoAccount
) -> None:
    resolver = atproto_network.resolver
    assert await resolver.addresses(alice.server.host) == ["127.0.0.1"]
    with pytest.raises(OSError, match=r"there is no host nowhere\.example\.com"):
        await resolver.addresses("nowhere.example.com")
    resolver.hosts["twice.example.com"] = [["192.0.2.1", "192.0.2.2"], ["127.0.0.1"]]
    answers = [await resolver.addresses("twice.example.com") for _ in range(3)]
    assert answers == [["192.0.2.1", "192.0.2.2"], ["127.0.0.1"], ["127.0.0.1"]]
    for place in ("txt", "addresses"):
        atproto_network.inject(place, Fault(error="Timeout", times=1))
    with pytest.raises(OSError, match="Timeout"):
        await resolver.txt("_atproto.alice.example.com")
    assert await resolver.txt("_atproto.alice.example.com")
    assert resolver.asked[-1] == ("txt", "_atproto.alice.example.com")
    atproto_network.inject("txt", Fault(silent=True))
    with anyio.move_on_after(0.05) as scope:
        await resolver.txt("_atproto.alice.example.com")
    assert scope.cancelled_caught
    with pytest.raises(OSError, match="Timeout"):
        await resolver.addresses("pds.example.com")


# --- Faults ---------------------------------------------------------------------------------------


def test_fault_that_would_never_hold_is_refused(atproto_network: AtprotoNetwork) -> None:
    alice = atproto_network.add_account("alice.example.com", {})
    with pytest.raises(ValueError, match=r"place must be one of document, .*, not 'getrepo'"):
        atproto_network.inject(cast("Place", "getrepo"), Fault())
    with pytest.raises(ValueError, match="txt is asked for names, not accounts"):
        alice.inject("txt", Fault(error="SERVFAIL"))


@pytest.mark.parametrize("with_length", [False, True], ids=["chunks", "length"])
@pytest.mark.parametrize("ends", ["stop_at", "reset_at"])
async def test_answer_breaks_off_after_so_many_bytes(
    client: httpx.AsyncClient, alice: AtprotoAccount, ends: str, with_length: bool
) -> None:
    for count in (0, 1, 20_000, len(alice.car()) - 1):
        fault = Fault(with_length=with_length, times=1)
        at = replace(fault, stop_at=count) if ends == "stop_at" else replace(fault, reset_at=count)
        alice.inject("getRepo", at)
        received = 0
        broken = (httpx.ReadError, httpx.RemoteProtocolError)
        with pytest.raises(broken):  # noqa: PT012 - it breaks while it is read
            async with client.stream("GET", repo_url(alice)) as answer:
                async for piece in answer.aiter_raw():
                    received += len(piece)
        assert received == count if ends == "stop_at" else received <= count
    assert (await client.get(repo_url(alice))).content == alice.car()


async def test_no_record_comes_out_before_the_first_can(alice: AtprotoAccount) -> None:
    for order in get_args(Order):
        alice.order = order
        enough = alice.first_record_at()
        for size in (enough - 1, enough):
            records: list[str] = []
            with pytest.raises(RepoStreamError):  # noqa: PT012 - the end of the file is what fails
                async with open_car(alice.car()[:size]) as repo:
                    async for key, _ in repo:
                        records.append(key)
            if size < enough:
                assert records == []
            else:
                assert records[:1] == ["com.example.note/0000"]


async def test_fault_is_for_some_requests_and_one_account(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    bob = atproto_network.add_account("bob.example.com")
    alice.inject("getRepo", Fault(status=503, skip=1, times=2))
    statuses = [(await client.get(repo_url(alice))).status_code for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    alice.inject("getRepo", Fault(status=503))
    assert (await client.get(repo_url(bob))).status_code == 200
    assert (await client.get(record_url(alice, "0001"))).status_code == 200
    atproto_network.inject("getRepo", Fault(status=500), account=bob)
    assert (await client.get(repo_url(bob))).status_code == 500
    atproto_network.clear_faults()
    for account in (alice, bob):
        assert (await client.get(repo_url(account))).status_code == 200


PLACES = {
    "document": "https://plc.directory/{did}",
    "audit_log": "https://plc.directory/{did}/log/audit",
    "well_known": "https://alice.example.com/.well-known/atproto-did",
    "getRepo": "https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={did}",
    "getRecord": "https://pds.example.com/xrpc/com.atproto.sync.getRecord?did={did}",
    "getLatestCommit": "https://pds.example.com/xrpc/com.atproto.sync.getLatestCommit?did={did}",
    "listRecords": "https://pds.example.com/xrpc/com.atproto.repo.listRecords?repo={did}",
    "resolveHandle": "https://pds.example.com/xrpc/com.atproto.identity.resolveHandle?handle={at}",
}


async def test_every_place_can_have_a_fault(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient
) -> None:
    assert {*PLACES, "txt", "addresses"} == set(get_args(Place))
    alice = atproto_network.add_account("alice.example.com", by="both")
    places: list[Place] = [*get_args(Place)[:3], *get_args(Place)[5:]]
    for place in places:
        url = PLACES[place].format(did=alice.did, at=alice.handle)
        alice.inject(place, Fault(status=418, times=1))
        assert (await client.get(url)).status_code == 418, place
        assert (await client.get(url)).status_code == 200, place


async def test_rate_limit_names_the_time_when_it_ends(
    client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    headers = {"retry-after": "3", "ratelimit-reset": "{now+30}"}
    alice.inject("getRepo", Fault(status=429, error="RateLimitExceeded", headers=headers))
    answer = await client.get(repo_url(alice))
    assert said(answer) == (429, "RateLimitExceeded")
    assert answer.headers["retry-after"] == "3"
    assert 0 < int(answer.headers["ratelimit-reset"]) - time.time() + 5 < 60


async def test_redirect_leads_elsewhere(
    atproto_network: AtprotoNetwork, client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    atproto_network.inject("getRepo", Fault(location="http://10.0.0.1/", times=1))
    answer = await client.get(repo_url(alice), follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (302, "http://10.0.0.1/")
    assert answer.content == b""


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        pytest.param("http://10.0.0.1/", "https", id="scheme"),
        pytest.param("https://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1", id="address"),
        pytest.param(
            "https://elsewhere.example.com/", r"elsewhere.* \(192\.168\.0\.1\)", id="host"
        ),
    ],
)
async def test_redirects_that_lead_to_private_places_are_refused(
    atproto_network: AtprotoNetwork, alice: AtprotoAccount, location: str, reason: str
) -> None:
    atproto_network.add_server("elsewhere.example.com")
    atproto_network.resolver.hosts["elsewhere.example.com"] = [["192.168.0.1"]]
    atproto_network.inject("getRepo", Fault(location=location))
    async with atproto_network.network() as network:
        with pytest.raises(AddressRefused, match=reason):
            async with open_repo(alice.did, network=network):
                pass
    assert [request.host for request in atproto_network.requests] == [
        "plc.directory",
        "pds.example.com",
    ]


async def test_address_that_changes_is_refused_when_it_does(
    atproto_network: AtprotoNetwork, alice: AtprotoAccount
) -> None:
    atproto_network.resolver.hosts["pds.example.com"] = [["1.1.1.1"], ["127.0.0.1"]]
    async with atproto_network.network() as network:
        async with open_repo(alice.did, network=network) as repo:
            assert await repo.next_chunk() is not None
        with pytest.raises(AddressRefused, match=r"pds\.example\.com \(127\.0\.0\.1\)"):
            async with open_repo(alice.did, network=network):
                pass


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_body_is_compressed_and_of_any_kind(
    client: httpx.AsyncClient, alice: AtprotoAccount, encoding: Any
) -> None:
    alice.inject("getRepo", Fault(encoding=encoding, content_type="text/html", times=1))
    answer = await client.get(repo_url(alice))
    assert answer.headers["content-encoding"] == encoding
    assert answer.headers["content-type"] == "text/html"
    assert answer.content == alice.car()
    alice.inject("getRepo", Fault(content_type="", body=b"<html>"))
    answer = await client.get(repo_url(alice))
    assert "content-type" not in answer.headers
    assert answer.content == b"<html>"


async def test_write_during_a_slow_download_tears_it(
    client: httpx.AsyncClient, alice: AtprotoAccount
) -> None:
    changes = {f"com.example.note/{n:04}": {"n": -n} for n in range(0, 300, 30)}
    rev = alice.rev
    alice.inject("getRepo", Fault(during_at=1000, during=lambda: alice.write(changes), times=1))
    torn = (await client.get(repo_url(alice))).content
    assert (await load_commit(torn)).rev == rev
    with pytest.raises(MissingBlock):
        await records_of(torn)
    part = (await client.get(repo_url(alice, since=rev))).content
    assert await joined_records(torn, part) == alice.records == {**NOTES, **changes}


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        pytest.param(Fault(stall_at=5000), 5000, id="stalled"),
        pytest.param(Fault(silent=True), 0, id="silent"),
        pytest.param(Fault(wait=600), 0, id="waiting"),
        pytest.param(Fault(drip=(10, 600)), 10, id="dripping"),
    ],
)
async def test_server_notices_that_a_client_goes(
    atproto_network: AtprotoNetwork,
    client: httpx.AsyncClient,
    alice: AtprotoAccount,
    fault: Fault,
    sent: int,
) -> None:
    alice.inject("getRepo", fault)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.get, repo_url(alice))
        await until(lambda: bool(atproto_network.requests) and alice.server.sent == sent)
        tasks.cancel_scope.cancel()
    await until(lambda: atproto_network.connections == 0)
    assert alice.server.sent == sent


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what a thread of a server does."""
    with anyio.fail_after(30):
        while not holds():  # noqa: ASYNC110 - a thread cannot set an event of the loop
            await anyio.sleep(0.005)


async def test_drip_comes_in_small_pieces(client: httpx.AsyncClient, alice: AtprotoAccount) -> None:
    alice.inject("getRepo", Fault(drip=(2000, 0.001)))
    sent: list[int] = []
    async with client.stream("GET", repo_url(alice)) as answer:
        async for _ in answer.aiter_raw():
            sent.append(alice.server.sent)  # noqa: PERF401 - at that time
    assert len(sent) > 5
    assert alice.server.sent == len(alice.car())


def test_closing_ends_what_waits_for_clients() -> None:
    with AtprotoNetwork() as net:
        bob = net.add_account("bob.example.com")
        bob.inject("getRepo", Fault(silent=True))
        silent, idle = (socket.create_connection(("127.0.0.1", bob.server.port)) for _ in range(2))
        path = repo_url(bob).removeprefix(bob.server.url)
        silent.sendall(f"GET {path} HTTP/1.1\r\nHost: {bob.server.host}\r\n\r\n".encode())
        while not net.requests:
            time.sleep(0.005)
    for each in (silent, idle):
        assert each.recv(1) == b""
        each.close()


def test_plain_network_is_reached_without_its_client() -> None:
    with AtprotoNetwork(plain=True) as net:
        bob = net.add_account("bob.example.com", server=net.add_server("other"))
        with urlopen(f"{net.directory}/{bob.did}") as answer:  # noqa: S310 - on loopback
            server = json.load(answer)["service"][0]["serviceEndpoint"]
        assert server == f"http://127.0.0.1:{bob.server.port}"
        with urlopen(repo_url(bob)) as answer:  # noqa: S310 - on loopback
            assert answer.read() == bob.car()


def test_client_without_httpx_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, atproto_network: AtprotoNetwork
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"\[network\]"):
        atproto_network.client()
