"""Real CARs: one with CIDs of several kinds, and repos that the builder makes again."""

from __future__ import annotations

from typing import cast

import cbor2
import pytest

from repo_stream import Cid
from repo_stream.testing import RawRecord, build_repo
from support import shared
from support.decoding import decode
from support.naive import read_car, records_in

CARS = shared("cars")


@pytest.mark.parametrize("name", ["empty", "tiny", "little", "midsize"])
def test_a_real_repo_is_built_again_from_its_records(name: str) -> None:
    data = (CARS / f"{name}.car").read_bytes()
    [root], real = read_car(data)
    blocks = dict(real)
    head = cbor2.loads(blocks[root])
    repo = build_repo(
        {key: RawRecord(blocks[cid]) for key, cid in records_in(blocks, root).items()},
        did=head["did"],
        rev=head["rev"],
        sign=lambda _: cast("bytes", head["sig"]),
    )
    assert repo.commit_cid == root
    assert repo.blocks == blocks
    # Keys do not tell all of a history, but where each block comes in it they tell rather well.
    places = {cid: place for place, (cid, _) in enumerate(real)}
    misplaced = [abs(places[cid] - place) for place, cid in enumerate(repo.ordered("export"))]
    assert sum(misplaced) / len(real) < len(real) / 20 + 1


def test_the_basic_fixture_of_carv1_is_read() -> None:
    """One file with CIDv0, raw and DAG-CBOR blocks, and two roots."""
    outcome = decode((CARS / "carv1_basic.car").read_bytes())
    assert outcome.error is None
    assert outcome.header is not None
    assert list(map(str, outcome.header.roots)) == [
        "bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm",
        "bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm",
    ]
    assert [(str(Cid(cid)), len(data)) for cid, data in outcome.blocks] == [
        ("bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm", 55),
        ("QmNX6Tffavsya4xgBi2VJQnSuqy9GsxongxZZ9uZBqp16d", 97),
        ("bafkreifw7plhl6mofk6sfvhnfh64qmkq73oeqwl6sloru6rehaoujituke", 4),
        ("QmWXZxVQ9yZfhQxLD35eDR8LiMRsYtHxYqTFCBbJoiJVys", 94),
        ("bafkreiebzrnroamgos2adnbpgw5apo3z4iishhbdx77gldnbk57d4zdio4", 4),
        ("QmdwjhxpxzcMsR3qUuj7vUL8pbA7MgR3GAxWi2GLHjsKCT", 47),
        ("bafkreidbxzk2ryxwwtqxem4l3xyyjvw35yu4tcct4cqeqxwo47zhxgxqwq", 4),
        ("bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm", 18),
    ]
