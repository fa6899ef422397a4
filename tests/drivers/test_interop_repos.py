"""The protocol's own fixtures as whole repos, in memory and through the disk."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repo_stream import Cid, DriverBuilder
from repo_stream.testing import Link, build_repo, cid_of, commit, encode, tree_of, write_car
from support import from_base64, from_json, shared, walk

INTEROP = shared("interop")

BOTH_WAYS = pytest.mark.parametrize(
    "builder",
    [
        pytest.param(DriverBuilder(mem_limit_mb=10_000), id="memory"),
        pytest.param(DriverBuilder(mem_limit_mb=0), id="disk"),
    ],
)


def fixture(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((INTEROP / name).read_text("utf-8"))
    return cases


@BOTH_WAYS
async def test_example_keys_come_back_in_order(builder: DriverBuilder[bytes]) -> None:
    keys = (INTEROP / "example_keys.txt").read_text("utf-8").split()
    assert len(keys) > 150
    repo = build_repo({key: {"key": key} for key in reversed(keys)})
    outputs = await walk(repo.to_car(), builder)
    assert [output.key for output in outputs] == sorted(keys)
    assert [output.value for output in outputs] == [encode({"key": key}) for key in sorted(keys)]


@BOTH_WAYS
async def test_trees_of_the_commit_proofs_are_walked(builder: DriverBuilder[bytes]) -> None:
    # The record itself is not among the fixtures, so another stands in its place.
    unverified = builder.with_cid_verification(verify_cids=False)
    cases = fixture("commit-proof-fixtures.json")
    assert len(cases) >= 6
    for case in cases:
        leaf = Cid.parse(case["leafValue"])
        root, nodes = tree_of(dict.fromkeys(case["keys"], leaf))
        head = commit(root)
        blocks = [(cid_of(head), head), *nodes.items(), (bytes(leaf), b"leaf")]
        outputs = await walk(write_car([cid_of(head)], blocks), unverified)
        assert [output.key for output in outputs] == sorted(case["keys"])
        assert {(output.cid, output.value) for output in outputs} == {(leaf, b"leaf")}


def as_link(text: str) -> Link:
    return Link(Cid.parse(text))


@BOTH_WAYS
async def test_data_model_fixtures_are_read_as_records(builder: DriverBuilder[bytes]) -> None:
    cases = fixture("data-model-fixtures.json")
    records = {f"com.example.fixture/{n}": case for n, case in enumerate(cases)}
    car = build_repo(
        {key: from_json(case["json"], link=as_link) for key, case in records.items()}
    ).to_car()
    outputs = await walk(car, builder)
    assert [(output.key, str(output.cid), output.value) for output in outputs] == [
        (key, case["cid"], from_base64(case["cbor_base64"])) for key, case in records.items()
    ]
