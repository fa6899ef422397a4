"""Downloads: redirects, errors by name, slow and broken ones, backpressure, cancellation."""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count

import anyio
import httpx
import pytest
from backports import zstd

from repo_stream import (
    AddressRefused,
    DownloadBroken,
    RateLimited,
    RepoNotFound,
    RepoTakendown,
    ServerFailed,
    ServerUnreachable,
    TooManyRedirects,
    TooSlow,
    open_car,
)
from repo_stream.network.web import Clock, Download, Web
from repo_stream.testing import build_car
from support.cancelling import every_stop, in_every_way, in_two_ways
from support.faulty_server import (
    PATIENCE,
    FakeClock,
    FaultyServer,
    Handler,
    Visit,
    client_of,
    serving,
)
from support.stores import becomes

HOST = "https://pds.example.com"
DID = "did:plc:abc"
KIB = 1 << 10
MIB = 1 << 20
BODY = random.Random(1).randbytes(300_000)

#: As much as the buffers of a connection and of the client may take, on any system.
BUFFERS = 16 * MIB


def status(code: int, *headers: tuple[str, str], body: bytes = b"") -> Handler:
    return lambda visit: visit.answer(code, body, headers)


def whole(visit: Visit) -> None:
    visit.answer(200, BODY, [("Content-Type", "text/plain")])


def endless(visit: Visit) -> None:
    visit.begin(200)
    while visit.send(bytes(64 * KIB)):
        pass


async def read(download: Download) -> bytes:
    return b"".join([piece async for piece in download])


async def read_into(got: bytearray, download: Download) -> None:
    async for piece in download:
        got += piece


@asynccontextmanager
async def downloading(
    server: FaultyServer, *, clock: Clock | None = None, did: str | None = None
) -> AsyncGenerator[Download]:
    params = {} if did is None else {"did": did}
    async with client_of(server) as client:
        web = Web(client, clock=clock)
        async with web.stream(HOST, params=params) as download:
            yield download


async def downloaded(server: FaultyServer, *, did: str | None = None) -> bytes:
    async with downloading(server, did=did) as download:
        return await read(download)


# --- The body -------------------------------------------------------------------------------------

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


@pytest.mark.both_loops
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("framing", ["length", "chunked", "until closed"])
async def test_body_comes_in_pieces_whatever_its_encoding_and_framing(
    encoding: str, framing: str
) -> None:
    body = ENCODINGS[encoding](BODY)

    def answer(visit: Visit) -> None:
        headers = [("Content-Encoding", encoding)]
        match framing:
            case "length":
                visit.answer(200, body, headers)
            case "chunked":
                visit.begin(200, [*headers, ("Transfer-Encoding", "chunked")])
                for at in range(0, len(body), 5000):
                    piece = body[at : at + 5000]
                    visit.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                visit.send(b"0\r\n\r\n")
            case _:
                visit.begin(200, [*headers, ("Connection", "close")])
                visit.send(body)
                visit.connection.close()

    with serving(answer) as server:
        async with downloading(server) as download:
            pieces = [piece async for piece in download]
            assert [piece async for piece in download] == []
            assert download.received == len(body)
            assert (download.url, download.status) == (HOST, 200)
    assert b"".join(pieces) == BODY
    assert all(0 < len(piece) <= 64 * KIB for piece in pieces)


async def test_download_is_a_source_of_open_car() -> None:
    car = build_car({f"com.example.a/{n}": {"n": n} for n in range(100)})
    with serving(status(200, ("Content-Encoding", "gzip"), body=gzip.compress(car))) as server:
        async with downloading(server) as download, open_car(download) as repo:
            assert len([key async for key, _ in repo]) == 100


def bomb(visit: Visit) -> None:
    visit.answer(200, gzip.compress(bytes(64 * MIB), 9), [("Content-Encoding", "gzip")])


