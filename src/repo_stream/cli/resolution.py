"""`resolve`: the account that a name leads to."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from repo_stream import Account
from repo_stream.cli.accounts import network_of
from repo_stream.cli.downloads import who_in
from repo_stream.cli.reports import put_report
from repo_stream.cli.screen import facts, one_line

__all__ = ["resolve"]


async def resolve(options: argparse.Namespace) -> int:
    """Show the account: its DID, its handle or why it has none, its server and its key."""
    async with network_of(options) as network:
        account = await network.resolve(who_in(options.car))

    def as_text() -> str:
        return "\n".join([*_lines(account), ""])

    def as_json() -> dict[str, object]:
        return {
            "did": account.did,
            "handle": account.handle,
            "claimed_handle": account.claimed_handle,
            "handle_problem": account.handle_problem,
            "pds": account.pds,
            "signing_key": account.signing_key,
            "document": account.document,
        }

    put_report(options, as_text, as_json, indent=2)
    return 0


def _lines(account: Account) -> Iterable[str]:
    return facts(
        [
            ("DID", one_line(account.did)),
            ("Handle", account.handle or one_line(f"none: {account.handle_problem}")),
            ("Server", one_line(account.pds)),
            ("Key", one_line(account.signing_key)),
        ]
    )
