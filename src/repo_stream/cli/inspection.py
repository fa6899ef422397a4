"""`inspect`: whose repo it is, what is in it, and the shape of its tree."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappush, heappushpop
from typing import Final

from repo_stream import BlockOrder, Commit, key_depth
from repo_stream.cli.opened import opened
from repo_stream.cli.output import put, put_json
from repo_stream.cli.screen import facts, name_of, one_line, table

__all__ = ["inspect"]

_TID_ALPHABET: Final = "234567abcdefghijklmnopqrstuvwxyz"
# Collections that are named: a stranger's repo can have one for each record.
_MOST_NAMED: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def inspect(options: argparse.Namespace) -> int:
    """Walk the whole repo and show what it is."""
    async with opened(options, len, check_first=False) as car:
        repo = car.repo
        findings = Findings(repo.commit, repo.order)
        async for chunk in car.chunks():
            for key, _, size in chunk:
                findings.add(key, size)
        findings.collections.close()
        findings.car_size, findings.way = repo.bytes_read, car.way
        findings.order, findings.order_exact = repo.order, not repo.spilled
    if options.json:
        put_json(json.dumps(_as_json(findings)) + "\n")
    else:
        put("\n".join(_lines(findings)) + "\n")
    return 0


# --- What is found out --------------------------------------------------------------------------


@dataclass
class Tally:
    """Records and their bytes."""

    records: int = 0
    size: int = 0
    largest: int = 0

    def add(self, size: int) -> None:
        """Count a record."""
        self.records += 1
        self.size += size
        self.largest = max(self.largest, size)

    def include(self, other: Tally) -> None:
        """Count all that another one counted."""
        self.records += other.records
        self.size += other.size
        self.largest = max(self.largest, other.largest)


class Collections:
    """A tally for each of the largest collections, and one for all others together.

    A walk in key order is through with a collection when the next one begins, so that no more
    tallies are held than will be shown.

    Attributes:
        others: what is in the collections that are not named.
        other_names: how many those are.
    """

    def __init__(self) -> None:
        self.others: Tally = Tally()
        self.other_names: int = 0
        self._nameless = Tally()
        self._named: list[tuple[int, int, str, Tally]] = []
        self._name = ""
        self._tally = self._nameless

    def add(self, key: str, size: int) -> None:
        """Count a record."""
        name = key.partition("/")[0] if "/" in key else ""
        if not name:  # such keys do not stand together
            self._nameless.add(size)
            return
        if name != self._name:
            self.close()
            self._name, self._tally = name, Tally()
        self._tally.add(size)

    def close(self) -> None:
        """Be through with a collection."""
        if not self._name:
            return
        entry = (self._tally.records, self._tally.size, self._name, self._tally)
        self._name = ""
        if len(self._named) < _MOST_NAMED:
            heappush(self._named, entry)
            return
        self.others.include(heappushpop(self._named, entry)[-1])
        self.other_names += 1

    def named(self) -> list[tuple[str, Tally]]:
        """Give the largest ones, by name."""
        nameless = [("", self._nameless)] if self._nameless.records else []
        return nameless + sorted((name, tally) for *_, name, tally in self._named)


@dataclass
class Layer:
    """The nodes of the tree at one depth.

    Attributes:
        nodes: how many there are.
        entries: how many keys they have in all.
        most: how many the largest has.
        here: how many the node has that the walk is in; `None` where it is in none.
    """

    nodes: int = 0
    entries: int = 0
    most: int = 0
    here: int | None = None


@dataclass
class Shape:
    """The shape of a tree, from its keys alone: which nodes there are follows from their depths.

    A node at some depth holds the keys of that depth between two neighbours that hang higher, and
    is there, even without a key, where anything hangs between them.
    """

    layers: list[Layer] = field(default_factory=list[Layer])

    def add(self, key: str) -> None:
        """Take the next key."""
        depth = key_depth(key.encode())
        # All that came before hangs below the first node of each new layer.
        below = bool(self.layers)
        while len(self.layers) <= depth:
            self.layers.append(Layer(nodes=1, here=0) if below else Layer())
        for layer in self.layers[:depth]:
            layer.here = None
        for layer in self.layers[depth:]:
            if layer.here is None:
                layer.here = 0
                layer.nodes += 1
        layer = self.layers[depth]
        here = layer.here = (layer.here or 0) + 1
        layer.entries += 1
        layer.most = max(layer.most, here)

    @property
    def nodes(self) -> int:
        """How many nodes the tree has; an empty repo has one."""
        return sum(layer.nodes for layer in self.layers) or 1


@dataclass
class Findings:
    """What a walk found out."""

    commit: Commit
    order: BlockOrder
    order_exact: bool = True
    car_size: int = 0
    way: str = ""
    collections: Collections = field(default_factory=Collections)
    total: Tally = field(default_factory=Tally)
    shape: Shape = field(default_factory=Shape)

    def add(self, key: str, size: int) -> None:
        """Take the next record."""
        self.collections.add(key, size)
        self.total.add(size)
        self.shape.add(key)


# --- How it is shown ----------------------------------------------------------------------------


def _lines(findings: Findings) -> Iterable[str]:
    commit, total = findings.commit, findings.total
    yield from facts(
        [
            ("DID", one_line(commit.did)),
            ("Rev", f"{commit.rev}, {_moment(commit.rev):%Y-%m-%d %H:%M:%S} UTC"),
            ("Commit", str(commit.cid)),
            ("CAR", f"{findings.car_size:,} bytes, {total.size:,} of them records"),
            ("Tree", _summary(findings.shape, total.records)),
            ("Order", _order(findings)),
            ("Walked", findings.way),
        ]
    )
    yield ""
    yield from table(
        ("Collection", "Records", "Bytes", "Mean", "Largest"),
        [*_rows(findings.collections)],
        ("Total", *_figures(total)),
    )
    if findings.shape.layers:
        yield ""
        yield from table(
            ("Depth", "Nodes", "Entries", "Entries a node", "Most"),
            [
                (f"{depth:>5}", *_layer(layer))
                for depth, layer in reversed([*enumerate(findings.shape.layers)])
                if layer.nodes
            ],
        )


def _rows(collections: Collections) -> Iterable[tuple[str, ...]]:
    for name, tally in collections.named():
        yield name_of(name), *_figures(tally)
    if others := collections.other_names:
        yield f"({others:,} {_plural(others, 'other')})", *_figures(collections.others)


def _moment(tid: str) -> datetime:
    """Say when a TID was made: microseconds since 1970 in 53 bits, and 10 of a clock's number."""
    number = 0
    for char in tid:
        number = number * 32 + _TID_ALPHABET.index(char)
    return _EPOCH + timedelta(microseconds=number >> 10)


