"""`resolve`: the account that a name leads to."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from repo_stream import Account, HandleNotClaimed, RepoStreamError
from repo_stream.cli.accounts import network_of
from repo_stream.cli.downloads import who_in
from repo_stream.cli.reports import put_report
from repo_stream.cli.screen import explained, facts, one_line
from repo_stream.syntax import AT_SCHEME, is_handle

if TYPE_CHECKING:
    from repo_stream import Network

__all__ = ["resolve"]


async def resolve(options: argparse.Namespace) -> int:
    """Show the account: its DID, its handle or why it has none, its server and its key."""
    async with network_of(options) as network:
        account = await network.resolve(who_in(options.car))
        claimed = account.handle or _claimed(account)
        doubt = "" if account.handle else await _why_no_handle(network, account, claimed)

    def as_text() -> str:
        return "\n".join([*_lines(account, doubt), ""])

    def as_json() -> dict[str, object]:
        return {
            "did": account.did,
            "handle": account.handle,
            "claimed_handle": claimed,
            "handle_problem": doubt or None,
            "pds": account.pds,
            "signing_key": account.signing_key,
            "document": account.document,
        }

    put_report(options, as_text, as_json, indent=2)
    return 0


def _lines(account: Account, doubt: str) -> Iterable[str]:
    return facts(
        [
            ("DID", one_line(account.did)),
            ("Handle", account.handle or one_line(f"none: {doubt}")),
            ("Server", one_line(account.pds)),
            ("Key", one_line(account.signing_key)),
        ]
    )


def _claimed(account: Account) -> str | None:
    """Return the handle that the document of an account claims, whether or not it holds."""
    names = account.document.get("alsoKnownAs")
    for name in cast("list[object]", names) if isinstance(names, list) else ():
        if isinstance(name, str) and name.startswith(AT_SCHEME):
            handle = name.removeprefix(AT_SCHEME)
            if is_handle(handle):
                return handle.lower()
    return None


async def _why_no_handle(network: Network, account: Account, claimed: str | None) -> str:
    """Return why an account has no handle."""
    if claimed is None:
        return "the account claims no handle"
    try:
        other = await network.resolve(claimed)
    except HandleNotClaimed as error:
        return f"the handle {claimed} leads to another account, {error.did}"
    except RepoStreamError as error:
        return explained(error)
    return f"the handle {claimed} leads to another account, {other.did}"
