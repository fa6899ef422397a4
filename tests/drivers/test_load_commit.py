"""The commit alone, after as few bytes as possible."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from repo_stream import (
    BadCarHeader,
    BadCommit,
    CidMismatch,
    LimitExceeded,
    Limits,
    MissingCommit,
    MissingRoot,
    TruncatedCar,
    load_commit,
    open_car,
)
from repo_stream.testing import build_repo, cid_of, write_car
from support import pieces_of

REPO = build_repo({f"com.example.a/{n:05}": {"n": n, "text": "x" * 100} for n in range(2000)})
CAR = write_car([REPO.commit_cid], REPO.blocks.items())


class Counted:
    """A source that counts what it gave, and fails where it is closed."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.given = 0
        self.asked: list[int] = []

    async def read(self, n: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        self.asked.append(n)
        piece = self.data[self.given : self.given + n]
        self.given += len(piece)
        return piece

    async def aclose(self) -> None:
        pytest.fail("it is the caller's to close")


async def test_commit_that_comes_first_takes_few_bytes_and_closes_nothing() -> None:
    source = Counted(CAR)
    found = await load_commit(source)
    assert (found.cid, found.data) == (REPO.commit_cid, REPO.root)
    assert source.given <= 4096 < len(CAR) / 50
    assert await source.read(1)
    async with open_car(CAR) as repo:
        assert repo.commit == found


async def test_commit_that_comes_first_takes_one_piece() -> None:
    given = 0

    async def pieces() -> AsyncGenerator[bytes]:
        nonlocal given
        for at in range(0, len(CAR), 500):
            given += 1
            yield CAR[at : at + 500]

    source = pieces()
    assert (await load_commit(source)).cid == REPO.commit_cid
    assert given == 1
    assert await anext(source)  # it stays the caller's
    await source.aclose()


async def test_pieces_grow_until_the_commit_comes() -> None:
    order = [*reversed(list(REPO.blocks.items()))]
    source = Counted(write_car([REPO.commit_cid], order))
    assert (await load_commit(source)).cid == REPO.commit_cid
    assert source.asked == [4096 << n for n in range(len(source.asked))]
    assert len(source.asked) > 3


async def test_pieces_grow_to_256_kib_at_most() -> None:
    source = Counted(
        write_car([cid_of(b"x")], [(cid, data) for cid, data in REPO.blocks.items()] * 4)
    )
    with pytest.raises(MissingCommit):
        await load_commit(source)
    assert max(source.asked) == 1 << 18


async def test_commit_that_comes_last_is_found(tmp_path: Path) -> None:
    order = [*reversed(list(REPO.blocks.items()))]
    path = tmp_path / "repo.car"
    await anyio.Path(path).write_bytes(write_car([REPO.commit_cid], order))
    assert (await load_commit(path)).cid == REPO.commit_cid


async def test_truncated_car_gives_its_commit() -> None:
    cut = CAR[: len(CAR) // 2]
    for size in (1, 7, 4096):
        assert (await load_commit(pieces_of(cut, size))).cid == REPO.commit_cid


async def test_car_without_a_commit_that_can_be_read_is_refused() -> None:
    with pytest.raises(MissingRoot):
        await load_commit(write_car([], []))
    with pytest.raises(BadCarHeader):
        await load_commit(b"\x00" * 50)
    with pytest.raises(MissingCommit):
        await load_commit(write_car([cid_of(b"x")], REPO.blocks.items()))
    with pytest.raises(TruncatedCar):
        await load_commit(CAR[:100])
    with pytest.raises(CidMismatch):
        await load_commit(write_car([REPO.commit_cid], [(REPO.commit_cid, b"wrong")]))
    wrong = write_car([REPO.commit_cid], [(REPO.commit_cid, b"wrong")])
    with pytest.raises(BadCommit):
        await load_commit(wrong, verify_cids=False)
    with pytest.raises(LimitExceeded):
        await load_commit(CAR, limits=Limits(block_bytes=10))
