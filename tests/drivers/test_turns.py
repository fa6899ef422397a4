"""Long work lets other tasks have their turn, and may be cancelled whenever it does.

How much is done between two turns is measured in `tests/system/test_responsive.py`.
"""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from repo_stream import CarReader, DriverBuilder, Output
from repo_stream.car.reader import PIECE_SIZE
from repo_stream.testing import build_car
from repo_stream.turn import Turn
from support.driving import driving

RECORDS = 3_000
CAR = build_car({f"com.example.a/{n:05}": {"n": n, "text": "x" * 99} for n in range(RECORDS)})


async def test_turn_is_over_after_more_than_10_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = 100.0, 0

    async def let_others() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr("repo_stream.turn.perf_counter", lambda: now)
    monkeypatch.setattr("repo_stream.turn.checkpoint", let_others)
    turn = Turn()
    for passed, expected in ((0.0, 0), (0.0099, 0), (0.0002, 1), (0.0099, 1), (0.0002, 2)):
        now += passed
        await turn.pause_if_over()
        assert turns == expected


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a turn be over whenever somebody asks."""
    monkeypatch.setattr("repo_stream.turn._TURN", -1.0)


@pytest.mark.both_loops
@pytest.mark.usefixtures("short_turns")
async def test_repos_walked_at_once_share_the_time() -> None:
    seen = [0, 0, 0, 0]
    first: list[int] = []

    async def walk(number: int) -> None:
        # In memory, as when threads get on is up to the system.
        async with driving(CAR, DriverBuilder()) as driver:
            while chunk := await driver.next_chunk(100):
                seen[number] += len(chunk)
        first.extend([] if first else seen)

    async with anyio.create_task_group() as tasks:
        for number in range(len(seen)):
            tasks.start_soon(walk, number)
    assert seen == [RECORDS] * 4
    # One after the other, three would have nothing when the first is done.
    assert min(first) > RECORDS / 2


@pytest.mark.parametrize("way", ["memory", "disk", "reader", "before the header"])
@pytest.mark.usefixtures("short_turns")
async def test_damage_without_end_lets_other_tasks_run(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    async def let_others() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr("repo_stream.turn.checkpoint", let_others)

    async def turns_of_others(pieces: int) -> int:
        before = turns
        junk = bytes(pieces * PIECE_SIZE)
        car = CAR + junk if way != "before the header" else junk + CAR
        if way in {"memory", "disk"}:
            builder = DriverBuilder(mem_limit_mb=0 if way == "disk" else 16).with_gaps()
            async with driving(car, builder) as driver:
                assert driver.damage_count == 1
        else:
            async with await CarReader.open(car, past_damage=True) as reader:
                while await reader.next_blocks():
                    pass
            assert reader.damage_count == 1
        return turns - before

    assert await turns_of_others(12) >= await turns_of_others(4) + 7


@pytest.mark.both_loops
@pytest.mark.usefixtures("short_turns")
async def test_huge_chunk_cancelled_at_any_turn_loses_no_record() -> None:
    async def cancel(scope: anyio.CancelScope, turns: int) -> None:
        for _ in range(turns):
            await checkpoint()
        scope.cancel()

    expected: list[Output[bytes]] | None = None
    cancelled = 0
    for turns in range(20):
        async with driving(CAR, DriverBuilder()) as driver:
            seen: list[Output[bytes]] = []
            # Some of these calls are cancelled while they walk, and when that is done, while they
            # make the chunk of what they have.
            for _ in range(3):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel, tasks.cancel_scope, turns)
                    seen += await driver.next_outputs(10 * RECORDS) or []
                cancelled += tasks.cancel_scope.cancelled_caught
            seen += await driver.next_outputs(7) or []
            seen += await driver.next_outputs(10 * RECORDS) or []
            assert await driver.next_outputs(1) is None
        expected = expected or seen
        assert seen == expected
        assert len(seen) == RECORDS
    assert cancelled > 10
