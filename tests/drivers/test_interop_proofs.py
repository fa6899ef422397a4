"""The proofs of commits that the protocol publishes: slices, and what they prove."""

from __future__ import annotations

import json
from typing import Any, cast

from repo_stream import Absent, Cid, DriverBuilder, Gap, Present
from repo_stream.testing import BuiltRepo, cid_of, commit, tree_of, write_car
from support import shared
from support.slices import (
    EVERY_WAY,
    check_key,
    check_range,
    chunks,
    cut_proof,
    driver_of,
    neighbours,
    pairs_of,
    places,
    slice_of,
)

INTEROP = shared("interop")

BUILDER = DriverBuilder()
GAPS = BUILDER.with_gaps()


def commit_proofs() -> list[dict[str, Any]]:
    text = (INTEROP / "commit-proof-fixtures.json").read_text("utf-8")
    return cast("list[dict[str, Any]]", json.loads(text))


def tree_repo(keys: set[str], leaf: Cid) -> BuiltRepo:
    """A repo whose every record is one that nobody has."""
    records = {key: bytes(leaf) for key in sorted(keys)}
    root, nodes = tree_of(records)
    head = commit(root)
    blocks = {cid_of(head): head, **nodes}
    return BuiltRepo(cid_of(head), head, root, tuple(nodes), records, blocks, {})


@EVERY_WAY
async def test_commit_proofs_prove_what_the_commit_did(way: str) -> None:
    for case in commit_proofs():
        leaf = Cid.parse(case["leafValue"])
        adds, dels = set(case["adds"]), set(case["dels"])
        before = set(case["keys"])
        repo = tree_repo((before | adds) - dels, leaf)
        assert repo.root == Cid.parse(case["rootAfterCommit"])
        proof = {bytes(Cid.parse(text)) for text in case["blocksInProof"]}
        assert proof <= repo.blocks.keys()
        part = slice_of(repo, proof)
        async with driver_of(way, part.car(), BUILDER) as driver:
            for key in adds:
                assert await driver.prove(key) == Present(key, leaf)
            for key in dels:
                assert await driver.prove(key) == Absent(key, *neighbours(repo, key, key))
                high = cut_proof(repo, key)
                assert high.blocks - {repo.commit_cid} <= proof
                async with driver_of(way, high.car(), BUILDER) as cut:
                    await check_key(cut, high, key)
                    assert isinstance(await cut.prove(key), Absent)
            for place in {*places(repo), *before}:
                await check_key(driver, part, place)
            for start in sorted(before | adds):
                await check_range(driver, part, start, start + "z")
        async with driver_of(way, part.car(), GAPS) as driver:
            pairs = await chunks(driver)
            assert pairs == pairs_of(part)
        # The proof may be all of a small tree; else what it leaves out is a gap, and no more.
        missing = {value.cid for _, value in pairs if isinstance(value, Gap) and value.key is None}
        assert missing.isdisjoint(proof)
        assert bool(missing) == (repo.blocks.keys() - {repo.commit_cid} != proof)
        # The repo before it is another one: nothing there is proven by these blocks.
        old = tree_repo(before, leaf)
        assert old.root == Cid.parse(case["rootBeforeCommit"])
        foreign = write_car(
            [old.commit_cid],
            [(old.commit_cid, old.commit), *[(cid, repo.blocks[cid]) for cid in proof]],
        )
        async with driver_of(way, foreign, BUILDER) as driver:
            for key in adds | dels:
                await check_key(driver, slice_of(old, proof & old.blocks.keys()), key)
