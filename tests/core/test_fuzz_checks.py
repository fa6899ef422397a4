"""The checks of `benches/fuzz.py` for the targets `car` and `node`: on seeds and on mutants."""

from __future__ import annotations

import pytest

from support.fuzzing import SHORT, fuzz

TARGETS = pytest.mark.parametrize("target", ["car", "node"])


@TARGETS
def test_seeds_pass_the_checks(target: str) -> None:
    seeds: list[bytes] = fuzz.seeds(target)
    assert len(seeds) >= 10
    for seed in (*seeds, *SHORT):
        fuzz.CHECKS[target](seed)


@pytest.mark.parametrize(("target", "count"), [("car", 500), ("node", 5_000)], ids=["car", "node"])
def test_mutants_of_seeds_pass_the_checks(target: str, count: int) -> None:
    for mutant in fuzz.mutants(target, count, seed=1):
        fuzz.CHECKS[target](mutant)


def test_a_node_decoder_that_takes_too_much_fails_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = fuzz.decode_node_plainly

    def careless(block: bytes, cid: bytes, limits: object) -> object:
        return plain(block.rstrip(b"\0"), cid, limits)

    monkeypatch.setattr(fuzz, "decode_node_plainly", careless)
    with pytest.raises(AssertionError):
        fuzz.check_node(fuzz.seeds("node")[0] + b"\0")


def test_a_car_that_is_written_otherwise_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_length(cid: bytes, data: bytes) -> bytes:
        return cid + data

    monkeypatch.setattr(fuzz, "section", without_length)
    with pytest.raises(AssertionError):
        fuzz.check_car(fuzz.seeds("car")[0])
