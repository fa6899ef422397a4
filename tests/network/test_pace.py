from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from repo_stream.network.pace import Pace, Patience


def test_silent_server_is_too_slow_after_the_whole_time() -> None:
    assert Pace().left == 30


def test_time_runs_from_the_beginning_until_enough_has_come() -> None:
    pace = Pace()
    pace.took(29_999, 10)
    assert pace.left == 20
    pace.took(1, 5)
    assert pace.left == pytest.approx(25)  # 30,000 bytes: of the piece after 10 seconds, and after


def test_large_piece_begins_the_time_anew() -> None:
    pace = Pace()
    pace.took(30_000, 29)
    assert pace.left == 30


def test_steady_server_of_the_least_speed_is_never_too_slow() -> None:
    pace = Pace()
    for _ in range(200):
        pace.took(1000, 1)
        assert pace.left > 0


def test_steady_server_below_it_is_too_slow_after_the_whole_time() -> None:
    pace = Pace()
    while pace.left > 0:
        pace.took(999, 1)
    assert pace.waited == 30


def test_server_that_becomes_slow_is_given_up_soon() -> None:
    pace = Pace()
    pace.took(100_000_000, 1)
    while pace.left > 0:
        pace.took(500, 1)
    assert 30 <= pace.waited - 1 <= 31


def test_tiny_pieces_are_not_remembered_for_ever() -> None:
    pace = Pace(bytes_per_second=10, seconds=3)
    for _ in range(1000):
        pace.took(1, 0.001)
    assert len(vars(pace)["_pieces"]) == 30


steps = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([0, 1, 500, 5000, 20_000, 29_999, 30_000]))
)


@given(steps)
def test_too_slow_means_some_thirty_seconds_had_too_little(steps: list[tuple[int, int]]) -> None:
    pace = Pace()
    pieces: list[tuple[int, int]] = []
    now = 0
    for seconds, size in steps:
        now += seconds
        # The last moment of the wait is the worst: the piece itself is not there yet.
        enough = now < 30 or sum(size for at, size in pieces if at > now - 30) >= 30_000
        on_the_edge = now == 30 or any(at == now - 30 for at, _ in pieces)
        if not on_the_edge:
            assert (seconds < pace.left) == enough or seconds == 0
        if not enough or seconds >= pace.left:
            return
        pieces.append((now, size))
        pace.took(size, seconds)


# --- Patience -------------------------------------------------------------------------------------


def test_pauses_are_doubled_until_patience_is_used_up() -> None:
    patience, now, pauses = Patience(60, now=100), 100.0, list[float]()
    while (pause := patience.pause(None, now=now)) is not None:
        pauses.append(pause)
        now += pause
    assert pauses == [0.5, 1, 2, 4, 8, 16]


def test_pause_that_the_server_asks_for_is_made() -> None:
    assert Patience(60, now=0).pause(7.5, now=0) == 7.5


def test_server_that_asks_for_no_pause_is_not_hammered() -> None:
    patience = Patience(60, now=0)
    assert [patience.pause(0, now=0) for _ in range(3)] == [0.5, 1, 2]


@pytest.mark.parametrize(("asked", "pause"), [(40, 40), (40.01, None)])
def test_pause_beyond_patience_is_not_made(asked: float, pause: float | None) -> None:
    assert Patience(60, now=0).pause(asked, now=20) == pause
