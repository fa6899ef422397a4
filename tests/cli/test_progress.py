"""What the progress bar computes: how fast it goes, and what time is left."""

from __future__ import annotations

import pytest

from repo_stream.cli.progress import Pace, in_words


def test_pace_is_that_of_the_last_ten_seconds() -> None:
    pace = Pace()
    assert pace.per_second() == 0
    for second in range(60):  # first 1,000 bytes a second, then 10
        pace.add(second, min(second, 30) * 1000 + max(second - 30, 0) * 10)
    assert pace.per_second() == 10
    assert pace.time_to(30_290 + 50) == 5
    assert pace.time_to(0) == 0


def test_time_left_is_not_guessed() -> None:
    pace = Pace()
    assert pace.time_to(1000) is None
    pace.add(0, 0)
    pace.add(0.9, 500)
    assert pace.time_to(1000) is None  # too soon
    pace.add(1, 500)
    assert pace.time_to(1000) == 1
    for second in range(2, 30):
        pace.add(second, 500)
    assert pace.time_to(1000) is None  # nothing comes any more


def test_time_left_grows_while_nothing_comes() -> None:
    pace = Pace()
    left: list[float] = []
    for second in range(10):
        pace.add(second, min(second, 5) * 100)
        left.append(pace.time_to(1000) or 0)
    assert left[5:] == sorted(set(left[5:]))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0:00"), (0.1, "0:01"), (59.1, "1:00"), (754, "12:34"), (5025, "1:23:45")],
)
def test_time_is_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
