"""`open_repo`, `get_record` and `Network` against a reference PDS and directory.

They run if `REPO_STREAM_PDS_NET` names them; see `support.pds`. What a repo has is what the server
itself lists, record by record, by value and by CID.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Unpack

import anyio.lowlevel
import httpx
import pytest
from anyio.to_thread import run_sync

from repo_stream import (
    AddressRefused,
    BadSignature,
    DidNotFound,
    DidTombstoned,
    HandleNotFound,
    Network,
    NetworkError,
    NoServer,
    NoSigningKey,
    NothingNew,
    Output,
    RateLimited,
    Repo,
    RepoDeactivated,
    RepoNotFound,
    RepoTakendown,
    TornExport,
    get_record,
    join_cars,
    load_commit,
    open_car,
    open_repo,
    process,
)
from repo_stream.network.keywords import RepoKeywords
from repo_stream.testing import SigningKey
from support.cli import command, lines
from support.pds import PdsAccount, PdsNet, created, deleted, updated

NET = PdsNet()

Records = dict[str, tuple[str, object]]


def new_network(client: httpx.AsyncClient | None = None, **options: Any) -> Network:
    return Network(
        client,
        directory=NET.directory,
        handle_server=NET.first,
        allow_private=True,
        **options,
    )


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with new_network() as network:
        yield network


async def records_of(repo: Repo[str]) -> Records:
    """The records of a repo that is opened with `atproto_json`, in the form of `PdsNet.records`."""
    return {each.key: (str(each.cid), json.loads(each.value)) async for each in repo.outputs()}


async def fetched(who: str, **options: Unpack[RepoKeywords]) -> Records:
    async with open_repo(who, block_processor=process.atproto_json, **options) as repo:
        return await records_of(repo)


def files_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


# --- A large account ------------------------------------------------------------------------------

POSTS, LIKES = "com.example.post", "com.example.like"
ODD_KEYS = (
    "com.example.odd/self",
    "com.example.odd/a:b.c_d-e~f",
    "com.example.odd/~",
    "com.example.odd/-",
    "com.example.odd/0",
    f"com.example.odd/{'x' * 512}",
    "com.example.OddCase/A",
    "com.example.oddCase/a",
    "com.example.odd.deeper.still.name/a",
)


@pytest.fixture(scope="module")
def large() -> PdsAccount:
    """An account of 4,000 records in 25 commits, after deletions and updates."""
    account = NET.add_account("large")
    blob = account.upload(b"a blob")
    account.write(
        *(created(f"{POSTS}/{n:05}", text=f"post {n} \u2713", n=n) for n in range(2200)),
        *(created(f"{LIKES}/{n:05}", subject={"cid": n % 7}, text=None) for n in range(2000)),
        *(created(key, nested=[{"a": [1, -1, 2**53 - 1, True]}, ""]) for key in ODD_KEYS),
        created("com.example.blob/a", image=blob),
        created("com.example.blob/b", image=blob, link=blob["ref"], data={"$bytes": "AAEC"}),
        *(deleted(f"{POSTS}/{n:05}") for n in range(0, 2200, 10)),
        *(updated(f"{POSTS}/{n:05}", text="updated", n=n) for n in range(1, 2200, 20)),
    )
    return account


@pytest.mark.both_loops
async def test_all_records_are_those_that_the_server_lists(
    large: PdsAccount, network: Network
) -> None:
    expected = NET.records(large.did)
    assert len(expected) == 2200 - 220 + 2000 + len(ODD_KEYS) + 2
    async with open_repo(
        large.handle, network=network, block_processor=process.atproto_json
    ) as repo:
        assert repo.account.did == repo.commit.did == large.did
        assert repo.account.handle == large.handle
        assert repo.account.pds == NET.first
        assert repo.signed_by == repo.account.signing_key
        found = await records_of(repo)
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize("name", ["{did}", "at://{did}", "at://{handle}"])
async def test_all_names_of_an_account_lead_to_its_records(
    large: PdsAccount, network: Network, name: str
) -> None:
    who = name.format(did=large.did, handle=large.handle)
    assert await fetched(who, network=network) == NET.records(large.did)


async def test_all_records_come_out_beyond_the_memory_limit(
    large: PdsAccount, network: Network
) -> None:
    assert await fetched(large.did, network=network, mem_limit_mb=0) == NET.records(large.did)


async def test_uri_of_a_collection_or_a_record_narrows_the_walk(
    large: PdsAccount, network: Network
) -> None:
    expected = NET.records(large.did)
    for part in (LIKES, "com.example.odd", *ODD_KEYS):
        whole = part if "/" in part else f"{part}/"
        some = {key: it for key, it in expected.items() if key == part or key.startswith(whole)}
        if "/" in part:
            some = {part: expected[part]}
        assert await fetched(f"at://{large.handle}/{part}", network=network) == some, part


async def test_shared_records_have_one_cid_and_all_their_keys(
    large: PdsAccount, network: Network
) -> None:
    likes = await fetched(f"at://{large.did}/{LIKES}", network=network)
    assert len(likes) == 2000
    assert len({cid for cid, _ in likes.values()}) == 7


async def test_single_records_come_with_their_proof(large: PdsAccount, network: Network) -> None:
    expected = NET.records(large.did)
    keys = [*ODD_KEYS, *random.Random(0).sample(sorted(expected), 40)]
    for key in keys:
        record = await get_record(f"at://{large.handle}/{key}", network=network)
        assert isinstance(record, Output)
        assert record.key == key
        assert (str(record.cid), process.json_value(record.value)) == expected[key]
    for key in (f"{POSTS}/00000", f"{POSTS}/99999", "com.example.nothing/self"):
        assert await get_record(f"at://{large.did}/{key}", network=network) is None


async def test_kept_car_has_the_same_records(
    large: PdsAccount, network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "kept.car"
    expected = await fetched(large.did, network=network, keep=path)
    assert files_in(tmp_path) == ["kept.car"]
    async with open_car(path, block_processor=process.atproto_json) as repo:
        assert await records_of(repo) == expected == NET.records(large.did)


# --- Since ----------------------------------------------------------------------------------------


async def test_slice_since_a_rev_brings_a_kept_car_up_to_date(
    network: Network, tmp_path: Path
) -> None:
    account = NET.add_account("since")
    account.write(*(created(f"{POSTS}/{n:05}", n=n) for n in range(1000)))
    whole, part = tmp_path / "whole.car", tmp_path / "part.car"
    await fetched(account.did, network=network, keep=whole)
    rev = (await load_commit(whole)).rev
    account.write(
        *(deleted(f"{POSTS}/{n:05}") for n in range(0, 1000, 7)),
        *(updated(f"{POSTS}/{n:05}", n=-n) for n in range(1, 1000, 7)),
        *(created(f"{LIKES}/{n:05}", n=n) for n in range(300)),
    )
    async with open_repo(account.did, network=network, since=rev, keep=part) as repo:
        assert repo.commit.rev > rev
        await repo.read_all()
    assert part.stat().st_size < whole.stat().st_size
    async with (
        join_cars(whole, part) as joined,
        open_car(joined, block_processor=process.atproto_json) as repo,
    ):
        assert await records_of(repo) == NET.records(account.did)


async def test_slices_bring_a_kept_car_through_a_random_history(
    network: Network, tmp_path: Path
) -> None:
    account = NET.add_account("random")
    dice = random.Random(3)
    keys = [f"com.example.{name}/{n:03}" for name in "abc" for n in range(400)]
    kept, part, joined = (tmp_path / name for name in ("kept.car", "part.car", "joined.car"))
    there: set[str] = set()
    for at in range(15):
        writes: list[dict[str, object]] = []
        for key in dice.sample(keys, dice.choice([1, 10, 200])):
            if key not in there:
                writes.append(created(key, n=dice.randrange(5)))
                there.add(key)
            elif dice.random() < 0.5:
                writes.append(updated(key, at=at))
            else:
                writes.append(deleted(key))
                there.remove(key)
        account.write(*writes)
        if not kept.exists():
            assert await fetched(account.did, network=network, keep=kept) == NET.records(
                account.did
            )
            continue
        rev = (await load_commit(kept)).rev
        async with open_repo(account.did, network=network, since=rev, keep=part) as changes:
            await changes.read_all()
        async with join_cars(kept, part) as car:
            joined.write_bytes(b"".join([piece async for piece in car]))
        joined.replace(kept)
        async with open_car(kept, block_processor=process.atproto_json) as repo:
            assert await records_of(repo) == NET.records(account.did), at
    rev = (await load_commit(kept)).rev
    with pytest.raises(NothingNew):
        async with open_repo(account.did, network=network, since=rev):
            pass


# --- A write during a download --------------------------------------------------------------------


class Held(httpx.AsyncBaseTransport):
    """Holds the first download after so many bytes, until something else was done."""

    def __init__(self, after: int, then: Callable[[], None]) -> None:
        self._after = after
        self._then: Callable[[], None] | None = then
        # Little is on its way, so most of the repo is still at the server.
        self._inner = httpx.AsyncHTTPTransport(
            trust_env=False, socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)]
        )
        self.downloads = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if request.url.path.endswith("sync.getRepo"):
            self.downloads += 1
            response.stream = HeldStream(self, response.stream)
        return response

    async def held(self, received: int) -> None:
        if received >= self._after and (then := self._then):
            self._then = None
            await run_sync(then)

    async def aclose(self) -> None:
        await self._inner.aclose()


class HeldStream(httpx.AsyncByteStream):
    def __init__(self, transport: Held, stream: Any) -> None:
        self._transport = transport
        self._stream = stream

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        received = 0
        async for piece in self._stream:
            yield piece
            received += len(piece)
            await self._transport.held(received)

    async def aclose(self) -> None:
        await self._stream.aclose()


NOISY = 3000
# The first record of a write: other ones each time, as new blocks are sent before it is held.
FIRST = count()


@pytest.fixture(scope="module")
def noisy() -> PdsAccount:
    """An account of 3,000 records that are long, and hardly to be compressed: 15 MB."""
    account = NET.add_account("noisy")
    noise = random.Random(1)
    records = {
        f"{POSTS}/{n:05}": {"$type": POSTS, "text": noise.randbytes(2500).hex(), "n": n}
        for n in range(NOISY)
    }
    account.import_records(records, at_once=NOISY // 4)
    account.write(created("com.example.first/self"))  # a commit that the server signs
    return account


@asynccontextmanager
async def held_network(account: PdsAccount, records: int) -> AsyncGenerator[tuple[Network, Held]]:
    """A network whose first download is held while an account updates records."""

    def write() -> None:
        some = range(next(FIRST), NOISY, NOISY // records)
        account.write(*(updated(f"{POSTS}/{n:05}", n=-n) for n in some))

    transport = Held(100_000, write)
    async with httpx.AsyncClient(transport=transport) as client, new_network(client) as network:
        yield network, transport


async def test_write_during_a_download_tears_it(noisy: PdsAccount, tmp_path: Path) -> None:
    async with held_network(noisy, 150) as (network, transport):
        with pytest.raises(TornExport):
            await fetched(noisy.did, network=network, keep=tmp_path / "torn.car", retries=0)
        assert transport.downloads == 1
    assert files_in(tmp_path) == []


@pytest.mark.both_loops
async def test_torn_download_is_healed_before_the_first_record(
    noisy: PdsAccount, tmp_path: Path
) -> None:
    path = tmp_path / "healed.car"
    async with held_network(noisy, 100) as (network, transport):
        found = await fetched(noisy.did, network=network, check_first=True, keep=path)
        assert transport.downloads == 2
    assert found == NET.records(noisy.did)
    async with open_car(path, block_processor=process.atproto_json) as repo:
        assert await records_of(repo) == found


# --- Accounts that are not to be had --------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("deactivated", RepoDeactivated),
        ("taken down", RepoTakendown),
        ("deleted", RepoNotFound),
    ],
)
async def test_server_says_why_a_repo_is_not_to_be_had(
    network: Network, state: str, error: type[NetworkError]
) -> None:
    account = NET.add_account("gone")
    account.write(created(f"{POSTS}/1"))
    assert len(await fetched(account.did, network=network)) == 1
    match state:
        case "deactivated":
            account.deactivate()
        case "taken down":
            NET.take_down(account.did)
        case _:
            NET.administer("deleteAccount", did=account.did)
    with pytest.raises(error):
        await fetched(account.did, network=network)
    with pytest.raises(error):
        await get_record(f"at://{account.did}/{POSTS}/1", network=network)


async def test_directory_says_why_a_did_leads_to_no_repo(network: Network) -> None:
    key = SigningKey.generate()
    whole = NET.operation(key)
    errors = {
        NET.register(whole, {"type": "plc_tombstone"}, key=key): DidTombstoned,
        NET.register(NET.operation(key, services={}), key=key): NoServer,
        NET.register(NET.operation(key, verificationMethods={}), key=key): NoSigningKey,
        NET.register(whole, key=key): RepoNotFound,
        "did:plc:abcdefghijklmnopqrstuvwx": DidNotFound,
        "nobody-at-all.test": HandleNotFound,
    }
    for who, error in errors.items():
        with pytest.raises(error):
            await fetched(who, network=network)


async def test_servers_on_this_machine_are_refused_unless_they_are_allowed(
    large: PdsAccount,
) -> None:
    async with Network(directory=NET.directory) as network:
        with pytest.raises(AddressRefused):
            await fetched(large.did, network=network)


# --- Keys and servers that change -----------------------------------------------------------------


async def test_new_key_is_found_past_what_is_kept(network: Network) -> None:
    account = NET.add_account("rotated")
    account.write(created(f"{POSTS}/1", n=1))
    before = await network.resolve(account.handle)
    NET.rotate_key(account.did)
    assert await network.resolve(account.handle) == before  # it is kept
    async with open_repo(account.handle, network=network) as repo:
        assert repo.account.signing_key == repo.signed_by != before.signing_key
        assert len([key async for key, _ in repo]) == 1


async def test_moved_account_is_signed_by_its_earlier_key_until_it_writes(
    network: Network,
) -> None:
    account = NET.add_account("moved")
    account.write(*(created(f"{POSTS}/{n:05}", n=n) for n in range(1000)))
    before = await network.resolve(account.did)
    moved = NET.move(account)

    with pytest.raises(BadSignature):
        await fetched(account.did, network=network)
    async with open_repo(
        account.did,
        network=network,
        earlier_keys=True,
        block_processor=process.atproto_json,
    ) as repo:
        assert repo.account.pds == NET.second
        assert repo.signed_by == before.signing_key != repo.account.signing_key
        assert await records_of(repo) == NET.records(account.did, NET.second)

    moved.write(created(f"{POSTS}/new"))
    async with open_repo(
        account.did, network=network, block_processor=process.atproto_json
    ) as repo:
        assert repo.signed_by == repo.account.signing_key
        found = await records_of(repo)
    assert found == NET.records(account.did, NET.second)
    assert len(found) == 1001


# --- Rate limits ----------------------------------------------------------------------------------


class Limited:
    """A client whose address the server believes: it is behind a proxy, which names another one."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._address = f"198.51.100.{random.randrange(256)}"
        self.client = httpx.AsyncClient(event_hooks={"request": [self._forward]}, trust_env=False)

    async def _forward(self, request: httpx.Request) -> None:
        request.headers["x-forwarded-for"] = self._address

    async def use_up(self) -> None:
        """Ask for a repo that is not there until the server answers no more."""
        url = f"{NET.second}/xrpc/com.atproto.sync.getRepo?did=did:plc:abcdefghijklmnopqrstuvwx"
        for _ in range(6001):
            if (await self.client.get(url)).status_code == 429:
                return
        raise AssertionError("the server has no rate limits")

    # The clock of a `Network`, by which time passes at once: the server counts another address.

    def now(self) -> float:
        return sum(self.slept)

    def date(self) -> float:
        return time.time() + sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._address = f"203.0.113.{random.randrange(256)}"
        await anyio.lowlevel.checkpoint()


