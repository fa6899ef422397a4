"""A CAR that ends too early or lacks a block is never taken for a whole one."""

from __future__ import annotations

from typing import Any

import pytest

from repo_stream import (
    DiskBuilder,
    DiskStore,
    DriverBuilder,
    MissingBlock,
    NothingNew,
    TruncatedCar,
)
from repo_stream.testing import build_repo, car_header, section
from support.hostile_reading import AnyBuilder, read

MEMORY: AnyBuilder = DriverBuilder(mem_limit_mb=10_000)
DISK: AnyBuilder = DriverBuilder(mem_limit_mb=0)


def small_repo() -> tuple[bytes, list[int], tuple[str, ...]]:
    """A CAR of two nodes and a few records, where its sections end, and its keys in order."""
    repo = build_repo({f"com.example.a/{n}": {"n": n} for n in range(3)} | {"blue": {"n": 3}})
    car = repo.to_car(order="stream")
    ends = [len(car_header([repo.commit_cid]))]
    for cid, data in repo.blocks.items():
        ends.append(ends[-1] + len(section(cid, data)))
    assert ends[-1] == len(car)
    return car, ends, tuple(repo.records)


CAR, ENDS, KEYS = small_repo()


async def check_truncated(at: int, builder: AnyBuilder, store: DiskStore | None = None) -> None:
    outcome = await read(CAR[:at], builder, store)
    if at not in ENDS:
        assert isinstance(outcome.error, TruncatedCar)
        assert outcome.error.offset == max((end for end in ENDS if end <= at), default=0)
        assert outcome.outputs == []
    elif at == ENDS[0]:
        assert isinstance(outcome.error, NothingNew)
    elif at < ENDS[-1]:
        assert isinstance(outcome.error, MissingBlock)
        assert outcome.keys == KEYS[: len(outcome.outputs)]
        assert "incomplete" in str(outcome.error)
    else:
        assert outcome.error is None
        assert outcome.keys == KEYS


async def test_truncated_car_is_refused_at_every_offset() -> None:
    for at in range(len(CAR) + 1):
        await check_truncated(at, MEMORY)


async def test_truncated_car_is_refused_on_its_way_to_disk() -> None:
    near = {at for end in ENDS for at in (end - 1, end, end + 1, end + 2, end + 40)}
    async with DiskBuilder().open() as store:
        for at in sorted(near & {*range(len(CAR) + 1)}):
            await check_truncated(at, DISK, store)


@pytest.mark.parametrize(
    ("builder", "process"),
    [(MEMORY, None), (DISK, None), (MEMORY, len), (DISK, len)],
    ids=["memory", "disk", "memory-processed", "disk-processed"],
)
@pytest.mark.parametrize("kind", ["node", "record"])
async def test_missing_block_is_named(kind: str, builder: AnyBuilder, process: Any) -> None:
    repo = build_repo({f"com.example.a/{n:04}": {"n": n} for n in range(500)})
    keys = list(repo.records)
    lost = repo.records[keys[300]] if kind == "record" else repo.nodes[-1]
    if process is not None:
        builder = builder.with_block_processor(process)
    outcome = await read(repo.to_car(omit=[lost]), builder)
    error = outcome.error
    assert isinstance(error, MissingBlock)
    assert error.cid == lost
    assert error.kind == kind
    assert error.key == (keys[300] if kind == "record" else None)
    assert list(outcome.keys) == keys[: len(outcome.outputs)]
    assert [output.cid for output in outcome.outputs] == list(repo.records.values())[
        : len(outcome.outputs)
    ]
    if kind == "record":
        assert len(outcome.outputs) == 300