def tiny_chunks(visit: Visit) -> None:
    """An answer of many chunks, of which thousands are read from the connection at once."""
    visit.begin(200, [("Transfer-Encoding", "chunked")])
    visit.send(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")


def tiny_chunks_of_nothing(visit: Visit) -> None:
    """An answer of many chunks that are nothing when they are decoded: a name of a file."""
    head = gzip.compress(b"")[:3] + b"\x08" + bytes(6)
    visit.begin(200, [("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")])
    visit.send(b"a\r\n" + head + b"\r\n" + b"1\r\nx\r\n" * 5000)
    visit.send(b"b\r\n\0" + gzip.compress(b"", mtime=0)[10:] + b"\r\n0\r\n\r\n")


def empty_members(visit: Visit) -> None:
    """An answer of many members that are nothing when they are decoded, all in a few pieces."""
    visit.answer(200, gzip.compress(b"", mtime=0) * 5000, [("Content-Encoding", "gzip")])


@pytest.mark.parametrize(
    ("answer", "size", "least"),
    [
        (bomb, 64 * MIB, 900),
        (tiny_chunks, 5000, 4000),
        (tiny_chunks_of_nothing, 0, 4000),
        (empty_members, 0, 4000),
    ],
    ids=["bomb", "tiny chunks", "tiny chunks of nothing", "empty members"],
)
async def test_long_work_of_a_download_lets_other_tasks_run(
    answer: Handler, size: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)  # so that it pauses wherever it may
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    taken = 0
    with serving(answer) as server:
        async with downloading(server) as download, anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            async for piece in download:
                assert len(piece) <= 64 * KIB
                taken += len(piece)
            tasks.cancel_scope.cancel()
    assert taken == size
    assert turns > least


async def test_empty_body_has_no_pieces() -> None:
    with serving(status(200, ("Content-Encoding", "gzip"))) as server:
        assert await downloaded(server) == b""


# --- Redirects ------------------------------------------------------------------------------------


async def test_five_redirects_are_followed_and_no_more() -> None:
    def chain(visit: Visit) -> None:
        at = int(visit.target.removeprefix("/"))
        if at == 0:
            whole(visit)
        else:
            location = f"https://host{at}.example.com/{at - 1}"
            visit.answer(302, b"moved", [("Location", location)])

    with serving(chain) as server:
        async with client_of(server) as client:
            async with Web(client).stream(f"{HOST}/5") as download:
                assert await read(download) == BODY
                assert download.url == "https://host1.example.com/0"
            with pytest.raises(TooManyRedirects, match="no more than 5"):
                async with Web(client).stream(f"{HOST}/6"):
                    pass
    assert [visit.headers["host"] for visit in server.visits[:6]] == [
        "pds.example.com",
        *(f"host{at}.example.com" for at in (5, 4, 3, 2, 1)),
    ]


@pytest.mark.parametrize(
    "location",
    ["http://pds.example.com/", "https://127.0.0.1/", "https://pds.example.com:2583/"],
)
async def test_redirect_to_where_a_stranger_may_not_lead_is_refused(location: str) -> None:
    with serving(status(307, ("Location", location))) as server, pytest.raises(AddressRefused):
        await downloaded(server)
    assert len(server.visits) == 1


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 404, 503])
async def test_error_that_the_server_names_is_raised_at_once(code: int) -> None:
    body = b'{"error": "RepoTakendown", "message": "It was bad."}'
    with serving(status(code, body=body)) as server, pytest.raises(RepoTakendown) as caught:
        await downloaded(server, did=DID)
    assert vars(caught.value) == {"did": DID, "server": HOST, "said": "It was bad."}
    assert server.visits[0].target == "/?did=did%3Aplc%3Aabc"
    assert len(server.visits) == 1


async def test_compressed_error_is_read() -> None:
    body = gzip.compress(b'{"error": "RepoNotFound", "message": "no"}')
    answer = status(400, ("Content-Encoding", "gzip"), body=body)
    with serving(answer) as server, pytest.raises(RepoNotFound):
        await downloaded(server, did=DID)


async def test_error_with_an_endless_body_is_cut() -> None:
    def answer(visit: Visit) -> None:
        visit.begin(400)
        while visit.send(b"x" * 1000):
            pass

    with serving(answer) as server, pytest.raises(ServerFailed) as caught:
        await downloaded(server)
    assert caught.value.body == "x" * 1000


@pytest.mark.parametrize("code", [201, 204, 206, 304, 302])
async def test_status_other_than_200_is_a_failure(code: int) -> None:
    with serving(status(code)) as server, pytest.raises(ServerFailed) as caught:
        await downloaded(server)
    assert caught.value.status == code