def _summary(shape: Shape, records: int) -> str:
    nodes = shape.nodes
    deep = max(len(shape.layers), 1)
    return (
        f"{deep:,} {_plural(deep, 'level')}, {nodes:,} {_plural(nodes, 'node')}, "
        f"{records / nodes:.1f} entries a node"
    )


def _order(findings: Findings) -> str:
    order = findings.order
    if order.streamable:
        return "streamable"
    how_many = "up to" if findings.order_exact else "at least"
    come = "block comes" if order.most_early == 1 else "blocks come"
    return f"not streamable: {how_many} {order.most_early:,} {come} early"


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _figures(tally: Tally) -> tuple[str, ...]:
    mean = round(tally.size / tally.records) if tally.records else 0
    return f"{tally.records:,}", f"{tally.size:,}", f"{mean:,}", f"{tally.largest:,}"


def _layer(layer: Layer) -> tuple[str, ...]:
    mean = layer.entries / layer.nodes
    return f"{layer.nodes:,}", f"{layer.entries:,}", f"{mean:.1f}", f"{layer.most:,}"


def _as_json(findings: Findings) -> dict[str, object]:
    commit, total, shape = findings.commit, findings.total, findings.shape
    return {
        "did": commit.did,
        "rev": commit.rev,
        "commit": str(commit.cid),
        "data": str(commit.data),
        "prev": None if commit.prev is None else str(commit.prev),
        "car_bytes": findings.car_size,
        "order": {
            "streamable": findings.order.streamable,
            "most_early": findings.order.most_early,
            "exact": findings.order_exact,
        },
        "records": total.records,
        "record_bytes": total.size,
        "collections": {
            name: {"records": tally.records, "bytes": tally.size, "largest": tally.largest}
            for name, tally in findings.collections.named()
        },
        "other_collections": {
            "collections": findings.collections.other_names,
            "records": findings.collections.others.records,
            "bytes": findings.collections.others.size,
            "largest": findings.collections.others.largest,
        },
        "tree": {
            "nodes": shape.nodes,
            "layers": [
                {"depth": depth, "nodes": layer.nodes, "entries": layer.entries, "most": layer.most}
                for depth, layer in enumerate(shape.layers)
            ],
        },
    }