@pytest.mark.long
async def test_rate_limit_is_told_or_waited_for() -> None:
    account = NET.add_account("limited", NET.second)
    account.write(created(f"{POSTS}/1"))
    limited = Limited()
    async with limited.client as client:
        await limited.use_up()
        async with new_network(client, patience=0) as network:
            with pytest.raises(RateLimited) as caught:
                await fetched(account.did, network=network)
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 300
        async with new_network(client, patience=600, clock=limited) as network:
            assert await fetched(account.did, network=network) == NET.records(
                account.did, NET.second
            )
        assert len(limited.slept) == 1
        assert 0 < limited.slept[0] <= 310


# --- The command ----------------------------------------------------------------------------------


def run(*arguments: str | Path) -> str:
    options = ["--plc", NET.directory, "--allow-private"]
    return subprocess.run(
        command(*arguments, *options), check=True, capture_output=True, text=True, timeout=100
    ).stdout


def exported(car: str | Path) -> Records:
    records = lines(run("export", car, "--json-form", "atproto"))
    return {
        f"{record['collection']}/{record['rkey']}": (record["cid"], record["value"])
        for record in records
    }


def test_command_exports_all_records_that_the_server_lists(large: PdsAccount) -> None:
    assert exported(large.did) == NET.records(large.did)


def test_command_keeps_a_verified_car_up_to_date(tmp_path: Path) -> None:
    account = NET.add_account("fetched")
    account.write(*(created(f"{POSTS}/{n:03}", n=n) for n in range(500)))
    kept = tmp_path / "kept.car"
    for n in range(3):
        run("fetch", account.did, "-o", kept)
        assert exported(kept) == NET.records(account.did)
        account.write(deleted(f"{POSTS}/{n:03}"), created(f"{LIKES}/{n}", n=n))
    found = {line.split()[0]: line for line in run("resolve", account.did).splitlines()}
    assert found["Server"].split()[1] == NET.first
    key = found["Key"].split()[1]
    assert f"{key}," in run("verify", account.did)
    run("verify", kept, "--key", key)
