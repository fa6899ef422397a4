from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from repo_stream import (
    NetworkError,
    RateLimited,
    RecordNotFound,
    RepoDeactivated,
    RepoNotFound,
    RepoSuspended,
    RepoTakendown,
    ServerFailed,
)
from repo_stream.network.answers import Reply, asks_to_wait, error_of, may_be_repeated

NOW = 1_800_000_000.0
DID = "did:plc:abc"
URL = f"https://pds.example.com/xrpc/com.atproto.sync.getRepo?did={DID}"


def reply(status: int = 400, body: object = b"", **headers: str) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(URL, status, {name.replace("_", "-"): it for name, it in headers.items()}, data)


def named(name: str, status: int = 400, said: str = "what is said") -> Reply:
    return reply(status, {"error": name, "message": said})


def error(answer: Reply, params: Mapping[str, str] | None = None) -> NetworkError:
    return error_of(answer, params={"did": DID} if params is None else params, now=NOW)


REPO_ERRORS = {
    "RepoNotFound": RepoNotFound,
    "RepoTakendown": RepoTakendown,
    "RepoSuspended": RepoSuspended,
    "RepoDeactivated": RepoDeactivated,
    "AccountNotFound": RepoNotFound,
    "AccountTakedown": RepoTakendown,
    "AccountSuspended": RepoSuspended,
    "AccountDeactivated": RepoDeactivated,
}


@pytest.mark.parametrize("name", REPO_ERRORS)
@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_error_is_told_by_its_name_whatever_the_status(name: str, status: int) -> None:
    raised = error(named(name, status))
    assert type(raised) is REPO_ERRORS[name]
    assert vars(raised) == {
        "did": DID,
        "server": "https://pds.example.com",
        "said": "what is said",
    }
    assert not may_be_repeated(named(name, status))


def test_error_of_a_repo_needs_no_message() -> None:
    raised = error(reply(400, {"error": "RepoNotFound"}))
    assert isinstance(raised, RepoNotFound)
    assert raised.said == ""


def test_error_of_no_repo_is_a_failure_of_the_server() -> None:
    assert isinstance(error(named("RepoNotFound"), {}), ServerFailed)


def test_record_that_is_not_there_is_named() -> None:
    params = {"did": DID, "collection": "com.example.a", "rkey": "self"}
    raised = error(named("RecordNotFound", 404), params)
    assert isinstance(raised, RecordNotFound)
    assert raised.uri == f"at://{DID}/com.example.a/self"
    assert raised.server == "https://pds.example.com"
    assert isinstance(error(named("RecordNotFound", 404)), ServerFailed)


def test_rate_limit_is_told_by_name_or_status() -> None:
    for answer in (named("RateLimitExceeded", 400), reply(429, retry_after="9")):
        raised = error(answer)
        assert isinstance(raised, RateLimited)
        assert raised.url == URL
        assert raised.retry_after == (9 if answer.status == 429 else None)


BODIES = {
    "nothing": b"",
    "html": b"<html>502 Bad Gateway</html>",
    "other error": json.dumps({"error": "InternalServerError"}).encode(),
    "error is no text": json.dumps({"error": 7, "message": "RepoNotFound"}).encode(),
    "list": b'["RepoNotFound"]',
    "number": b"7",
    "nested too deep": b'{"error": ' + b"[" * 200_000,
    "not utf-8": b'{"error": "RepoNotFound\xff"}',
    "cut": b'{"error": "RepoNotFound", "mess',
}


@pytest.mark.parametrize("body", BODIES)
def test_body_without_a_known_name_is_a_failure_of_the_server(body: str) -> None:
    raised = error(reply(502, BODIES[body]))
    assert isinstance(raised, ServerFailed)
    assert (raised.status, raised.url) == (502, URL)
    assert len(raised.body) <= 1000
    assert BODIES[body].decode(errors="replace").startswith(raised.body)


def test_control_characters_of_servers_do_not_reach_the_terminal() -> None:
    evil = "\x1b]0;title\x07\r\n\u202eabc\x00"
    for raised in (error(reply(500, evil.encode())), error(named("RepoTakendown", said=evil))):
        assert str(raised).isprintable()
        shown = raised.body if isinstance(raised, ServerFailed) else vars(raised)["said"]
        assert shown.isprintable()
        assert "abc" in shown


def test_message_of_any_length_is_cut() -> None:
    raised = error(named("RepoTakendown", said="x" * 5000))
    assert isinstance(raised, RepoTakendown)
    assert len(raised.said) == 1000


# --- Asking again ---------------------------------------------------------------------------------


def test_429_and_5xx_but_not_501_may_be_repeated() -> None:
    may = {status for status in range(200, 600) if may_be_repeated(reply(status))}
    assert may == {429, *range(500, 600)} - {501}


WAITS: dict[str, tuple[dict[str, str], float | None]] = {
    "nothing is said": ({}, None),
    "seconds": ({"retry-after": "120"}, 120),
    "seconds, with space": ({"retry-after": " 5 "}, 5),
    "zero": ({"retry-after": "0"}, 0),
    "date": ({"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60),
    "date in the past": ({"retry-after": "Fri, 15 Jan 2027 07:59:00 GMT"}, 0),
    "date by the server's clock": (
        {"retry-after": "Fri, 15 Jan 2027 10:01:00 GMT", "date": "Fri, 15 Jan 2027 10:00:50 GMT"},
        10,
    ),
    "date without a zone": ({"retry-after": "Fri, 15 Jan 2027 08:01:00"}, 60),
    "reset, since the epoch": ({"ratelimit-reset": "1800000090"}, 90),
    "reset, from now on": ({"ratelimit-reset": "90"}, 90),
    "reset, by the server's clock": (
        {"ratelimit-reset": "1800007205", "date": "Fri, 15 Jan 2027 10:00:00 GMT"},
        5,
    ),
    "reset, in the past": ({"ratelimit-reset": "1799999999"}, 0),
    "both": ({"retry-after": "7", "ratelimit-reset": "1800000090"}, 7),
    "nonsense, then reset": ({"retry-after": "soon", "ratelimit-reset": "1800000090"}, 90),
    "negative": ({"retry-after": "-5"}, None),
    "fraction": ({"retry-after": "1.5"}, None),
    "huge": ({"retry-after": "9" * 5000}, None),
    "not finite": ({"retry-after": "inf"}, None),
    "other digits": ({"retry-after": "\u0661"}, None),
    "impossible date": ({"retry-after": "Fri, 99 Jan 99999 99:99:99 GMT"}, None),
    "impossible zone": ({"retry-after": "Fri, 15 Jan 2027 08:01:00 +99999999"}, None),
}


@pytest.mark.parametrize("case", WAITS)
def test_how_long_a_server_asks_to_wait(case: str) -> None:
    headers, seconds = WAITS[case]
    answer = Reply(URL, 429, headers, b"")
    assert asks_to_wait(answer, now=NOW) == seconds


def test_reset_of_a_limit_that_is_not_reached_is_no_reason_to_wait() -> None:
    headers = {"ratelimit-reset": "90", "ratelimit-remaining": "1"}
    assert asks_to_wait(Reply(URL, 503, headers, b""), now=NOW) is None
    assert asks_to_wait(Reply(URL, 503, headers | {"ratelimit-remaining": "0"}, b""), now=NOW) == 90
    assert asks_to_wait(Reply(URL, 429, headers, b""), now=NOW) == 90
