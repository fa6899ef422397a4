"""The checks of `benches/fuzz.py` for the target `walk`: on seeds and on mutants of whole repos."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.fuzzing import SHORT, fuzz

Check = Callable[[bytes], None]


@pytest.fixture
def check() -> Iterator[Check]:
    walks = fuzz.Walks()
    yield walks.check
    walks.close()


def test_seeds_of_walks_pass_the_check(check: Check) -> None:
    seeds: list[bytes] = fuzz.seeds("walk")
    assert len(seeds) >= 10
    for seed in (*seeds, *SHORT):
        check(seed)


def test_mutants_of_walks_pass_the_check(check: Check) -> None:
    for mutant in fuzz.mutants("walk", 500, seed=1):
        check(mutant)


def test_a_walk_that_is_never_the_same_fails_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bytes] = []

    def never_the_same(block: bytes) -> int:
        calls.append(block)
        return len(calls)

    monkeypatch.setattr(fuzz, "_process", never_the_same)
    with pytest.raises(AssertionError):
        fuzz.check_walk(b"\0" + fuzz.seeds("walk")[-1][1:])
