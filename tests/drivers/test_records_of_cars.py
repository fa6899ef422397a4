"""`records`: `open_car` and its outputs in one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from repo_stream import Output, TruncatedCar, open_car, records
from repo_stream.testing import build_repo

pytestmark = pytest.mark.both_loops

RECORDS = {f"app.test.{c}/{n:03}": {"n": n, "text": c * 200} for c in "ab" for n in range(99)}
CAR = build_repo(RECORDS).to_car(order="stream")


async def pieces(read: list[int]) -> AsyncGenerator[bytes]:
    for start in range(0, len(CAR), 1000):
        read.append(start)
        yield CAR[start : start + 1000]


async def test_they_are_the_outputs_of_the_repo() -> None:
    async with open_car(CAR, collections=["app.test.b"]) as repo:
        expected = [output async for output in repo.outputs()]
    found = [output async for output in records(CAR, collections=["app.test.b"])]
    assert len(found) == 99
    assert found == expected
    assert isinstance(found[0], Output)


async def test_nothing_is_read_before_the_loop_and_no_more_after_it() -> None:
    read: list[int] = []
    async with aclosing(pieces(read)) as source:  # which is not closed by those who read it
        reading = records(source, block_processor=len)
        assert read == []
        async with aclosing(reading):
            async for output in reading:
                assert output.key == "app.test.a/000"
                break
    assert 0 < len(read) < 9


async def test_records_before_an_error_come_first() -> None:
    keys: list[str] = []
    with pytest.raises(TruncatedCar):  # noqa: PT012 - the loop is what raises
        async for output in records(CAR[:-100]):
            keys.append(output.key)  # noqa: PERF401 - those before the error count
    assert len(keys) > 100


async def test_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="on_error"):
        records(CAR, on_error="ignore")  # type: ignore[call-overload] # pyright: ignore - it is wrong
