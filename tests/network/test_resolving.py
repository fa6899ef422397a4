"""`Network.resolve`: from handles and DIDs to accounts, both ways, kept for a time."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import dns.rcode
import httpx
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import (
    Account,
    AddressRefused,
    AmbiguousHandle,
    BadDocument,
    BadName,
    DidNotFound,
    DidTombstoned,
    HandleNotClaimed,
    HandleNotFound,
    MissingExtra,
    Network,
    NetworkError,
    NoServer,
    NoSigningKey,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    SystemResolver,
    TooManyRedirects,
)
from repo_stream.network import resolving
from repo_stream.network.web import Reply, Web
from repo_stream.testing import AtprotoNetwork, Fault
from support.cancelling import Stop, every_stop, in_two_ways
from support.dns_server import name_server

pytestmark = pytest.mark.anyio

ALICE = "alice.example.com"
WEB = "did:web:web.example.com"
NOBODY = "did:plc:" + 24 * "a"
TXT = "_atproto." + ALICE
WELL_KNOWN = f"https://{ALICE}/.well-known/atproto-did"


class TestClock:
    """A clock that stands still, but while somebody sleeps."""

    __test__ = False

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def date(self) -> float:
        return 1_700_000_000 + self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def net(atproto_network: AtprotoNetwork) -> AtprotoNetwork:
    return atproto_network


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
async def network(net: AtprotoNetwork, clock: TestClock) -> AsyncGenerator[Network]:
    async with net.client() as client, net.network(client=client, clock=clock) as network:
        yield network


def paths(net: AtprotoNetwork) -> list[str]:
    """Return the paths of all requests, and forget them."""
    found = [request.host + request.path for request in net.requests]
    net.requests.clear()
    return found


def looked_up(net: AtprotoNetwork) -> list[str]:
    """Return the names whose TXT records were asked for, and forget them."""
    found = [name for kind, name in net.resolver.asked if kind == "txt"]
    net.resolver.asked.clear()
    return found


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("by", ["dns", "well-known"])
async def test_all_names_of_an_account_lead_to_it(
    net: AtprotoNetwork, network: Network, by: Any
) -> None:
    alice = net.add_account(ALICE, by=by)
    for who in (
        ALICE,
        "@Alice.Example.com.",
        alice.did,
        f"at://{alice.did}",
        f"at://{ALICE}/app.bsky.feed.post/3jzf",
    ):
        account = await network.resolve(who, fresh=True)
        assert account == Account(
            did=alice.did,
            handle=ALICE,
            pds="https://pds.example.com",
            signing_key=alice.key.did_key,
            document=alice.document,
        )
        assert (account.claimed_handle, account.handle_problem) == (ALICE, None)


@pytest.mark.parametrize("handle", ["web.example.com", "other.example.com", None])
async def test_did_web_is_on_its_host(
    net: AtprotoNetwork, network: Network, handle: str | None
) -> None:
    net.add_account(handle, did=WEB, curve="p256")
    account = await network.resolve(WEB)
    assert (account.did, account.handle) == (WEB, handle)
    assert paths(net) == ["web.example.com/.well-known/did.json"]


async def test_legacy_documents_are_read(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE, legacy=True)
    assert (await network.resolve(ALICE)).signing_key == alice.key.did_key


@pytest.mark.parametrize("who", ["", "alice", "a.local", "alice.test", "did:key:z6Mk", "at://x/y"])
async def test_what_names_no_account_is_refused_before_any_request(
    net: AtprotoNetwork, network: Network, who: str
) -> None:
    with pytest.raises(BadName):
        await network.resolve(who)
    assert (net.resolver.asked, net.requests) == ([], [])


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1", "10.0.0.1", "2130706433"])
async def test_did_web_of_an_address_is_refused_before_any_request(
    net: AtprotoNetwork, network: Network, host: str
) -> None:
    with pytest.raises((AddressRefused, BadName)):
        await network.resolve(f"did:web:{host}")
    assert net.requests == []


# --- Handles --------------------------------------------------------------------------------------


async def test_dns_goes_before_the_well_known_file(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE)
    net.well_known[ALICE] = NOBODY.encode()
    assert (await network.resolve(ALICE)).did == alice.did
    assert paths(net) == [f"plc.directory/{alice.did}"]


async def test_pieces_of_a_record_belong_together(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE)
    whole = f"did={alice.did}".encode()
    net.resolver.records[TXT] = [[b"v=spf1"], [whole[:2], whole[2:9], b"", whole[9:]]]
    assert (await network.resolve(ALICE)).did == alice.did


@pytest.mark.both_loops
async def test_name_servers_are_asked_for_what_the_protocol_says(net: AtprotoNetwork) -> None:
    alice = net.add_account(ALICE, by="well-known")
    bob = net.add_account("bob.example.com", by=None)
    with name_server() as server:
        server.records["_atproto.bob.example.com."] = ['"v=spf1"', f'"did=" "{bob.did}"']
        resolver = SystemResolver(server.resolver())
        async with net.client() as client, net.network(client=client, resolver=resolver) as network:
            assert (await network.resolve("bob.example.com")).did == bob.did
            assert (await network.resolve(ALICE)).did == alice.did
            server.rcode = dns.rcode.SERVFAIL
            assert (await network.resolve(ALICE, fresh=True)).did == alice.did
            with pytest.raises(HandleNotFound, match=r"could not be looked up \(SERVFAIL\)"):
                await network.resolve("bob.example.com", fresh=True)
        assert {name for name, _ in server.asked} == {"_atproto.bob.example.com.", TXT + "."}


@pytest.mark.parametrize(
    "fault", [Fault(error="SERVFAIL"), Fault(status=5)], ids=["SERVFAIL", "REFUSED"]
)
async def test_well_known_file_serves_if_the_dns_fails(
    net: AtprotoNetwork, network: Network, fault: Fault
) -> None:
    alice = net.add_account(ALICE, by="both")
    net.inject("txt", fault)
    assert (await network.resolve(ALICE)).did == alice.did


@pytest.mark.both_loops
async def test_well_known_file_serves_if_the_dns_is_silent(
    net: AtprotoNetwork, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = net.add_account(ALICE, by="well-known")

    async def wait(name: str) -> list[list[bytes]]:
        await anyio.sleep_forever()
        return [[name.encode()]]

    monkeypatch.setattr(net.resolver, "txt", wait)
    monkeypatch.setattr(resolving, "_HANDLE_SECONDS", 0.5)
    assert (await network.resolve(ALICE)).did == alice.did


async def test_well_known_file_serves_if_the_record_has_no_did(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE, by="well-known")
    net.resolver.records[TXT] = [[b"did=alice"]]
    assert (await network.resolve(ALICE)).did == alice.did


async def test_several_dids_are_ambiguous_whatever_the_well_known_file_says(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE, by="both")
    net.resolver.records[TXT] += [[f"did={NOBODY}".encode()], [f"did={alice.did}".encode()]]
    with pytest.raises(AmbiguousHandle) as caught:
        await network.resolve(ALICE)
    assert caught.value.dids == tuple(sorted([alice.did, NOBODY]))
    assert (await network.resolve(alice.did)).handle is None
    assert paths(net) == [f"plc.directory/{alice.did}"]


NO_TXT = f"{TXT} has no TXT record with a DID"


@pytest.mark.parametrize(
    ("fault", "body", "reason"),
    [
        (None, None, "answers with status 404"),
        (None, b"", "has no DID, but nothing"),
        (None, b"<html>", "has no DID, but '<html>'"),
        (Fault(status=503, body=b"busy"), b"", "answered with status 503 and 'busy'"),
        (
            Fault(location="https://elsewhere.example.com/did"),
            NOBODY.encode(),
            "redirects to https://elsewhere.example.com/did, but none is followed here",
        ),
    ],
    ids=["nothing", "empty", "nonsense", "busy", "redirect"],
)
async def test_handle_that_leads_nowhere_is_an_error_with_both_reasons(
    net: AtprotoNetwork, network: Network, fault: Fault | None, body: bytes | None, reason: str
) -> None:
    alice = net.add_account(ALICE, by=None)
    if body is not None:
        net.well_known[ALICE] = body
    if fault is not None:
        net.inject("well_known", fault)
    with pytest.raises(HandleNotFound) as caught:
        await network.resolve(ALICE)
    assert caught.value.handle == ALICE
    assert caught.value.reason == f"{NO_TXT}; {WELL_KNOWN} {reason}"
    assert caught.value.temporary is ("503" in reason)
    account = await network.resolve(alice.did)
    assert (account.handle, account.claimed_handle) == (None, ALICE)
    assert str(account.handle_problem) == str(caught.value).rpartition("; ")[0]


async def test_failure_of_the_dns_is_among_the_reasons(
    net: AtprotoNetwork, network: Network
) -> None:
    net.add_account(ALICE, by="dns")
    net.inject("txt", Fault(error="SERVFAIL", message="no"))
    with pytest.raises(HandleNotFound) as caught:
        await network.resolve(ALICE)
    assert caught.value.reason == (
        f"the TXT records of {TXT} could not be looked up (SERVFAIL: no); "
        f"{WELL_KNOWN} answers with status 404"
    )
    assert caught.value.temporary


async def test_handle_whose_domain_does_not_exist_is_not_temporary(net: AtprotoNetwork) -> None:
    async with net.network(client=None) as network:
        net.resolver.hosts = {}
        with pytest.raises(
            HandleNotFound, match=r"leads to no account: .* no answer from"
        ) as caught:
            await network.resolve("nobody.example.com")
    assert not caught.value.temporary


async def test_machine_without_a_network_is_temporary() -> None:
    class Offline:
        async def txt(self, name: str) -> list[list[bytes]]:
            raise OSError("no name server is reached")

        async def addresses(self, host: str) -> list[str]:
            raise OSError("no name server is reached")

    async with Network(resolver=Offline()) as network:
        with pytest.raises(
            HandleNotFound, match=r"could not be looked up: .* connection"
        ) as caught:
            await network.resolve(ALICE)
    assert caught.value.temporary


async def test_well_known_file_that_is_too_long_is_none(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE, by="well-known")
    net.well_known[ALICE] = alice.did.encode().ljust(2049)
    with pytest.raises(HandleNotFound, match=r"it has more than 2,048 bytes"):
        await network.resolve(ALICE)


async def test_handle_of_a_did_that_no_account_has(net: AtprotoNetwork, network: Network) -> None:
    net.resolver.records[TXT] = [[b"did=did:key:abc"]]
    with pytest.raises(HandleNotFound, match=r"leads to did:key:abc, but an account has a did:plc"):
        await network.resolve(ALICE)


async def test_long_did_that_no_account_has_is_told_in_short(
    net: AtprotoNetwork, network: Network
) -> None:
    net.resolver.records[TXT] = [[b"did=did:key:" + 2000 * b"a"]]
    with pytest.raises(HandleNotFound, match=r"leads to did:key:aaa.*aaa\.\.\., but") as caught:
        await network.resolve(ALICE)
    assert len(str(caught.value)) < 500


async def test_well_known_file_of_2048_bytes_is_read(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE, by="well-known")
    net.well_known[ALICE] = alice.did.encode().ljust(2048)
    assert (await network.resolve(ALICE)).did == alice.did


@pytest.mark.both_loops
async def test_silent_host_of_a_handle_is_given_up_soon(
    net: AtprotoNetwork, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = net.add_account(ALICE, by="well-known")
    net.inject("well_known", Fault(silent=True))
    monkeypatch.setattr(resolving, "_HANDLE_SECONDS", 0.2)
    assert (await network.resolve(alice.did)).handle is None
    with pytest.raises(HandleNotFound, match=r"did not answer within 0\.2 seconds"):
        await network.resolve(ALICE)


@pytest.mark.both_loops
async def test_own_client_does_not_connect_to_private_addresses(net: AtprotoNetwork) -> None:
    alice = net.add_account(ALICE, by="well-known")
    net.resolver.hosts = {ALICE: [["8.8.8.8", "10.0.0.1"]], "plc.directory": [["169.254.169.254"]]}
    async with net.network(client=None) as network:
        with pytest.raises(HandleNotFound, match=r"no connection is made to .* \(10\.0\.0\.1\)"):
            await network.resolve(ALICE)
        with pytest.raises(AddressRefused) as caught:
            await network.resolve(alice.did)
    assert caught.value.address == "169.254.169.254"
    assert net.requests == []


# --- Both ways ------------------------------------------------------------------------------------


async def test_handle_of_somebody_else_is_no_handle(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE)
    mallory = net.add_account("mallory.example.com")
    mallory.rename(ALICE)
    account = await network.resolve(mallory.did)
    assert (account.handle, account.claimed_handle) == (None, ALICE)
    assert account.handle_problem == f"the handle {ALICE} leads to another account, {alice.did}"
    assert (await network.resolve(ALICE)).did == alice.did
    with pytest.raises(HandleNotClaimed) as caught:
        await network.resolve("mallory.example.com")
    assert (caught.value.did, caught.value.claimed) == (mallory.did, ALICE)


async def test_handle_that_the_account_does_not_claim(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE)
    alice.rename(None)
    with pytest.raises(HandleNotClaimed) as caught:
        await network.resolve(ALICE)
    assert caught.value.claimed is None
    account = await network.resolve(alice.did)
    assert (account.handle, account.claimed_handle) == (None, None)
    assert account.handle_problem == "the account claims no handle"


@pytest.mark.parametrize("handle", ["handle.invalid", "alice.localhost", "alice.test"])
async def test_handle_that_nobody_can_have_is_not_looked_up(
    net: AtprotoNetwork, network: Network, handle: str
) -> None:
    alice = net.add_account(handle)
    account = await network.resolve(alice.did)
    assert (account.handle, account.claimed_handle) == (None, handle)
    assert f"below .{handle.rpartition('.')[2]}" in str(account.handle_problem)
    assert looked_up(net) == []


async def test_only_the_first_valid_handle_counts(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE)
    net.resolver.records["_atproto.second.example.com"] = net.resolver.records[TXT]
    names = ["https://example.com", "at://x", f"at://{ALICE.upper()}", "at://second.example.com"]
    alice.document = {**alice.document, "alsoKnownAs": names}
    assert (await network.resolve(ALICE)).handle == ALICE
    with pytest.raises(HandleNotClaimed):
        await network.resolve("second.example.com")


# --- Documents ------------------------------------------------------------------------------------


async def test_unknown_and_tombstoned_dids_are_told_apart(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE)
    alice.tombstone()
    for who in (alice.did, ALICE):
        with pytest.raises(DidTombstoned) as caught:
            await network.resolve(who)
        assert caught.value.did == alice.did
    for did in (NOBODY, WEB):
        net.well_known.setdefault("web.example.com", b"")
        with pytest.raises(DidNotFound) as not_found:
            await network.resolve(did)
        assert not_found.value.did == did


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(body=b"<html>"), BadDocument),
        (Fault(body=b"[]"), BadDocument),
        (Fault(body=json.dumps({"id": NOBODY}).encode()), BadDocument),
        (Fault(body=b" " * (1024 * 1024 + 1)), BadDocument),
        (Fault(stop_at=10), BadDocument),
        (Fault(location="https://plc.directory/elsewhere"), TooManyRedirects),
        (Fault(status=503, body=b"busy"), ServerFailed),
        (Fault(status=403, body=b"no"), ServerFailed),
        (Fault(status=429, headers={"retry-after": "900"}), RateLimited),
        (Fault(error="InternalServerError", status=501), ServerFailed),
    ],
    ids=[
        "page",
        "list",
        "other id",
        "too long",
        "broken off",
        "redirect",
        "503",
        "403",
        "429",
        "501",
    ],
)
@pytest.mark.parametrize("did", [None, WEB], ids=["plc", "web"])
async def test_document_that_cannot_be_had(
    net: AtprotoNetwork,
    network: Network,
    fault: Fault,
    kind: type[NetworkError],
    did: str | None,
) -> None:
    account = net.add_account(ALICE, did=did)
    account.inject("document", fault)
    for who in (account.did, ALICE):
        with pytest.raises(kind):
            await network.resolve(who)
    assert len(looked_up(net)) == 1


@pytest.mark.both_loops
async def test_directory_that_fails_is_asked_again(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE)
    net.inject("document", Fault(status=502, times=1))
    net.inject("document", Fault(status=429, headers={"retry-after": "3"}, times=1))
    assert (await network.resolve(ALICE)).did == alice.did


@pytest.mark.parametrize(
    ("field", "kind"), [("service", NoServer), ("verificationMethod", NoSigningKey)]
)
async def test_document_without_server_or_key(
    net: AtprotoNetwork, network: Network, field: str, kind: type[NetworkError]
) -> None:
    alice = net.add_account(ALICE)
    alice.document = {**alice.document, field: []}
    with pytest.raises(kind):
        await network.resolve(ALICE)


async def test_audit_log_is_what_the_directory_has(net: AtprotoNetwork, network: Network) -> None:
    alice = net.add_account(ALICE)
    alice.rotate_key()
    assert await network.audit_log(alice.did) == alice.operations
    assert await network.audit_log(WEB) == []
    with pytest.raises(DidNotFound):
        await network.audit_log(NOBODY)
    for did in ("did:plc:../x", "did:plc:x", ALICE, "did:web:localhost"):
        with pytest.raises(BadName):
            await network.audit_log(did)
    assert paths(net) == [f"plc.directory/{did}/log/audit" for did in (alice.did, NOBODY)]
    net.inject("audit_log", Fault(body=b"{}"))
    with pytest.raises(BadDocument, match="not a list"):
        await network.audit_log(alice.did)


# --- Kept for a time ------------------------------------------------------------------------------


async def test_identities_are_kept_for_a_day(
    net: AtprotoNetwork, network: Network, clock: TestClock
) -> None:
    alice = net.add_account(ALICE)
    before = await network.resolve(ALICE)
    alice.rotate_key()
    paths(net)
    looked_up(net)
    clock.time += 24 * 3600 - 1
    assert await network.resolve(ALICE) == await network.resolve(alice.did) == before
    assert paths(net) == looked_up(net) == []
    clock.time += 1
    assert (await network.resolve(ALICE)).signing_key == alice.key.did_key
    assert (paths(net), looked_up(net)) == ([f"plc.directory/{alice.did}"], [TXT])


@pytest.mark.parametrize("by_handle", [True, False], ids=["handle", "DID"])
async def test_fresh_looks_all_up_again(
    net: AtprotoNetwork, network: Network, *, by_handle: bool
) -> None:
    alice = net.add_account(ALICE)
    who = ALICE if by_handle else alice.did
    await network.resolve(who)
    alice.rotate_key()
    paths(net)
    looked_up(net)
    assert (await network.resolve(who, fresh=True)).signing_key == alice.key.did_key
    assert (paths(net), looked_up(net)) == ([f"plc.directory/{alice.did}"], [TXT])
    assert (await network.resolve(who)).signing_key == alice.key.did_key
    assert paths(net) == []


async def test_errors_are_kept_for_two_minutes(
    net: AtprotoNetwork, network: Network, clock: TestClock
) -> None:
    for _ in range(2):
        with pytest.raises(DidNotFound):
            await network.resolve(NOBODY)
        with pytest.raises(HandleNotFound):
            await network.resolve(ALICE)
        clock.time += 119
    assert (paths(net), looked_up(net)) == ([f"plc.directory/{NOBODY}"], [TXT])
    clock.time += 1
    net.add_account(ALICE, did=NOBODY)
    assert (await network.resolve(ALICE)).did == NOBODY


async def test_handle_that_fails_for_a_moment_is_back_soon(
    net: AtprotoNetwork, network: Network, clock: TestClock
) -> None:
    alice = net.add_account(ALICE)
    net.inject("txt", Fault(error="SERVFAIL", times=1))
    assert (await network.resolve(alice.did)).handle is None
    clock.time += 120
    assert (await network.resolve(alice.did)).handle == ALICE
    assert paths(net) == [
        f"plc.directory/{alice.did}",
        f"{ALICE}/.well-known/atproto-did",
    ]  # the document was kept


async def test_new_handle_is_found_although_the_document_is_kept(
    net: AtprotoNetwork, network: Network, clock: TestClock
) -> None:
    alice = net.add_account(ALICE)
    await network.resolve(ALICE)
    alice.rename("new.example.com")
    net.resolver.records["_atproto.new.example.com"] = net.resolver.records.pop(TXT)
    with pytest.raises(HandleNotClaimed):
        await network.resolve("new.example.com")  # it was looked up a moment ago
    clock.time += 120
    assert (await network.resolve("new.example.com")).did == alice.did
    assert (await network.resolve(alice.did)).handle == "new.example.com"


async def test_handle_that_went_to_another_account_is_found_there(
    net: AtprotoNetwork, network: Network, clock: TestClock
) -> None:
    alice = net.add_account(ALICE)
    await network.resolve(ALICE)
    heir = net.add_account("heir.example.com")
    heir.rename(ALICE)
    net.resolver.records[TXT] = [[f"did={heir.did}".encode()]]
    clock.time += 120
    assert (await network.resolve(heir.did)).handle == ALICE
    assert (await network.resolve(alice.did)).handle is None
    assert (await network.resolve(ALICE)).did == heir.did


async def test_handle_that_is_not_claimed_is_not_a_request_each_time(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE)
    alice.rename(None)
    for _ in range(3):
        with pytest.raises(HandleNotClaimed):
            await network.resolve(ALICE)
    assert (paths(net), looked_up(net)) == ([f"plc.directory/{alice.did}"], [TXT])


async def test_directory_that_is_away_does_not_undo_what_is_known(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE)
    await network.resolve(ALICE)
    net.inject("document", Fault(status=503))
    with pytest.raises(ServerFailed):
        await network.resolve(ALICE, fresh=True)
    assert (await network.resolve(ALICE)).did == alice.did


@pytest.mark.both_loops
async def test_name_is_looked_up_once_for_all_who_ask(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE)
    net.inject("document", Fault(wait=0.1))
    found: list[Account] = []

    async def resolve(who: str) -> None:
        found.append(await network.resolve(who))

    async with anyio.create_task_group() as tasks:
        for who in [ALICE, alice.did] * 5:
            tasks.start_soon(resolve, who)
    assert [account.handle for account in found] == [ALICE] * 10
    assert (paths(net), looked_up(net)) == ([f"plc.directory/{alice.did}"], [TXT])


@pytest.mark.both_loops
async def test_cancelled_caller_leaves_the_others_alone(
    net: AtprotoNetwork, network: Network
) -> None:
    alice = net.add_account(ALICE)
    net.inject("document", Fault(silent=True, times=1))
    found: list[str] = []

    async def resolve(who: str) -> None:
        found.append((await network.resolve(who)).did)

    async def give_up() -> None:
        with anyio.move_on_after(0.1):
            await network.resolve(alice.did)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up)
            await anyio.wait_all_tasks_blocked()
            for who in (alice.did, ALICE):
                tasks.start_soon(resolve, who)
    assert found == [alice.did] * 2


@in_two_ways
async def test_cancelled_at_any_await_the_others_get_the_account(
    net: AtprotoNetwork, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    alice = net.add_account(ALICE)

    async def document(self: Web, url: str) -> Reply:
        # The connections of the client have tests of their own.
        for _ in range(3):
            await checkpoint()
        return Reply(url=url, status=200, headers={}, body=json.dumps(alice.document).encode())

    monkeypatch.setattr(Web, "document", document)
    async with net.client() as client:
        for stop in every_stop(how, at_least=3):
            async with net.network(client=client) as network:
                assert await _resolved_beside(network, stop) == [alice.did] * 3


async def _resolved_beside(network: Network, stop: Stop) -> list[str]:
    """Resolve with a stop; return what two others found meanwhile, and what is found later."""
    found: list[str] = []

    async def resolve() -> None:
        found.append((await network.resolve(ALICE)).did)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def stopped() -> Account:
                for _ in range(2):
                    tasks.start_soon(resolve)
                return await network.resolve(ALICE)

            await stop.run(stopped)
        await resolve()
    return found


async def test_number_of_names_is_bounded(net: AtprotoNetwork, clock: TestClock) -> None:
    accounts = [net.add_account(f"n{number}.example.com") for number in range(4)]
    async with net.client() as client, net.network(client=client, keep_names=2) as network:
        for account in accounts:
            await network.resolve(account.did)
        paths(net)
        for account in reversed(accounts):
            await network.resolve(account.did)
        assert paths(net) == [f"plc.directory/{account.did}" for account in accounts[1::-1]]


async def test_document_counts_with_what_it_takes_in_memory(
    net: AtprotoNetwork, clock: TestClock
) -> None:
    alice = net.add_account(ALICE)
    alice.document = {**alice.document, "x": 20_000 * [[]]}  # 80 KB of JSON, 1.4 MB in memory
    options = {"clock": clock, "keep_names": 100}
    async with net.client() as client, net.network(client=client, **options) as network:
        for _ in range(2):
            await network.resolve(alice.did)
    assert paths(net) == 2 * [f"plc.directory/{alice.did}"]


# --- Tests of others ------------------------------------------------------------------------------


async def test_test_handles_are_known_to_a_server(net: AtprotoNetwork) -> None:
    alice = net.add_account("alice.test", by=None)
    options = {"allow_private": True, "handle_server": "https://pds.example.com/"}
    async with net.client() as client, net.network(client=client, **options) as network:
        for who in ("alice.test", alice.did):
            assert (await network.resolve(who, fresh=True)).handle == "alice.test"
        with pytest.raises(HandleNotFound, match="status 400 and no DID"):
            await network.resolve("bob.test")
        assert looked_up(net) == []
        with pytest.raises(HandleNotFound, match="no TXT record"):
            await network.resolve(ALICE)  # which is in the DNS, if anywhere
    query = "pds.example.com/xrpc/com.atproto.identity.resolveHandle"
    assert paths(net).count(query) == 3


async def test_server_of_handles_that_is_unreachable_is_temporary(net: AtprotoNetwork) -> None:
    options = {"allow_private": True, "handle_server": "https://nowhere.example.com"}
    async with net.network(client=None, **options) as network:
        with pytest.raises(HandleNotFound, match="could not be looked up: no answer") as caught:
            await network.resolve("alice.test")
    assert caught.value.temporary


async def test_test_handles_can_be_in_the_dns_of_a_test(net: AtprotoNetwork) -> None:
    alice = net.add_account("alice.test")
    async with net.client() as client, net.network(client=client, allow_private=True) as network:
        assert (await network.resolve("alice.test")).did == alice.did


@pytest.mark.both_loops
async def test_network_of_plain_urls_needs_allow_private() -> None:
    with AtprotoNetwork(plain=True) as net:
        alice = net.add_account(ALICE)
        options: Any = {"directory": net.directory, "resolver": net.resolver}
        async with Network(**options) as network:
            with pytest.raises(AddressRefused, match="only https is used"):
                await network.resolve(ALICE)
        async with Network(**options, allow_private=True) as network:
            assert (await network.resolve(ALICE)).did == alice.did


async def test_directory_may_have_a_path_and_a_slash(net: AtprotoNetwork) -> None:
    async with (
        net.client() as client,
        net.network(client=client, directory="https://plc.directory/copy/") as network,
    ):
        assert network.directory == "https://plc.directory/copy"
        with pytest.raises(DidNotFound):
            await network.resolve(NOBODY)
    assert paths(net) == [f"plc.directory/copy/{NOBODY}"]


async def test_unreachable_directory_is_an_error(net: AtprotoNetwork) -> None:
    async with (
        net.client() as client,
        net.network(client=client, directory="https://away.example.com") as network,
    ):
        with pytest.raises(ServerUnreachable, match=r"https://away\.example\.com/did:plc:"):
            await network.resolve(NOBODY)


# --- The client -----------------------------------------------------------------------------------


async def test_client_of_a_caller_stays_open(net: AtprotoNetwork) -> None:
    net.add_account(ALICE)
    async with net.client() as client:
        async with net.network(client=client) as network:
            await network.resolve(ALICE)
        assert not client.is_closed
        assert (await client.get("https://pds.example.com/")).status_code == 501


OF_HTTPX = [
    f"repo_stream.network.{name}" for name in ("connecting", "peers", "sending", "transport")
]


async def test_httpx_is_asked_for_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules]:
        if module.partition(".")[0] in {"httpx", "httpcore"} or module in OF_HTTPX:
            monkeypatch.delitem(sys.modules, module)
    for module in ("httpx", "httpcore"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in OF_HTTPX:
        monkeypatch.delattr(module)
    with pytest.raises(MissingExtra, match=r"'httpx' .*\[network\]"):
        Network()


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"directory": "plc.directory"}, ValueError, "directory must be a URL"),
        ({"directory": b"https://x"}, TypeError, "directory must be a URL"),
        ({"client": httpx.Client}, TypeError, r"an httpx\.AsyncClient"),
        ({"client": "https://x"}, TypeError, r"an httpx\.AsyncClient"),
        ({"resolver": object()}, TypeError, "`txt` and `addresses`"),
        ({"handle_server": "https://x"}, ValueError, "needs allow_private=True"),
        ({"handle_server": "x", "allow_private": True}, ValueError, "handle_server must be a URL"),
        ({"allow_private": "no"}, TypeError, "allow_private must be True or False"),
        ({"patience": -1}, ValueError, "patience must not be negative"),
        ({"keep_seconds": float("nan")}, ValueError, "keep_seconds must be a number of seconds"),
        ({"keep_errors_seconds": "1"}, TypeError, "keep_errors_seconds must be a number"),
        ({"keep_names": 1.5}, TypeError, "keep_names must be a whole number"),
    ],
    ids=[
        "directory no URL",
        "directory bytes",
        "client class",
        "client URL",
        "resolver object",
        "handle server not private",
        "handle server no URL",
        "private text",
        "patience negative",
        "keep NaN",
        "keep errors text",
        "keep names float",
    ],
)
def test_arguments_are_checked(options: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        Network(**options)


@pytest.mark.parametrize("who", [None, b"alice.example.com", 7])
async def test_who_is_a_text(network: Network, who: Any) -> None:
    with pytest.raises(TypeError, match="who must be a handle, a DID or an at:// URI"):
        await network.resolve(who)
