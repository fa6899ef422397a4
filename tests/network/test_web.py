"""Documents: how they are asked for, where from, how large and slow they may be, and how often."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable

import anyio
import httpx
import pytest

from repo_stream import (
    AddressRefused,
    BadDocument,
    NetworkError,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    TooManyRedirects,
    TooSlow,
)
from repo_stream.network.web import Web
from support.cancelling import every_stop, in_two_ways
from support.faulty_server import (
    FakeClock,
    FaultyServer,
    Handler,
    Names,
    Visit,
    client_of,
    routes,
    serving,
)
from support.stores import becomes

MIB = 1 << 20
HOST = "https://pds.example.com"


def hello(visit: Visit) -> None:
    visit.answer(200, b"hello")


def to(location: str, status: int = 302) -> Handler:
    return lambda visit: visit.answer(status, b"elsewhere", [("Location", location)])


def status(code: int, *headers: tuple[str, str], body: bytes = b"") -> Handler:
    return lambda visit: visit.answer(code, body, headers)


def in_turn(*handlers: Handler) -> Handler:
    """Answer each request by the next of them, and by the last one for ever."""
    left = list(handlers)

    def handle(visit: Visit) -> None:
        handler = left.pop(0) if len(left) > 1 else left[0]
        handler(visit)

    return handle


# --- What is asked and answered -------------------------------------------------------------------


async def test_document_comes_with_its_status_headers_and_url() -> None:
    def answer(visit: Visit) -> None:
        visit.answer(404, b'{"message": "gone"}', [("X-Thing", "a"), ("x-thing", "b")])

    with serving(answer) as server:
        async with client_of(server) as client, Web(client) as web:
            reply = await web.document(f"{HOST}/a/b?c=d", params={"did": "did:web:a", "x": "ä&b"})
    assert (reply.status, reply.body) == (404, b'{"message": "gone"}')
    assert reply.headers["x-thing"] == "a, b"
    assert server.visits[0].target == "/a/b?c=d&did=did%3Aweb%3Aa&x=%C3%A4%26b"
    assert reply.url == f"{HOST}{server.visits[0].target}"


async def test_nothing_is_sent_but_what_is_needed() -> None:
    with serving(status(200, ("Set-Cookie", "session=1; Path=/"))) as server:
        async with Web(allow_private=True) as web:
            for _ in range(2):
                await web.document(server.url)
    for visit in server.visits:
        agent = visit.headers.pop("user-agent")
        assert agent.startswith("atproto-repo-stream/")
        assert visit.headers == {
            "host": f"127.0.0.1:{server.port}",
            "accept": "*/*",
            "accept-encoding": "gzip, deflate, zstd",
        }
        assert visit.method == "GET"


async def test_what_a_callers_client_sends_elsewhere_is_not_sent_to_strangers() -> None:
    with serving(to("/b")) as server:
        client = client_of(server)
        client.headers.update({"Authorization": "secret", "X-Mine": "secret"})
        client.cookies.set("session", "secret")
        client.auth = ("me", "secret")
        client.params = httpx.QueryParams(key="secret")
        client.base_url = "https://base.example.com/secret/"
        client.follow_redirects = True
        async with client:
            with pytest.raises(TooManyRedirects):
                await Web(client).document(f"{HOST}/a", redirects=1)
    assert [visit.target for visit in server.visits] == ["/a", "/b"]
    assert "secret" not in str([visit.headers for visit in server.visits])
    assert {visit.headers["host"] for visit in server.visits} == {"pds.example.com"}


async def test_cookies_of_strangers_are_not_put_into_a_callers_client() -> None:
    cookie = ("Set-Cookie", "session=theirs; Domain=.example.com; Path=/")
    with serving(status(200, cookie)) as server:
        async with client_of(server) as client:
            await Web(client).document(HOST)
            assert len(client.cookies) == 0
            await client.get(HOST)
            assert len(client.cookies) == 1


async def test_what_has_come_is_counted_while_it_comes() -> None:
    with serving(status(200, body=b"a body")) as server:
        async with Web(allow_private=True) as web:
            assert web.received == 0
            size = len((await web.document(server.url)).body)
            assert web.received == size > 0
            async with web.stream(server.url) as download:
                assert web.received == size
                assert b"".join([piece async for piece in download])
                assert web.received == 2 * size
            assert web.received == 2 * size


async def test_user_agent_of_a_callers_client_is_sent() -> None:
    with serving(hello) as server:
        async with client_of(server) as client:
            client.headers["User-Agent"] = "their-crawler/1.0"
            await Web(client).document(HOST)
    assert server.visits[0].headers["user-agent"] == "their-crawler/1.0"


@pytest.mark.both_loops
async def test_callers_client_is_not_closed_and_its_own_client_is() -> None:
    with serving(hello) as server:
        async with client_of(server) as client:
            async with Web(client) as web:
                await web.document(HOST)
            assert not client.is_closed
            assert (await client.get(HOST)).text == "hello"
        async with Web(allow_private=True) as web:
            await web.document(server.url)
            assert server.open == 1
        assert await becomes(lambda: server.open == 0)


async def test_connection_is_used_again() -> None:
    with serving(hello) as server:
        async with Web(allow_private=True) as web:
            ports: set[object] = set()
            for _ in range(3):
                await web.document(server.url)
                ports.add(server.visits[-1].connection.getpeername())
            assert len(ports) == 1


async def test_connection_that_the_server_closed_meanwhile_is_made_anew() -> None:
    def once(visit: Visit) -> None:
        if len(server.visits) == 2:
            return hang_up(visit)
        return hello(visit)

    with serving(once) as server:
        async with client_of(server) as client:
            for _ in range(2):
                assert (await Web(client).document(HOST)).body == b"hello"
    assert len(server.visits) == 3


def raw(data: bytes) -> Handler:
    def send(visit: Visit) -> None:
        visit.send(data)

    return send


def to_raw(location: bytes) -> Handler:
    return raw(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")


FLOOD = 60_000 * b"\x1b"
LONG = "https://pds.example.com/" + 9_000 * "a"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (raw(b"HTTP/1.1 " + FLOOD + b"\r\n\r\n"), ServerUnreachable),
        (raw(b"HTTP/1.1 200 OK\r\n" + FLOOD + b"\r\n\r\n"), ServerUnreachable),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + FLOOD + b"\r\n"),
            BadDocument,
        ),
        (status(200, ("Content-Encoding", 60_000 * "z"), body=b"x"), BadDocument),
        (to_raw(b"https://pds.example.com:" + 60_000 * b"9"), ServerUnreachable),
        (to_raw(b"https://pds.example.com/\x1b[31m"), ServerUnreachable),
        (to_raw(b"https://xn--0.example.com/"), ServerUnreachable),
        (to(LONG), TooManyRedirects),
        (in_turn(to(LONG), status(500, body=FLOOD)), BadDocument),
    ],
    ids=[
        "status line",
        "header line",
        "chunk",
        "encoding",
        "redirect to a long port",
        "redirect with control characters",
        "redirect to an invalid IDN",
        "redirect to a long URL",
        "long URL that is followed",
    ],
)
async def test_what_a_server_sends_in_the_wrong_place_is_told_in_short(
    answer: Handler, kind: type[NetworkError]
) -> None:
    redirects = 1 if kind is BadDocument else 0
    with serving(answer) as server:
        async with client_of(server) as client, Web(client, patience=0) as web:
            with pytest.raises(kind) as caught:
                await web.document(HOST, redirects=redirects)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert all(len(str(fact)) <= 2000 for fact in vars(caught.value).values())


@pytest.mark.parametrize("host", ["xn--0.example.com", "xn--a.xn--b"])
async def test_host_that_is_an_invalid_idn_is_not_asked(host: str) -> None:
    with serving(hello) as server:
        async with client_of(server) as client:
            with pytest.raises(BadDocument, match="is not a URL"):
                await Web(client).document(f"https://{host}/")
        assert server.visits == []


async def test_host_in_other_letters_is_shown_as_the_dns_has_it() -> None:
    with serving(hello) as server:
        names = Names(**{"xn--pple-43d.com": [["10.0.0.1"]]})
        async with client_of(server, names.addresses) as client:
            with pytest.raises(AddressRefused, match=r"to xn--pple-43d\.com \(10\.0\.0\.1\)"):
                await Web(client).document("https://xn--pple-43d.com/")
            with pytest.raises(AddressRefused, match=r"to xn--pple-43d\.com: "):
                await Web(client).document("https://xn--pple-43d.com:22/")


# --- Where it may go ------------------------------------------------------------------------------

REFUSED_URLS = {
    "https://169.254.169.254/latest": "a link-local address",
    "https://[::1]/": "an address of this machine",
    "https://[::ffff:10.0.0.1]/": "a private address",
    "https://2130706433/": "neither a host name nor an IP address",
    "https://localhost/": "a name of a local network",
    "http://pds.example.com/": "only https is used",
    "ftp://pds.example.com/": "only https is used",
    "file:///etc/passwd": "only https is used",
    "https://pds.example.com:8443/": "only the ports 80 and 443",
    "https://pds.example.com:22/": "only the ports 80 and 443",
    "https://user@pds.example.com/": "a user or a password",
    "https://user:password@pds.example.com/": "a user or a password",
    "https://pds.example.com\\@169.254.169.254/": "a user or a password",
}


@pytest.mark.parametrize("url", REFUSED_URLS)
@pytest.mark.parametrize("how", ["asked for", "redirected to"])
async def test_url_is_refused_before_anything_is_sent_there(url: str, how: str) -> None:
    with serving(to(url)) as server:
        async with client_of(server) as client:
            with pytest.raises(AddressRefused, match=REFUSED_URLS[url]) as caught:
                await Web(client).document(HOST if how == "redirected to" else url, redirects=5)
        can_be_allowed = not url.startswith(("ftp:", "file:")) and "@" not in url
        assert ("allow_private=True" in str(caught.value)) == can_be_allowed
    assert len(server.visits) == (how == "redirected to")


@pytest.mark.parametrize(
    "url", ["https://0177.0.0.1/", "https://[::1/", "https://a:b/", "https:///a", "//", "a\n", ""]
)
async def test_what_is_not_a_url_is_refused(url: str) -> None:
    with serving(to(url.strip())) as server:
        async with client_of(server) as client:
            with pytest.raises((BadDocument, AddressRefused)):
                await Web(client).document(url)
            if url.startswith("https://") and "///" not in url:
                with pytest.raises(ServerUnreachable, match="Invalid URL in location header"):
                    await Web(client).document(HOST, redirects=5)


async def test_redirect_to_a_name_with_a_private_address_is_refused() -> None:
    with serving(to("https://inside.example.com/")) as server:
        names = Names(pds_example_com=[["1.1.1.1"]], inside_example_com=[["192.168.1.1"]])
        async with client_of(server, names.addresses) as client:
            with pytest.raises(AddressRefused) as caught:
                await Web(client).document(HOST, redirects=1)
    assert (caught.value.host, caught.value.address) == ("inside.example.com", "192.168.1.1")
    assert len(server.visits) == 1


# --- Redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirect_of_a_document_is_not_followed(code: int) -> None:
    with serving(to("https://b.example.com/", code)) as server:
        async with client_of(server) as client:
            with pytest.raises(TooManyRedirects, match="none is followed") as caught:
                await Web(client).document(HOST)
    assert vars(caught.value) == {
        "url": HOST,
        "location": "https://b.example.com/",
        "maximum": 0,
    }
    assert len(server.visits) == 1


async def test_redirects_are_followed_as_often_as_allowed() -> None:
    def count(visit: Visit) -> None:
        at = int(visit.target.removeprefix("/").partition("?")[0])
        (hello if at == 5 else to(f"{at + 1}?x", 307))(visit)

    with serving(count) as server:
        async with client_of(server) as client:
            reply = await Web(client).document(f"{HOST}/0", redirects=5)
            assert (reply.body, reply.url) == (b"hello", f"{HOST}/5?x")
            with pytest.raises(TooManyRedirects, match="no more than 4 redirects"):
                await Web(client).document(f"{HOST}/0", redirects=4)


async def test_redirects_in_a_circle_come_to_an_end() -> None:
    with serving(routes(a=to("/b"), b=to("https://other.example.com/a"))) as server:
        async with client_of(server) as client:
            with pytest.raises(TooManyRedirects):
                await Web(client).document(f"{HOST}/a", redirects=5)
    assert len(server.visits) == 6


@pytest.mark.parametrize(
    ("code", "headers"),
    [(302, []), (304, []), (300, [("Location", "/b")])],
    ids=["302 without a location", "304", "300"],
)
async def test_status_of_no_redirect_is_an_answer(
    code: int, headers: Iterable[tuple[str, str]]
) -> None:
    with serving(status(code, *headers)) as server:
        async with client_of(server) as client:
            assert (await Web(client).document(HOST)).status == code


# --- How large it may be --------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": raw_deflate,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_document_of_a_mebibyte_is_read_and_a_larger_one_is_not(encoding: str) -> None:
    sizes = iter([MIB, MIB + 1])

    def answer(visit: Visit) -> None:
        body = ENCODINGS[encoding](bytes(next(sizes)))
        visit.answer(200, body, [("Content-Encoding", encoding)])

    with serving(answer) as server:
        async with client_of(server) as client:
            assert (await Web(client).document(HOST)).body == bytes(MIB)
            with pytest.raises(BadDocument, match="more than 1,048,576 bytes") as caught:
                await Web(client).document(HOST)
    assert caught.value.url == HOST


@pytest.mark.parametrize("chunked", [False, True], ids=["until closed", "chunked"])
async def test_endless_document_is_refused_while_it_comes(*, chunked: bool) -> None:
    def answer(visit: Visit) -> None:
        visit.begin(200, [("Transfer-Encoding", "chunked")] if chunked else [])
        while visit.send(b"10000\r\n" + bytes(1 << 16) + b"\r\n" if chunked else bytes(1 << 16)):
            pass

    with serving(answer) as server:
        async with client_of(server) as client:
            with pytest.raises(BadDocument, match="more than 2,048 bytes"):
                await Web(client).document(HOST, max_bytes=2048)
            assert await becomes(server.visits[0].left.is_set)


async def test_bomb_is_refused_while_it_is_decoded() -> None:
    bomb = gzip.compress(gzip.compress(bytes(1 << 28), 9), 9)
    inner = gzip.decompress(bomb)  # 256 MiB in 260 kB
    with serving(status(200, ("Content-Encoding", "gzip"), body=inner)) as server:
        async with client_of(server) as client:
            with pytest.raises(BadDocument, match="more than 1,048,576 bytes"):
                await Web(client).document(HOST)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip"])
async def test_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    with serving(status(200, ("Content-Encoding", encoding), body=b"abc")) as server:
        async with client_of(server) as client:
            with pytest.raises(BadDocument, match="was asked for"):
                await Web(client).document(HOST)


@pytest.mark.parametrize("fault", ["damaged", "cut"])
async def test_document_that_cannot_be_decoded_is_refused(fault: str) -> None:
    body = gzip.compress(b"hello" * 100)
    body = body[:-9] if fault == "cut" else body[:-8] + bytes(8)
    with serving(status(200, ("Content-Encoding", "gzip"), body=body)) as server:
        async with client_of(server) as client:
            with pytest.raises(BadDocument, match="gzip"):
                await Web(client).document(HOST)


# --- Servers that fail ----------------------------------------------------------------------------


def hang_up(visit: Visit) -> None:
    visit.connection.close()


def cut(visit: Visit) -> None:
    visit.begin(200, [("Content-Length", "100")])
    visit.send(b"too little")
    hang_up(visit)


def not_http(visit: Visit) -> None:
    visit.send(b"SSH-2.0-OpenSSH\r\n\r\n")


def endless_headers(visit: Visit) -> None:
    visit.send(b"HTTP/1.1 200 OK\r\n")
    while visit.send(b"X: " + b"x" * 1000 + b"\r\n"):
        pass


@pytest.mark.parametrize("fault", [hang_up, not_http, endless_headers])
async def test_server_that_does_not_answer_is_unreachable(fault: Handler) -> None:
    with serving(fault) as server:
        async with client_of(server) as client:
            with pytest.raises(ServerUnreachable) as caught:
                await Web(client).document(HOST)
    assert caught.value.url == HOST
    assert caught.value.reason


async def test_host_without_an_address_and_closed_port_are_unreachable() -> None:
    with serving(hello) as server:
        async with client_of(server, Names().addresses) as client:
            with pytest.raises(ServerUnreachable, match="its address is not known: no such name"):
                await Web(client).document(HOST)
    async with Web(allow_private=True) as web:
        with pytest.raises(ServerUnreachable):
            await web.document(server.url)


async def test_document_that_breaks_off_is_refused() -> None:
    with serving(cut) as server:
        async with client_of(server) as client:
            with pytest.raises(BadDocument, match="without sending complete message body"):
                await Web(client).document(HOST)


# --- Servers that are slow ------------------------------------------------------------------------


def silent(visit: Visit) -> None:
    visit.wait_until_left()


def headers_only(visit: Visit) -> None:
    visit.begin(200, [("Content-Length", "100")])
    visit.wait_until_left()


def trickle_of_headers(visit: Visit) -> None:
    visit.send(b"HTTP/1.1 200 OK\r\n")
    while not visit.left.wait(0.02) and visit.send(b"X: y\r\n"):
        pass


def trickle(visit: Visit) -> None:
    visit.begin(200, [("Content-Length", "100000")])
    while not visit.left.wait(0.02) and visit.send(b"x"):
        pass


@pytest.mark.both_loops
@pytest.mark.parametrize("fault", [silent, headers_only, trickle_of_headers, trickle])
async def test_slow_server_is_given_up_and_left(fault: Handler) -> None:
    with serving(fault) as server:
        async with client_of(server) as client:
            with anyio.fail_after(20), pytest.raises(TooSlow) as caught:
                await Web(client, slow_after=0.1).document(HOST)
            assert await becomes(lambda: server.open == 0)
    assert caught.value.url == HOST


# --- Servers that are busy ------------------------------------------------------------------------


async def asked(
    server: FaultyServer, clock: FakeClock, *, patience: float = 60
) -> list[float] | Exception:
    """Ask for a document; how long was waited, or the error after that."""
    async with client_of(server) as client:
        try:
            await Web(client, clock=clock, patience=patience).document(HOST)
        except (RateLimited, ServerFailed) as error:
            return error
    return clock.slept


@pytest.mark.both_loops
@pytest.mark.parametrize("code", [429, 500, 502, 503, 504, 599])
async def test_busy_server_is_asked_again(code: int) -> None:
    with serving(in_turn(status(code), status(code), status(code), hello)) as server:
        assert await asked(server, FakeClock()) == [0.5, 1, 2]
    assert len(server.visits) == 4


async def test_busy_server_is_asked_again_when_it_says() -> None:
    answers = [
        status(429, ("Retry-After", "7")),
        status(503, ("Retry-After", "Fri, 15 Jan 2027 08:00:17 GMT")),
        status(429, ("RateLimit-Reset", "1800000025"), ("RateLimit-Remaining", "0")),
        hello,
    ]
    with serving(in_turn(*answers)) as server:
        assert await asked(server, FakeClock()) == [7, 10, 8]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 501])
async def test_other_status_is_final(code: int) -> None:
    with serving(status(code, ("Retry-After", "1"))) as server:
        clock = FakeClock()
        failed = await asked(server, clock)
    assert (type(failed) is ServerFailed) == (code == 501)
    assert clock.slept == []
    assert len(server.visits) == 1


async def test_limit_beyond_patience_is_an_error_at_once() -> None:
    with serving(status(429, ("Retry-After", "61"), body=b'{"error": "Other"}')) as server:
        clock = FakeClock()
        error = await asked(server, clock)
    assert isinstance(error, RateLimited)
    assert vars(error) == {"url": HOST, "retry_after": 61}
    assert clock.slept == []


async def test_server_that_fails_for_longer_than_there_is_patience_is_an_error() -> None:
    with serving(status(503, body=b"<html>busy")) as server:
        clock = FakeClock()
        error = await asked(server, clock)
    assert isinstance(error, ServerFailed)
    assert vars(error) == {"url": HOST, "status": 503, "body": "<html>busy"}
    assert clock.slept == [0.5, 1, 2, 4, 8, 16]
    assert len(server.visits) == 7


async def test_without_patience_nothing_is_tried_again() -> None:
    with serving(status(503)) as server:
        assert isinstance(await asked(server, FakeClock(), patience=0), ServerFailed)
    assert len(server.visits) == 1


async def test_connection_is_free_while_it_waits() -> None:
    class Looking(FakeClock):
        async def sleep(self, seconds: float) -> None:
            assert await becomes(lambda: server.open == 0)
            await super().sleep(seconds)

    def unread(visit: Visit) -> None:
        visit.begin(503, [("Content-Length", "1000000")])
        while visit.send(bytes(1000)):
            pass

    with serving(in_turn(unread, hello)) as server:
        assert await asked(server, Looking()) == [0.5]


async def test_error_with_a_broken_body_is_told_by_its_status() -> None:
    def broken(visit: Visit) -> None:
        visit.begin(500, [("Content-Length", "100")])
        visit.send(b"what there is")
        hang_up(visit)

    with serving(broken) as server:
        error = await asked(server, FakeClock(), patience=0)
    assert isinstance(error, ServerFailed)
    assert error.body == "what there is"


# --- Cancellation ---------------------------------------------------------------------------------


@in_two_ways
async def test_cancelled_document_leaves_no_connection(how: str) -> None:
    def answer(visit: Visit) -> None:
        match next(turn):
            case 0:
                status(302, ("Location", "/b"), ("Connection", "close"))(visit)
            case 1:
                status(429, ("Retry-After", "0"), ("Connection", "close"))(visit)
            case _:
                headers = [("Content-Encoding", "gzip"), ("Connection", "close")]
                visit.answer(200, gzip.compress(bytes(200_000), 1), headers)
        visit.connection.close()

    with serving(answer) as server:
        async with client_of(server) as client:
            web = Web(client, clock=FakeClock())
            for stop in every_stop(how, at_least=8):
                turn = itertools.count()
                await stop.run(lambda: web.document(f"{HOST}/a", redirects=1))
                assert await becomes(lambda: server.open == 0)
