"""The memory limit against what a process really grows by, peak against peak.

Every case runs in a process of its own: it loads a made repo in shuffled order, the worst there is,
walks all of it, and says by how much its peak grew over what it had after its imports.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from support.growth import MIB, Cars, measured, most, needs_peak

pytestmark = needs_peak

# The arguments: the CAR, the limit in MiB, a processor's name, whether a file over the limit is
# copied to a store, as one that is open already, or stays in place; how many records to take at
# once, or 0 for no walk; and how many walks at once.
CHILD = """
PROCESSORS = {
    "raw": noop,
    "length": length,
    "stored at length": Processor(len, dumps=lambda _: bytes(20_000), loads=len),
    "dict": lambda block: {"size": len(block), "head": block[:20]},
}

async def count(driver, n):
    records = 0
    while chunk := await driver.next_chunk(n):
        records += len(chunk)
    return records

async def read(source, builder, n):
    records, where = None, "memory"
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            if n:
                records = await count(driver, n)
        case Driver.Disk(paused):
            where = "disk"
            if n:
                async with DiskBuilder().open() as store:
                    _, driver = await paused.finish_loading(store)
                    records = await count(driver, n)
                    if not isinstance(source, str):
                        assert store.stored > 0
            await paused.aclose()
    return {"where": where, "records": records}

async def main(car, limit, processor, form, n, walks):
    builder = DriverBuilder(mem_limit_mb=float(limit), block_processor=PROCESSORS[processor])
    said = []

    async def walk():
        if form == "in place":
            said.append(await read(car, builder, int(n)))
        else:
            async with await anyio.open_file(car, "rb") as file:
                said.append(await read(file, builder, int(n)))

    async with anyio.create_task_group() as tasks:
        for _ in range(int(walks)):
            tasks.start_soon(walk)
    assert said == int(walks) * said[:1]
    return said[0]

measure(main)
"""

LARGE, MIDDLE, SMALL = 140_000, 60_000, 40_000
# What the index of a log takes in memory for a record and its nodes, as far as it has room.
INDEXED = 12


@dataclass(frozen=True)
class Case:
    """One child: what it reads, and how."""

    records: int
    limit: float
    processor: str = "raw"
    backend: str = "asyncio"
    copied: bool = True  # to a store, if it does not fit; else it stays in its file
    walks: int = 1  # at once
    at_once: int = 256  # records to a chunk; 0 is no walk at all
    size: int = 0  # of each record, in bytes; 0 is as they are made


def grown(cars: Cars, case: Case, *, where: str | None) -> int:
    """Run a child; give the bytes that it grew by, once its blocks were where they are to be."""
    car = cars.large(case.records, case.size) if case.size else cars.made(case.records)
    said = measured(
        CHILD,
        car,
        case.limit,
        case.processor,
        "copied" if case.copied else "in place",
        case.at_once,
        case.walks,
        backend=case.backend,
        small_heap=bool(case.size),
    )
    assert said["records"] == (case.records if case.at_once else None)
    assert where in {None, said["where"]}
    growth: int = said["grown"]
    return growth


# In place at a limit of 1, what grows with the repo, the places of its blocks, goes to the store.
@pytest.mark.long
@pytest.mark.parametrize(
    ("limit", "processor", "copied"),
    [
        pytest.param(16, "raw", True, id="16 MiB, raw, copied"),
        pytest.param(8, "length", True, id="8 MiB, lengths, copied"),
        pytest.param(16, "raw", False, id="16 MiB, raw, in place"),
        pytest.param(1, "length", False, id="1 MiB, lengths, in place"),
    ],
)
def test_growth_does_not_depend_on_the_size(
    cars: Cars, limit: float, processor: str, copied: bool
) -> None:
    found: dict[int, list[int]] = {SMALL: [], LARGE: []}
    # From one run to the next, the peak of a process differs by up to 1.5 MiB.
    for _ in range(3):
        for records, growths in found.items():
            case = Case(records, limit, processor, copied=copied)
            growths.append(grown(cars, case, where="disk"))
            # A limit is there to be used: repos that fit stay in memory.
            assert 0.75 * limit * MIB <= growths[-1] <= most(limit)
        if min(found[LARGE]) <= max(found[SMALL]) + 1.5 * MIB + INDEXED * (LARGE - SMALL):
            return
    pytest.fail(f"bytes that processes grew by, by the number of records: {found}")


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(MIDDLE, 0), id="0 MiB, raw, copied"),
        pytest.param(Case(MIDDLE, 1, "length"), id="1 MiB, lengths, copied"),
        pytest.param(Case(SMALL, 8, "dict", "trio"), id="8 MiB, dicts, copied, trio"),
        pytest.param(Case(LARGE, 32, "dict"), id="32 MiB, dicts, copied"),
        pytest.param(Case(LARGE, 40), id="40 MiB, raw, copied"),
        pytest.param(Case(LARGE, 0, copied=False), id="0 MiB, raw, in place"),
        pytest.param(
            Case(SMALL, 8, "dict", "trio", copied=False), id="8 MiB, dicts, in place, trio"
        ),
        pytest.param(Case(LARGE, 40, "dict", copied=False), id="40 MiB, dicts, in place"),
    ],
)
def test_growth_through_the_disk_is_within_the_limit(cars: Cars, case: Case) -> None:
    growth = grown(cars, case, where="disk")
    assert 0.75 * case.limit * MIB <= growth <= most(case.limit)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(MIDDLE, 40), id="40 MiB, raw"),
        pytest.param(Case(MIDDLE, 20, "length"), id="20 MiB, lengths"),
    ],
)
def test_growth_in_memory_is_within_the_limit(cars: Cars, case: Case) -> None:
    growth = grown(cars, case, where="memory")
    assert 0.5 * case.limit * MIB <= growth <= most(case.limit)


def test_growth_is_within_the_limit_if_only_compiled_it_has_room(cars: Cars) -> None:
    growth = grown(cars, Case(LARGE, 30, "length"), where=None)
    assert 0.75 * 30 * MIB <= growth <= most(30)


# Of thousands of large blocks to a write, `sqlite3` copied hundreds at a time.
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "in place"])
def test_growth_by_large_records_is_within_the_limit(cars: Cars, copied: bool) -> None:
    case = Case(200, 16, size=250_000, at_once=4, copied=copied)
    assert grown(cars, case, where="disk") <= most(16)


def test_growth_by_results_that_are_long_on_disk_is_within_the_limit(cars: Cars) -> None:
    assert grown(cars, Case(5000, 1, "stored at length"), where="disk") <= most(1)


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(20_000, 4, walks=8), id="copied"),
        pytest.param(Case(20_000, 4, walks=8, backend="trio"), id="copied, trio"),
        pytest.param(Case(20_000, 4, walks=8, copied=False), id="in place"),
    ],
)
def test_growth_by_eight_repos_at_once_is_within_their_limits(cars: Cars, case: Case) -> None:
    # What a process needs beyond low limits it needs once.
    once = 8 * case.limit * 1.15 * MIB + 12 * MIB
    assert grown(cars, case, where="disk") <= min(8 * most(case.limit), once)


# A dict that is full is copied into one of twice its size. With results as small as these, that is
# a fifth of these limits, and it happens right before they are reached.
@pytest.mark.parametrize("limit", [12, 24], ids="{} MiB".format)
def test_growth_of_a_table_is_within_the_limit(cars: Cars, limit: float) -> None:
    assert grown(cars, Case(LARGE, limit, "length", at_once=0), where="disk") <= limit * MIB
