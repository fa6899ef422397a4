"""`repo-stream verify` of CARs with damage at any byte: the check that it concerns fails.

Each test runs the command some hundred times, in this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from repo_stream.cli import main
from repo_stream.testing import build_repo, key_height, section
from support.keys import did_key, signer

PRIVATE = ec.derive_private_key(1, ec.SECP256K1())
NAMES = [f"a.b.c/{n}" for n in range(100)]
LEAVES, HIGHER = ([key for key in NAMES if bool(key_height(key)) == high] for high in (False, True))
KEYS = [*LEAVES[:2], *HIGHER[:1]]
REPO = build_repo({key: {"text": key} for key in KEYS}, sign=signer(PRIVATE))
CAR = REPO.to_car()

#: Gives the names of the checks that fail for a CAR.
Failed = Callable[[bytes], set[str]]


@pytest.fixture
def failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Failed:
    path = tmp_path / "a.car"

    def failed(car: bytes) -> set[str]:
        path.write_bytes(car)
        code = main(["verify", "--json", "--key", did_key(PRIVATE), str(path)])
        out, err = capsys.readouterr()
        report = json.loads(out)
        names = {check["name"] for check in report["checks"] if check["status"] == "failed"}
        assert err == ""
        assert (code, report["ok"]) == ((1, False) if names else (0, True))
        return names

    return failed


def parts() -> list[tuple[int, str]]:
    """Where in the CAR each part begins, and what it is."""
    found = [(0, "header")]
    for cid, block in REPO.blocks.items():
        at = CAR.index(section(cid, block))
        found += [(at, "frame"), (CAR.index(block, at), "record or node")]
        if cid == REPO.commit_cid:
            found[-1] = (found[-1][0], "commit")
    return sorted(found)


CONCERNS = {
    "header": {"car", "commit"},
    "frame": {"car", "blocks"},
    "record or node": {"blocks"},
    "commit": {"blocks"},
}


def test_repo_has_a_tree_of_two_levels() -> None:
    assert len(REPO.nodes) > 1
    assert len(parts()) == 1 + 2 * len(REPO.blocks)


def test_undamaged_car_fails_nothing(failed: Failed) -> None:
    assert failed(CAR) == set()


@pytest.mark.long
def test_flipped_bit_fails_what_it_concerns(failed: Failed) -> None:
    wrong: list[tuple[int, str, set[str]]] = []
    for offset in range(len(CAR)):
        flipped = bytes((CAR[offset] ^ 1 << offset % 8,))
        found = failed(CAR[:offset] + flipped + CAR[offset + 1 :])
        what = next(what for start, what in reversed(parts()) if start <= offset)
        if not found & CONCERNS[what] or (what == "commit" and "commit" not in found):
            wrong.append((offset, what, found))
    assert wrong == []


def test_two_wrong_bytes_in_a_block_lose_what_it_is(failed: Failed) -> None:
    """No repair helps then: what the block is, is missing."""
    for cid, block in REPO.blocks.items():
        bad = block[:-2] + bytes(255 - byte for byte in block[-2:])
        found = failed(CAR.replace(block, bad))
        if cid == REPO.commit_cid:
            assert found == {"blocks", "commit"}
        elif cid in REPO.nodes:
            assert found == {"blocks", "tree", "records"}
        else:
            assert found == {"blocks", "records"}


def test_cut_car_is_not_valid(failed: Failed) -> None:
    ends = {start for start, what in parts() if what == "frame"}
    wrong: list[tuple[int, set[str]]] = []
    for offset in sorted(ends | {*range(0, len(CAR), 4)}):
        found = failed(CAR[:offset])
        if ("car" in found) != (offset not in ends) or not found:
            wrong.append((offset, found))
    assert wrong == []


def test_missing_byte_fails_what_it_concerns(failed: Failed) -> None:
    wrong: list[tuple[int, set[str]]] = []
    for offset in range(0, len(CAR), 5):
        found = failed(CAR[:offset] + CAR[offset + 1 :])
        if not found & {"car", "blocks", "commit"}:
            wrong.append((offset, found))
    assert wrong == []


def test_missing_section_is_missed(failed: Failed) -> None:
    for cid, block in REPO.blocks.items():
        found = failed(CAR.replace(section(cid, block), b""))
        if cid == REPO.commit_cid:
            assert found == {"commit"}
        else:
            assert found == ({"tree", "records"} if cid in REPO.nodes else {"records"})
