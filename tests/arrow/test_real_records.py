"""Real exports: every record of every collection comes back from its typed row."""

from __future__ import annotations

from typing import Any

import pytest

from repo_stream import Output, open_car
from repo_stream.arrow.inference import Inferred
from repo_stream.arrow.typed_batching import TypedCollector, TypedRow, typed_processor
from repo_stream.ipld.datamodel import to_atproto_json
from support import shared
from support.typed_rows import record_of

pytest.importorskip("pyarrow")

CARS = shared("cars")


@pytest.mark.parametrize("name", ["tiny", "little", "midsize"])
async def test_every_record_of_every_collection_comes_back(name: str) -> None:
    found: dict[str, list[Output[TypedRow]]] = {}
    async with open_car(CARS / f"{name}.car", block_processor=typed_processor()) as repo:
        async for output in repo.outputs():
            found.setdefault(output.collection, []).append(output)
    for outputs in found.values():
        inferred = Inferred()
        for output in outputs:
            inferred.add(output.value[0])
        collector = TypedCollector(inferred.schema())
        collector.begin(repo.commit.did, repo.commit.rev)
        collector.add(*zip(*outputs, strict=True))
        rows: list[dict[str, Any]] = collector.take().to_pylist()
        for row, output in zip(rows, outputs, strict=True):
            assert row["rkey"] == output.rkey
            # Their JSON tells 1 from true, and a link from its bytes.
            rebuilt = record_of(row, collector.schema)
            assert to_atproto_json(rebuilt) == to_atproto_json(output.value[0])
            # Only explicit nulls do not fit.
            assert row["other"] is None or ":null" in row["other"]