async def test_busy_server_is_asked_again_until_patience_is_used_up() -> None:
    turn = count()

    def answer(visit: Visit) -> None:
        status(429, ("Retry-After", "20"))(visit) if next(turn) < 3 else whole(visit)

    with serving(answer) as server:
        async with client_of(server) as client:
            clock = FakeClock()
            async with Web(client, clock=clock, patience=60).stream(HOST) as download:
                assert await read(download) == BODY
            assert clock.slept == [20, 20, 20]
            turn, clock = count(), FakeClock()
            with pytest.raises(RateLimited) as caught:
                async with Web(client, clock=clock, patience=59).stream(HOST):
                    pass
            assert clock.slept == [20, 20]
    assert caught.value.retry_after == 20


@pytest.mark.both_loops
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_download_that_breaks_off_is_an_error_that_stays(*, chunked: bool) -> None:
    def answer(visit: Visit) -> None:
        how = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "300000")
        visit.begin(200, [how])
        visit.send(b"10000\r\n" * chunked + BODY[:1000])
        visit.connection.close()

    got = bytearray()
    with serving(answer) as server:
        async with downloading(server) as download:
            for _ in range(3):
                with pytest.raises(DownloadBroken, match="peer closed connection") as caught:
                    await read_into(got, download)
                assert (caught.value.url, caught.value.received) == (HOST, 1000)
    assert got == BODY[:1000]


@pytest.mark.parametrize("fault", ["cut", "damaged", "unknown", "followed"])
async def test_body_that_cannot_be_decoded_is_an_error_that_stays(fault: str) -> None:
    body = gzip.compress(BODY)
    body = {
        "cut": body[:-1],
        "damaged": body[:-8] + bytes(8),
        "unknown": body,
        "followed": body + b"<html>",
    }[fault]
    encoding = "br" if fault == "unknown" else "gzip"
    with serving(status(200, ("Content-Encoding", encoding), body=body)) as server:
        async with downloading(server) as download:
            for _ in range(2):
                with pytest.raises(DownloadBroken):
                    await read(download)


@pytest.mark.both_loops
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_error_is_told_by_its_name_whatever_the_status(encoding: str) -> None:
    body = ENCODINGS[encoding](b'{"error": "RepoTakendown", "message": "no"}')
    with serving(status(200, ("Content-Encoding", encoding), body=body)) as server:
        async with downloading(server, did=DID) as download:
            for _ in range(2):
                with pytest.raises(RepoTakendown) as caught:
                    await read(download)
                assert caught.value.did == DID


@pytest.mark.parametrize(
    "body",
    [b"{", b"{" + BODY, b'{"error": 1}', b'{"errors": "RepoTakendown"}', b'{"error": ""}' + BODY],
    ids=["brace", "like a header", "number", "other JSON", "more"],
)
async def test_body_that_only_begins_like_an_error_comes_whole(body: bytes) -> None:
    with serving(status(200, body=body)) as server:
        assert await downloaded(server, did=DID) == body


# --- Speed ----------------------------------------------------------------------------------------


class HastyClock(FakeClock):
    """Whenever it is asked, almost as much time has passed as a server may be slow for."""

    def now(self) -> float:
        self._now += 29.8
        return super().now()


@pytest.mark.both_loops
async def test_server_that_stops_is_given_up_and_left() -> None:
    def answer(visit: Visit) -> None:
        visit.begin(200)
        visit.send(BODY[:5000])
        visit.wait_until_left()

    got = bytearray()
    with serving(answer) as server:
        async with downloading(server, clock=HastyClock()) as download:
            with anyio.fail_after(PATIENCE), pytest.raises(TooSlow) as caught:
                await read_into(got, download)
            assert await becomes(server.visits[0].left.is_set)
            with pytest.raises(TooSlow):
                await anext(download)
            assert (caught.value.url, caught.value.received) == (HOST, 5000)
            assert caught.value.seconds == 30
    assert got == BODY[:5000]


@pytest.mark.both_loops
async def test_server_that_trickles_is_given_up() -> None:
    def answer(visit: Visit) -> None:
        visit.begin(200)
        while not visit.left.wait(0.01) and visit.send(b"x"):
            pass

    with serving(answer) as server, anyio.fail_after(PATIENCE):
        async with downloading(server, clock=HastyClock()) as download:
            with pytest.raises(TooSlow):
                await read(download)


