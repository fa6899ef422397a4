"""`ls`: the keys of a repo and the CIDs of their records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from repo_stream import Cid
from repo_stream.cli.filters import report_unmatched
from repo_stream.cli.opened import opened
from repo_stream.cli.output import is_terminal, put, put_json
from repo_stream.cli.partial import report_lost
from repo_stream.cli.rows import uri_of
from repo_stream.cli.screen import shown_key

__all__ = ["ls"]


async def ls(options: argparse.Namespace) -> int:
    """List keys and CIDs, in key order."""
    write = put_json if options.json else put
    found = 0
    async with opened(options, len) as car:
        line = _line(options, car.repo.commit.did)
        async for keys in car.keys():
            if is_terminal():
                car.meter.close()
            write("".join([line(key, cid) for key, cid in keys]))
            found += len(keys)
        await report_unmatched(options, car, found)
    return report_lost(options, car, found, damage_counts=True)


def _line(options: argparse.Namespace, did: str) -> Callable[[str, Cid], str]:
    """Return the function that makes a line; with several CARs, it names the account as well."""
    if options.json:
        account = {"did": did} if options.several else {}
        return lambda key, cid: json.dumps({**account, "key": key, "cid": str(cid)}) + "\n"
    if options.several:
        return lambda key, cid: f"{shown_key(uri_of(did, key))}\t{cid}\n"
    return lambda key, cid: f"{shown_key(key)}\t{cid}\n"
