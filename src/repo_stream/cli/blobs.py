"""`blobs`: the blobs that records refer to, such as images."""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

from repo_stream import Blob, Output, Processor
from repo_stream.cli.failures import report_left_out
from repo_stream.cli.filters import report_unmatched
from repo_stream.cli.input import named
from repo_stream.cli.messages import complain
from repo_stream.cli.opened import opened
from repo_stream.cli.output import is_terminal, put, put_json
from repo_stream.cli.partial import report_lost
from repo_stream.cli.rows import uri_of
from repo_stream.cli.screen import one_line, shown_key
from repo_stream.process import blob_faults, blobs as find_blobs

__all__ = ["blobs"]

_UNKNOWN: Final = -1  # a size


class _Found(NamedTuple):
    """The references of one record.

    Attributes:
        blobs: different ones.
        faults: what is wrong with them or with others.
    """

    blobs: list[Blob]
    faults: list[str]


def _find(block: bytes) -> _Found:
    found = [*dict.fromkeys(find_blobs(block))]
    # Only references of the type "blob" can have faults; most records are decoded once this way.
    return _Found(found, blob_faults(block) if b"blob" in block else [])


async def blobs(options: argparse.Namespace) -> int:
    """List the blobs of each record, in key order; return 1 if bad records were left out."""
    write = put_json if options.json else put
    on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
    totals = _Totals()
    async with opened(options, Processor(_find, lazy=True), on_error=on_error) as car:
        did = car.repo.commit.did
        line = _line(options, did)
        async for chunk in car.chunks():
            totals.add(chunk)
            lines = [line(output.key, blob) for output in chunk for blob in output.value.blobs]
            if lines:
                if is_terminal():
                    car.meter.close()
                write("".join(lines))
        await report_unmatched(options, car, totals.walked + car.repo.problem_count)
    if totals.faults:
        are = "reference to a blob is" if totals.faults == 1 else "references to blobs are"
        first = f"the first, in the record {totals.first_fault}"
        complain(f"{named(options.car)}: {totals.faults:,} {are} malformed; {first}")
    if not options.quiet:
        print("\n".join(_summary(totals, did)), file=sys.stderr)
    return max(report_left_out(options, car.repo), report_lost(options, car, totals.walked))


def _line(options: argparse.Namespace, did: str) -> Callable[[str, Blob], str]:
    """Return the function that makes a line; with several CARs, it names the account as well."""
    if options.json:
        return partial(_json_line, {"did": did} if options.several else {})
    if options.several:
        return lambda key, blob: _plain_line(uri_of(did, key), blob)
    return _plain_line


def _plain_line(key: str, blob: Blob) -> str:
    kind = "-" if blob.mime_type is None else one_line(blob.mime_type)
    size = "-" if blob.size is None else blob.size
    return f"{blob.cid}\t{kind}\t{size}\t{shown_key(key)}\n"


def _json_line(account: Mapping[str, str], key: str, blob: Blob) -> str:
    cid, mime_type, size = blob
    fields = {"cid": str(cid), "mime_type": mime_type, "size": size, "key": key}
    return json.dumps({**account, **fields}) + "\n"


# --- Totals -------------------------------------------------------------------------------------


@dataclass
class _Totals:
    """What all records together refer to.

    Attributes:
        walked: the number of records.
        referring: how many of them refer to a blob.
        faults: the number of malformed references.
        first_fault: the first of those, in words.
    """

    walked: int = 0
    referring: int = 0
    faults: int = 0
    first_fault: str = ""
    # Hashes of CIDs and sizes in turn, 16 bytes a reference. A set of all CIDs would take ten
    # times as much; in parts it is made of one after the other.
    _parts: list[array[int]] = field(default_factory=lambda: [array("q") for _ in range(256)])

    def add(self, chunk: Sequence[Output[_Found]]) -> None:
        """Count the references of the next records."""
        self.walked += len(chunk)
        for output in chunk:
            found = output.value
            if found.faults and not self.faults:
                self.first_fault = f"{shown_key(output.key)}: {found.faults[0]}"
            self.faults += len(found.faults)
            self.referring += bool(found.blobs)
            for cid, _, size in found.blobs:
                number = hash(cid)
                self._parts[number % 256].extend((number, _UNKNOWN if size is None else size))

    def of_blobs(self) -> tuple[int, int, int]:
        """Return how many blobs there are, their bytes, and how many have no known size.

        If the sizes in several references to one blob differ, the largest counts.
        """
        count = total = unknown = 0
        for part in self._parts:
            sizes: dict[int, int] = {}
            for number, size in zip(part[::2], part[1::2], strict=True):
                sizes[number] = max(size, sizes.get(number, _UNKNOWN))
            known = [size for size in sizes.values() if size != _UNKNOWN]
            count += len(sizes)
            total += sum(known)
            unknown += len(sizes) - len(known)
        return count, total, unknown


def _summary(totals: _Totals, did: str) -> list[str]:
    if not totals.referring:
        return ["no record refers to a blob"]
    count, size, unknown = totals.of_blobs()
    records = "1 record refers" if totals.referring == 1 else f"{totals.referring:,} records refer"
    them = "1 blob" if count == 1 else f"{count:,} blobs"
    but = f"; the size of {unknown:,} of them is not known" if unknown else ""
    account = one_line(quote(did, safe=":"))
    return [
        f"{records} to {them}, {size:,} bytes{but}",
        f"To fetch one: https://SERVER/xrpc/com.atproto.sync.getBlob?did={account}&cid=CID",
    ]
