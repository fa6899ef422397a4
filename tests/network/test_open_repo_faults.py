"""Whatever goes wrong with downloads, and however often: one state of the repo, or an error."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from repo_stream import (
    AccountRepo,
    DownloadBroken,
    MissingCommit,
    NothingNew,
    TornExport,
    open_car,
    open_repo,
    process,
)
from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault, Order

ORDERS: list[Order] = ["export", "stream", "shuffled"]
BROKEN = (DownloadBroken, TornExport, MissingCommit, NothingNew)


class Busy:
    """An account that writes now and then, and what its records were after each commit."""

    def __init__(self, account: AtprotoAccount, random: Random) -> None:
        self.account = account
        self.states = {account.rev: dict(account.records)}
        self._random = random

    def write(self) -> None:
        random, account = self._random, self.account
        changes: dict[str, object | None] = {note(random.randrange(200)): {"w": 1}}
        if account.records:
            key = random.choice([*account.records])
            changes[key] = random.choice([None, {"w": random.randrange(10**9)}])
        rev = account.write(changes)
        self.states[rev] = dict(account.records)

    def fault(self) -> Fault:
        random, car = self._random, self.account.car()
        at = random.randrange(len(car) + 50)
        how: dict[str, Any] = random.choice(
            [
                {"stop_at": at},
                {"reset_at": at},
                {"body": car[:at]},
                {"encoding": "gzip", "stop_at": at // 2},
                *3 * [{"during_at": at, "during": self.write}],
            ]
        )
        return Fault(times=1, skip=random.randrange(2), **how)


def note(n: int) -> str:
    return f"com.example.note/{n:03}"


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
async def test_one_state_or_an_error(
    atproto_network: AtprotoNetwork, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    kept = tmp_path / "kept.car"
    good = 0
    for number in range(30):
        records = {note(n): {"n": n % 90} for n in range(random.randrange(120))}
        account = atproto_network.add_account(f"a{number}.example.com", dict(records))
        account.order = random.choice(ORDERS)
        busy = Busy(account, random)
        for _ in range(random.randrange(4)):
            account.inject("getRepo", busy.fault())
        options: dict[str, Any] = {
            "check_first": random.random() < 0.6,
            "keep": kept if random.random() < 0.5 else None,
            "mem_limit_mb": random.choice([0, 16]),
            "retries": random.randrange(4),
        }
        found: dict[str, object] = {}
        try:
            rev = await read(atproto_network, account, found, options)
        except BROKEN:
            assert not (found and options["check_first"])
            assert names(tmp_path) == []
            continue
        good += 1
        assert found == busy.states[rev]
        if options["keep"]:
            async with open_car(kept, block_processor=process.record) as repo:
                assert {key: value async for key, value in repo} == found
            kept.unlink()
    assert 10 < good < 30


async def read(
    net: AtprotoNetwork, account: AtprotoAccount, found: dict[str, object], options: dict[str, Any]
) -> str:
    """Read the records to `found`, as far as they come; the rev."""
    async with net.network(patience=0) as network:
        opened: AbstractAsyncContextManager[AccountRepo[Any]] = open_repo(
            account.did, network=network, block_processor=process.record, **options
        )
        async with opened as repo:
            async for key, value in repo:
                assert not found or max(found) < key
                found[key] = value
            return repo.commit.rev