async def test_slow_reader_does_not_make_the_server_slow() -> None:
    got, clock = bytearray(), FakeClock()
    with serving(whole) as server:
        async with downloading(server, clock=clock) as download:
            async for piece in download:
                got += piece
                await clock.sleep(40)
    assert got == BODY


# --- Backpressure and cancellation ----------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_reader_that_stops_stops_the_server(encoding: str) -> None:
    noise = gzip.compress(random.Random(2).randbytes(64 * KIB))

    def answer(visit: Visit) -> None:
        visit.begin(200, [("Content-Encoding", encoding)])
        while visit.send(noise):
            pass

    with serving(answer) as server:
        async with downloading(server) as download:
            await anext(download)
            visit = server.visits[0]
            assert await becomes(visit.stopped.is_set)
            sent = visit.sent
            assert sent < BUFFERS
            while download.received <= sent:  # and goes on
                await anext(download)


@pytest.mark.both_loops
@pytest.mark.parametrize("how", ["break", "error", "scope"])
async def test_download_that_is_left_is_left_at_once(how: str) -> None:
    with serving(endless) as server:
        async with client_of(server) as client:
            with anyio.CancelScope() as scope, suppress(ValueError):
                async with Web(client).stream(HOST) as download:
                    async for _ in download:
                        if how == "break":
                            break
                        if how == "error":
                            int("an error")
                        scope.cancel()
            assert await becomes(server.visits[0].left.is_set)
            assert await becomes(lambda: server.open == 0)


@pytest.mark.both_loops
async def test_waiting_for_the_server_can_be_cancelled() -> None:
    def answer(visit: Visit) -> None:
        visit.begin(200)
        visit.send(b"first")
        visit.wait_until_left()

    with serving(answer) as server:
        async with downloading(server) as download:
            assert await anext(download) == b"first"
            with anyio.move_on_after(0.05):
                await anext(download)
            assert await becomes(server.visits[0].left.is_set)
            with pytest.raises(DownloadBroken, match="reading it was cancelled"):
                await anext(download)


@in_every_way
async def test_cancelled_download_leaves_no_connection(how: str) -> None:
    body = gzip.compress(BODY)

    def answer(visit: Visit) -> None:
        match next(turn):
            case 0:
                visit.answer(307, b"", [("Location", "/there"), ("Connection", "close")])
            case 1:
                visit.answer(503, b"{}", [("Connection", "close")])
            case _:
                visit.begin(200, [("Content-Encoding", "gzip"), ("Connection", "close")])
                visit.send(body)
        visit.connection.close()

    async def download() -> bytes:
        async with web.stream(HOST) as coming:
            return await read(coming)

    with serving(answer) as server:
        async with client_of(server) as client:
            web = Web(client, clock=FakeClock())
            for stop in every_stop(how, at_least=10):
                turn = count()
                result = await stop.run(download)
                assert result in ([], [BODY])
                assert await becomes(lambda: server.open == 0)


@in_two_ways
async def test_download_that_is_left_and_cancelled_leaves_no_connection(how: str) -> None:
    def answer(visit: Visit) -> None:
        visit.begin(200)
        while visit.send(bytes(1000)):
            pass

    async def begin() -> bytes:
        async with web.stream(server.url) as download:
            return await anext(download)

    with serving(answer) as server:
        for stop in every_stop(how, at_least=5):
            async with httpx.AsyncClient() as client:  # with the pool of httpcore
                web = Web(client, allow_private=True)
                await stop.run(begin)
                assert await becomes(lambda: server.open == 0)


async def test_callers_client_can_be_used_after_downloads_that_were_left() -> None:
    with serving(endless) as server:
        async with client_of(server) as client:
            for _ in range(20):
                async with Web(client).stream(HOST) as download:
                    await anext(download)
            assert await becomes(lambda: server.open == 0)
            assert not client.is_closed


async def test_client_with_no_free_connection_is_not_a_slow_server() -> None:
    with serving(endless) as server:
        few = httpx.AsyncClient(limits=httpx.Limits(max_connections=1), trust_env=False)
        async with few as client, Web(client, allow_private=True).stream(server.url):
            with pytest.raises(ServerUnreachable, match=r"client are in use.*httpx\.Limits"):
                await Web(client, allow_private=True, slow_after=1).document(server.url)
        assert len(server.visits) == 1
