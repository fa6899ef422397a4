"""What the answers of servers mean: which error, and when to ask again.

Errors are told by the name in the JSON of the body, as https://atproto.com/specs/xrpc has it:
`{"error": "RepoNotFound", "message": "..."}`. The same name comes with 400 from one server and with
404 from another, and some servers answer with a page of HTML instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from repo_stream.network.errors import (
    NetworkError,
    RateLimited,
    RecordNotFound,
    RepoDeactivated,
    RepoNotFound,
    RepoRefused,
    RepoSuspended,
    RepoTakendown,
    ServerFailed,
    is_temporary,
    without_controls,
)

__all__ = ["Reply", "asks_to_wait", "error_of", "may_be_repeated", "named_error"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with its whole body.

    Attributes:
        url: where it came from, after redirects.
        status: its status.
        headers: its headers; names are in lower case.
        body: its decoded body, cut if the status is that of an error.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


# --- Errors ---------------------------------------------------------------------------------------

# As the specification names them, and as the reference server names them for the account itself.
_REPO_ERRORS: Final[Mapping[str, type[RepoRefused]]] = {
    "RepoNotFound": RepoNotFound,
    "RepoTakendown": RepoTakendown,
    "RepoSuspended": RepoSuspended,
    "RepoDeactivated": RepoDeactivated,
    "AccountNotFound": RepoNotFound,
    "AccountTakedown": RepoTakendown,
    "AccountSuspended": RepoSuspended,
    "AccountDeactivated": RepoDeactivated,
}
_RATE_LIMIT: Final = "RateLimitExceeded"
_NO_RECORD: Final = "RecordNotFound"

# How much of a body and of a message in it is kept, in characters.
_MAX_SAID: Final = 1000


def error_of(reply: Reply, *, params: Mapping[str, str], now: float) -> NetworkError:
    """Return the error that an answer is, if it is not the one that was hoped for.

    Args:
        reply: the answer.
        params: the parameters of the request: `did`, and for a record `collection` and `rkey`.
        now: the time in seconds since the epoch.
    """
    name, said = named_error(reply.body)
    did = params.get("did")
    server = "{0.scheme}://{0.netloc}".format(urlsplit(reply.url))
    if did is not None and name in _REPO_ERRORS:
        return _REPO_ERRORS[name](did=did, server=server, said=said)
    if name == _NO_RECORD and did is not None and {"collection", "rkey"} <= params.keys():
        uri = f"at://{did}/{params['collection']}/{params['rkey']}"
        return RecordNotFound(uri=uri, server=server)
    if name == _RATE_LIMIT or reply.status == 429:
        return RateLimited(url=reply.url, retry_after=asks_to_wait(reply, now=now))
    body = reply.body[: 4 * _MAX_SAID].decode(errors="replace")[:_MAX_SAID]
    return ServerFailed(url=reply.url, status=reply.status, body=without_controls(body).strip())


def named_error(body: bytes) -> tuple[str, str]:
    """Return the name of an error and what is said of it, by the JSON of a body; else nothing."""
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    match document:
        case {"error": str(name), "message": str(said)}:
            return name, without_controls(said[:_MAX_SAID]).strip()
        case {"error": str(name)}:
            return name, ""
        case _:
            return "", ""


# --- Asking again ---------------------------------------------------------------------------------

# The reference server states when a limit is reset in seconds since the epoch, others as a number
# of seconds from now on. No limit lasts for three years.
_FIRST_EPOCH: Final = 1e8


def may_be_repeated(reply: Reply) -> bool:
    """Return whether the answer may be another one later: 429 and 5xx, but not 501.

    If the body names what is wrong with a repo, it would be the same again.
    """
    if not is_temporary(reply.status):
        return False
    name, _ = named_error(reply.body)
    return name not in _REPO_ERRORS and name != _NO_RECORD


def asks_to_wait(reply: Reply, *, now: float) -> float | None:
    """Return in how many seconds the server wants to be asked again; `None` if it does not say.

    By `Retry-After`, in seconds or as a date, else by `RateLimit-Reset` if a limit is reached.
    A time is compared with the `Date` of the answer, as clocks differ.

    Args:
        reply: the answer.
        now: the time in seconds since the epoch, if the answer has no date.
    """
    date = _seconds_of_date(reply.headers.get("date", ""))
    now = now if date is None else date
    after = reply.headers.get("retry-after", "")
    wait = _number(after)
    if wait is None and (until := _seconds_of_date(after)) is not None:
        wait = until - now
    if wait is None and _is_limited(reply):
        wait = _number(reply.headers.get("ratelimit-reset", ""))
        if wait is not None and wait >= _FIRST_EPOCH:
            wait -= now
    return None if wait is None else max(wait, 0.0)


def _is_limited(reply: Reply) -> bool:
    return reply.status == 429 or _number(reply.headers.get("ratelimit-remaining", "")) == 0


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _seconds_of_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
