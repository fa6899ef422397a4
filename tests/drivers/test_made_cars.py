"""`made_car`: CARs of many made records, against the small builder of repos."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import anyio
import anyio.lowlevel
import cbor2
import pytest

from repo_stream import testing
from repo_stream.testing import Order, RawRecord, build_repo, made_car
from repo_stream.testing.made import main
from support import SAMPLE, traced
from support.naive import read_car

ORDERS: tuple[Order, ...] = get_args(Order)


def sign(unsigned: bytes) -> bytes:
    return unsigned[-64:]


async def whole(count: int, **options: Any) -> bytes:
    return b"".join([piece async for piece in made_car(count, **options)])


async def test_made_cars_refuse_options_that_make_no_sense() -> None:
    refused: list[dict[str, Any]] = [
        {"count": -1},
        {"collections": {}},
        {"order": "sorted"},
        {"piece_size": 0},
    ]
    for options in refused:
        arguments: dict[str, Any] = {"count": 1, **options}
        with pytest.raises(ValueError):
            await whole(**arguments)


async def made_twice(count: int, seed: int, order: Order) -> None:
    """Make a CAR, and the repo of its records by the small builder, and compare them."""
    car = await whole(count, seed=seed, order=order, rev="r", sign=sign)
    records = {key: RawRecord(data) for key, data in testing.made_records(count, seed=seed)}
    repo = build_repo(records, rev="r", sign=sign)
    roots, blocks = read_car(car)
    assert roots == [repo.commit_cid]
    assert len(blocks) == len(repo.blocks)
    assert dict(blocks) == repo.blocks
    if order != "shuffled":
        assert car == repo.to_car(order=order)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_made_car_is_what_the_small_builder_makes(order: Order) -> None:
    await made_twice(1_001, 4, order)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_made_car_of_few_records_is_what_the_small_builder_makes(order: Order) -> None:
    for seed, count in enumerate((0, 1, 2, 3, 17, 256)):
        await made_twice(count, seed, order)


async def test_shuffled_made_cars_are_shuffled_by_the_seed() -> None:
    car = await whole(500)
    assert car == await whole(500)
    [root], blocks = read_car(car)
    repo = build_repo({key: RawRecord(data) for key, data in testing.made_records(500)})
    cids = [cid for cid, _ in blocks]
    places = sorted(map(cids.index, repo.nodes))
    assert places[len(places) // 2] == pytest.approx(len(cids) / 2, rel=0.3)
    assert cids.index(root) > 0


async def test_a_made_commit_is_newer_than_its_records() -> None:
    [root], blocks = read_car(await whole(50, did="did:web:a.b"))
    head = cbor2.loads(dict(blocks)[root])
    keys = [key.partition("/")[2] for key, _ in testing.made_records(50)]
    assert max(key for key in keys if key != "self") < head["rev"]
    assert head["did"] == "did:web:a.b"


async def test_pieces_have_the_size_asked_for() -> None:
    car = await whole(20)
    for size in (1, 100, 4_096, len(car), 1 << 20):
        pieces = [piece async for piece in made_car(20, piece_size=size)]
        assert b"".join(pieces) == car
        assert {len(piece) for piece in pieces[:-1]} <= {size}
        assert 0 < len(pieces[-1]) <= size


@pytest.mark.both_loops
async def test_other_tasks_run_while_a_car_is_made() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        await whole(2_000, piece_size=1 << 30)
        tasks.cancel_scope.cancel()
    # One for each 256 records, and again for each 256 blocks.
    assert turns > 14


@pytest.mark.both_loops
async def test_a_made_car_can_be_left_early() -> None:
    async with contextlib.aclosing(made_car(300)) as pieces:
        assert (await anext(pieces)).startswith(testing.varint(58)[:1])


@pytest.mark.parametrize("order", ORDERS)
async def test_a_made_car_takes_little_memory_for_each_record(order: Order) -> None:
    count = 3_000
    await whole(100)  # imports what is needed
    for _ in range(3):  # other threads of the process, such as xdist's, may need memory in one
        with traced() as peak:
            async for _ in made_car(count, order=order):
                pass
            if peak() < 130 * count + 400_000:
                return
    pytest.fail("each time it took more memory")


async def test_made_cars_are_read_by_libipld() -> None:
    libipld: Any = pytest.importorskip("libipld")
    header, blocks = libipld.decode_car(await whole(500))
    head = blocks[header["roots"][0]]
    assert head["did"] == testing.DID
    assert "e" in blocks[head["data"]]
    types = Counter(block["$type"] for block in blocks.values() if "$type" in block)
    assert types.total() == 500
    assert sorted(types) == sorted([*testing.COLLECTIONS, "app.bsky.actor.profile"])
    for _, data in testing.made_records(500):
        assert libipld.encode_dag_cbor(libipld.decode_dag_cbor(data)) == data


# --- Command line and sample -----------------------------------------------------------------


def test_the_command_line_writes_a_made_car(tmp_path: Path) -> None:
    out = tmp_path / "out.car"
    main([str(out), "--records", "50", "--order", "stream", "--seed", "7"])
    assert out.read_bytes() == anyio.run(lambda: whole(50, order="stream", seed=7))


@pytest.mark.parametrize(
    ("out", "records", "message"),
    [
        pytest.param("made.car", "-1", "must not be negative, not -1", id="negative number"),
        pytest.param("nowhere/made.car", "1", "No such file or directory", id="no such folder"),
    ],
)
def test_the_command_line_explains_wrong_usage(
    out: str, records: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / out), "--records", records])
    assert message in capsys.readouterr().err


def test_wrong_usage_leaves_the_file_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.car"
    out.write_bytes(b"before")
    with pytest.raises(SystemExit, match="2"):
        main([str(out), "--records", "-1"])
    assert out.read_bytes() == b"before"


def test_the_sample_is_a_made_car() -> None:
    sample = SAMPLE.read_bytes()
    assert sample == anyio.run(lambda: whole(500, order="export"))
    assert len(sample) < 300_000
