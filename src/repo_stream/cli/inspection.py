"""`inspect`: whose repo it is, its collections, when records were made, the shape of its tree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from repo_stream import BlockOrder, Commit, Gap, key_depth
from repo_stream.cli.accounts import is_account
from repo_stream.cli.input import is_input
from repo_stream.cli.interrupts import at_once
from repo_stream.cli.opened import opened
from repo_stream.cli.output import can_show, destination, writing_to
from repo_stream.cli.partial import lost_as_json, lost_facts, report_lost
from repo_stream.cli.plot import Picture, draw, picture_form, require_matplotlib
from repo_stream.cli.reports import put_report
from repo_stream.cli.screen import facts, name_of, one_line, short_did, table
from repo_stream.cli.several_cars import each_car
from repo_stream.cli.sparkline import BLOCKS, PLAIN, sparklines
from repo_stream.cli.tallies import Collections, Tally
from repo_stream.cli.timeline import Timeline, Timelines, months_by_name

__all__ = ["inspect"]


async def inspect(options: argparse.Namespace) -> int:
    """Walk each repo and show what is in it; return 1 if anything is lost."""
    if options.plot is not None:
        if options.several:
            options.usage("--plot draws one CAR; draw each into a file of its own")
        if is_input(options.car, options.plot):
            options.usage(f"--plot names the CAR itself, which would be overwritten: {options.car}")
        require_matplotlib()  # before anything is read
    return await each_car(options, _inspect_one)


async def _inspect_one(options: argparse.Namespace) -> int:
    """Walk the whole repo and show what is in it; return 1 if anything is lost."""
    if is_account(options.car):
        options.partial = False  # an export that lacks something is healed or refused
    async with opened(options, _size, check_first=False) as car:
        repo = car.repo
        findings = Findings(repo.commit, repo.order)
        async for chunk in car.chunks(with_gaps=True):
            for key, _, size in chunk:
                if isinstance(size, Gap):
                    findings.add_lost(size)
                else:
                    findings.add(key, size)
        findings.collections.close()
        findings.car_size, findings.way = repo.bytes_read, car.way
        findings.order, findings.order_exact = repo.order, not repo.spilled
        findings.lost, findings.missing = lost_facts(car), lost_as_json(car)
        if repo.left_over is not None and not findings.lost:
            findings.blocks = repo.blocks_read - repo.left_over
    put_report(options, partial(_as_text, findings), partial(_as_json, findings))
    if options.plot is not None:
        _plot(options, findings)
    return report_lost(options, car, findings.total.records, damage_counts=True)


def _plot(options: argparse.Namespace, findings: Findings) -> None:
    """Write the picture that was asked for, and say so."""
    commit, path = findings.commit, options.plot
    picture = Picture(commit, findings.collections.everything(), whole=not findings.lost)
    with at_once():
        image = draw(picture, picture_form(path))
    with destination(path) as file, writing_to(path):
        file.write(image)
    if not options.quiet:
        drawn = f"drew {short_did(commit.did)}, rev {commit.rev}, in {path}"
        print(one_line(drawn), file=sys.stderr)


def _size(block: bytes) -> int | Gap:
    return len(block)


# --- What is counted ----------------------------------------------------------------------------


@dataclass
class Layer:
    """The nodes of the tree at one depth.

    Attributes:
        nodes: how many there are.
        entries: how many entries they have together.
        most: how many entries the largest node has.
        here: how many entries of the present node have been walked; `None` if there is none.
    """

    nodes: int = 0
    entries: int = 0
    most: int = 0
    here: int | None = None


@dataclass
class Shape:
    """The shape of a tree, computed from the depths of its keys alone.

    A node has the keys of its depth between two neighbouring keys of greater depth. It exists, even
    without keys, if there is any key of less depth between them.

    Attributes:
        layers: the nodes at each depth.
        complete: whether all keys are known; if not, there may be more nodes.
    """

    layers: list[Layer] = field(default_factory=list[Layer])
    complete: bool = True

    def add(self, key: str) -> None:
        """Count the next key."""
        depth = key_depth(key.encode())
        # All keys before this one are below the first node of each new layer.
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
        """The number of nodes in the tree; an empty repo has one."""
        return sum(layer.nodes for layer in self.layers) or 1

    @property
    def entries(self) -> int:
        """The number of keys."""
        return sum(layer.entries for layer in self.layers)


@dataclass
class Findings:
    """What there is to show about a repo.

    Attributes:
        blocks: how many blocks of the file are of the repo; `None` if that is not known.
        lost: what is not in the file, and what is damaged in it, by names; empty if nothing is.
        missing: the same for JSON.
    """

    commit: Commit
    order: BlockOrder
    order_exact: bool = True
    car_size: int = 0
    way: str = ""
    blocks: int | None = None
    lost: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    missing: dict[str, object] = field(default_factory=dict[str, object])
    collections: Collections = field(default_factory=Collections)
    total: Tally = field(default_factory=Tally)
    shape: Shape = field(default_factory=Shape)

    def add(self, key: str, size: int) -> None:
        """Count the next record."""
        self.collections.add(key, size)
        self.total.add(size)
        self.shape.add(key)

    def add_lost(self, gap: Gap) -> None:
        """Count the key of a record that is lost, or note that those of a subtree are."""
        if gap.key is None:
            self.shape.complete = False
        else:
            self.shape.add(gap.key)

    @property
    def shared(self) -> int | None:
        """How many keys name a record of another key that is in the file only once."""
        if self.blocks is None:
            return None
        return self.total.records - (self.blocks - self.shape.nodes - 1)


# --- How it is shown ----------------------------------------------------------------------------


def _as_text(findings: Findings) -> str:
    return "\n".join(_lines(findings)) + "\n"


def _lines(findings: Findings) -> Iterable[str]:
    commit, total = findings.commit, findings.total
    yield from facts(
        [
            ("DID", one_line(commit.did)),
            ("Rev", f"{commit.rev}, {commit.time:%Y-%m-%d %H:%M:%S} UTC"),
            ("Commit", str(commit.cid)),
            *_sizes(findings),
            ("Tree", _summary(findings.shape)),
            ("Order", _order(findings)),
            ("Walked", findings.way),
            *findings.lost,
        ]
    )
    yield ""
    yield from table(
        ("Collection", "Records", "Bytes", "Mean", "Largest"),
        [*_rows(findings.collections)],
        ("Total", *_figures(total)),
    )
    bars = BLOCKS if can_show(BLOCKS) else PLAIN
    if when_made := [*sparklines(findings.collections.everything(), bars)]:
        yield ""
        yield from when_made
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


def _sizes(findings: Findings) -> list[tuple[str, str]]:
    """Return the size of the file and of its records, which counts those that keys share again."""
    size, records = f"{findings.car_size:,} bytes", f"{findings.total.size:,}"
    shared = findings.shared
    if shared == 0:
        return [("CAR", f"{size}, {records} of them records")]
    how_many = "not known; if keys name the record of another, it is counted again"
    if shared is not None:
        names = "names" if shared == 1 else "name"
        how_many = (
            f"{shared:,} {_plural(shared, 'key')} {names} the record of another, counted again"
        )
    return [("CAR", f"{size}; records referenced: {records} bytes"), ("Shared", how_many)]


def _rows(collections: Collections) -> Iterable[tuple[str, ...]]:
    for named in collections.everything():
        yield name_of(named.name), *_figures(named.tally)


def _summary(shape: Shape) -> str:
    nodes = shape.nodes
    deep = max(len(shape.layers), 1)
    return (
        f"{'' if shape.complete else 'at least '}{deep:,} {_plural(deep, 'level')}, "
        f"{nodes:,} {_plural(nodes, 'node')}, {shape.entries / nodes:.1f} entries a node"
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
        "shared_records": findings.shared,
        "collections": {
            named.name: _tally_as_json(named.tally, named.timeline)
            for named in findings.collections.named()
        },
        "other_collections": {
            "collections": findings.collections.other_names,
            **_tally_as_json(findings.collections.others, findings.collections.others_timeline),
        },
        "tree": {
            "nodes": shape.nodes,
            "complete": shape.complete,
            "layers": [
                {"depth": depth, "nodes": layer.nodes, "entries": layer.entries, "most": layer.most}
                for depth, layer in enumerate(shape.layers)
            ],
        },
        **findings.missing,
    }


def _tally_as_json(tally: Tally, timeline: Timeline | Timelines) -> dict[str, object]:
    return {
        "records": tally.records,
        "bytes": tally.size,
        "largest": tally.largest,
        "months": months_by_name(timeline),
    }
