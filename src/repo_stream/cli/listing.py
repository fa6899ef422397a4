"""`ls`: the keys of a repo and the CIDs of their records."""

from __future__ import annotations

import argparse
import json

from repo_stream import Cid
from repo_stream.cli.filters import report_unmatched
from repo_stream.cli.opened import opened
from repo_stream.cli.output import is_terminal, put, put_json
from repo_stream.cli.screen import shown_key

__all__ = ["ls"]


async def ls(options: argparse.Namespace) -> int:
    """List keys and CIDs, in key order."""
    line, write = (_json_line, put_json) if options.json else (_plain_line, put)
    found = 0
    async with opened(options, len) as car:
        async for keys in car.keys():
            if is_terminal():
                car.meter.close()
            write("".join([line(key, cid) for key, cid in keys]))
            found += len(keys)
        await report_unmatched(options, car, found)
    return 0


def _plain_line(key: str, cid: Cid) -> str:
    return f"{shown_key(key)}\t{cid}\n"


def _json_line(key: str, cid: Cid) -> str:
    return json.dumps({"key": key, "cid": str(cid)}) + "\n"
