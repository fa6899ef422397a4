"""CARs that are downloaded: the repos of accounts, verified, and what URLs lead to.

An account's repo is checked before anything of it is used: its commit is of the account and signed
by its key, and what can be repaired, such as an export that is torn, has been. `verify` reports on
all of that instead, so it reads what the server sends as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import repo_stream
from repo_stream import Account, RepoStreamError
from repo_stream.cli.accounts import is_account, network_of, uri_in
from repo_stream.cli.input import limits_of
from repo_stream.cli.progress import Meter, Position

if TYPE_CHECKING:
    from repo_stream import AccountRepo, Network

__all__ = [
    "Downloaded",
    "Named",
    "account_repo",
    "downloaded",
    "fetched",
    "who_in",
]

_GET_REPO: Final = "/xrpc/com.atproto.sync.getRepo"
# How many records to take at a time, of which only the lengths are kept.
_RECORDS: Final = 512


class Downloaded:
    """What a server sends, as an input.

    Args:
        pieces: what it sends, decoded.
    """

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    async def read(self, n: int) -> bytes:
        """Read up to `n` bytes; none means the end."""
        if not self._left:
            self._left = await anext(self._pieces, b"")
        piece, self._left = self._left[:n], self._left[n:]
        return piece


class Named(NamedTuple):
    """An account that the command line names.

    Attributes:
        who: its name.
        account: what is known of it.
        network: where it was found.
    """

    who: str
    account: Account
    network: Network


def who_in(car: str) -> str:
    """Return the account that the command line names, without what it names in its repo."""
    uri = uri_in(car)
    return car if uri is None else uri.authority


# --- Repos of accounts ----------------------------------------------------------------------------


# Any: the keywords and the results are those of `open_repo`.
@asynccontextmanager
async def account_repo(
    options: argparse.Namespace, network: Network, meter: Meter, keywords: dict[str, Any]
) -> AsyncGenerator[AccountRepo[Any]]:
    """Open the repo of the account that the command line names, and show the progress.

    Args:
        options: the command line.
        network: finds the account.
        meter: shows the progress.
        keywords: for `open_repo`, beside those that the command line states. The whole repo is
            downloaded and checked before the first record.

    Raises:
        RepoStreamError: if it cannot be read.
    """
    opened: list[AccountRepo[Any]] = []

    def position() -> Position:
        return Position(network.web.received, fully_read=bool(opened))

    async with (
        meter.following(position),
        repo_stream.open_repo(
            who_in(options.car),
            network=network,
            mem_limit_mb=options.mem_limit_mb,
            spill=options.disk,
            limits=limits_of(options),
            earlier_keys=options.earlier_keys,
            check_first=True,
            **keywords,
        ) as repo,
    ):
        opened.append(repo)
        yield repo


@asynccontextmanager
async def fetched(options: argparse.Namespace, meter: Meter) -> AsyncGenerator[str]:
    """Download the repo of the account that the command line names to a temporary file.

    Args:
        options: the command line.
        meter: shows the progress.

    Returns:
        A context manager that returns the path of the file, which is gone at its end.

    Raises:
        RepoStreamError: if it cannot be read.
    """
    with TemporaryDirectory(prefix="repo-stream-") as folder:
        path = str(Path(folder, "repo.car"))
        async with (
            network_of(options) as network,
            account_repo(options, network, meter, {"block_processor": len, "keep": path}) as repo,
        ):
            while chunk := await repo.next_chunk(_RECORDS):
                meter.walked(len(chunk))
        try:
            yield path
        except RepoStreamError as error:
            if error.source == path:
                error.source = options.car
            raise


# --- As servers send them -------------------------------------------------------------------------


@asynccontextmanager
async def downloaded(
    options: argparse.Namespace,
) -> AsyncGenerator[tuple[Downloaded, Named | None]]:
    """Download what the command line names, without checking it.

    Args:
        options: the command line, with the name of an account or a URL.

    Returns:
        A context manager that returns what comes, and the account, if one is named.

    Raises:
        RepoStreamError: if it cannot be downloaded.
    """
    async with network_of(options) as network:
        named: Named | None = None
        url: str = options.car
        params = _did_in(url)
        if is_account(options.car):
            who = who_in(options.car)
            named = Named(who, await network.resolve(who), network)
            url, params = named.account.pds + _GET_REPO, {"did": named.account.did}
        async with network.web.stream(url, params=params) as download:
            yield Downloaded(download), named


def _did_in(url: str) -> dict[str, str]:
    """Return the parameter of a URL that tells errors which account they are about, if any."""
    try:
        query = parse_qs(urlsplit(url).query)
    except ValueError:
        return {}  # no URL; the web layer says so
    return {"did": query["did"][0]} if "did" in query else {}
