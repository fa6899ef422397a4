"""Read a hostile CAR to its error, in bounded memory, and check the outcome."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from repo_stream import (
    AlreadyWalked,
    DiskBuilder,
    DiskStore,
    Driver,
    DriverBuilder,
    Output,
    RepoDriver,
    RepoStreamError,
    Source,
)
from repo_stream.testing import cid_of
from support import traced
from support.hostile import LENGTHS, Hostile

MIB = 1 << 20


AnyBuilder = DriverBuilder[Any]


@dataclass
class Outcome:
    """What came out of a CAR, and the error that ended it."""

    outputs: list[Output[Any]] = field(default_factory=list[Output[Any]])
    error: RepoStreamError | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(output.key for output in self.outputs)


@contextmanager
def bounded(size: int) -> Generator[None]:
    """Fail if Python takes memory out of proportion to the CAR's size."""
    with traced() as peak:
        yield
        assert peak() < 16 * MIB + 4 * size


async def read(source: Source, builder: AnyBuilder, store: DiskStore | None = None) -> Outcome:
    """Read a CAR to its end or to its error, which must then come again and again."""
    outcome = Outcome()
    try:
        match await builder.load_car(source):
            case Driver.Memory(_, driver):
                await walk_on(driver, outcome)
            case Driver.Disk(paused):
                if store is not None:
                    _, on_disk = await paused.finish_loading(store)
                    await walk_on(on_disk, outcome)
                else:
                    async with DiskBuilder().open() as temporary:
                        _, on_disk = await paused.finish_loading(temporary)
                        await walk_on(on_disk, outcome)
    except RepoStreamError as error:
        outcome.error = error
    return outcome


async def walk_on(driver: RepoDriver[Any], outcome: Outcome) -> None:
    try:
        while chunk := await driver.next_outputs(100):
            outcome.outputs += chunk
    except RepoStreamError as error:
        outcome.error = error
    await check_that_it_stays_at_its_end(driver, outcome.error)


async def check_that_it_stays_at_its_end(
    driver: RepoDriver[Any], error: RepoStreamError | None
) -> None:
    for n in (1, 7):
        if error is None:
            assert await driver.next_chunk(n) is None
            assert await driver.next_outputs(n) is None
            with pytest.raises(AlreadyWalked):
                aiter(driver)
            with pytest.raises(StopAsyncIteration):
                await anext(driver)
            continue
        with pytest.raises(type(error)) as again:
            await driver.next_chunk(n)
        assert again.value is error
        with pytest.raises(type(error)) as again:
            await anext(driver)
        assert again.value is error


def check(outcome: Outcome, case: Hostile, way: str) -> None:
    error = outcome.error
    assert type(error) is case.error, way
    assert {name: getattr(error, name) for name in case.fields} == case.fields, way
    assert outcome.keys == case.before, way
    for output in outcome.outputs:
        if isinstance(output.value, bytes):
            assert cid_of(output.value) == output.cid, way
        else:
            assert output.value == LENGTHS[output.cid], way
