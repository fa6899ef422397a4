"""What a process grows by while it downloads the repo of an account and walks it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Order
from support.growth import MIB, measured, most, needs_peak

pytestmark = [needs_peak, pytest.mark.long]

RECORDS = 60_000

# The arguments: the directory, a small account, the account, where to keep its CAR or nothing, and
# whether to check it first. What httpx and a first connection take is no growth.
CHILD = """
from repo_stream import Network, open_repo

async def records(repo):
    count = 0
    async for _ in repo:
        count += 1
    return count

async def main(directory, small, large, keep, check_first):
    async with Network(directory=directory, allow_private=True) as network:
        async with open_repo(small, network=network) as repo:
            await records(repo)
        Path("/proc/self/clear_refs").write_text("5")
        base = peak()
        async with open_repo(
            large, network=network, keep=keep or None, check_first=bool(check_first)
        ) as repo:
            return {"records": await records(repo), "spilled": repo.spilled, "more": peak() - base}

measure(main)
"""


@pytest.fixture(scope="module")
def net() -> Generator[AtprotoNetwork]:
    with AtprotoNetwork(plain=True) as net:
        yield net


@pytest.fixture(scope="module")
def small(net: AtprotoNetwork) -> AtprotoAccount:
    return net.add_account(None, {"com.example.note/1": {"n": 1}})


@pytest.fixture(scope="module")
def large(net: AtprotoNetwork) -> AtprotoAccount:
    words = "some words " * 16
    return net.add_account(
        None, {f"com.example.note/{n:06}": {"n": n, "text": f"{words}{n}"} for n in range(RECORDS)}
    )


@pytest.mark.parametrize(
    ("order", "keep", "check_first", "limit"),
    [
        pytest.param("export", False, False, most(16), id="export"),
        pytest.param("export", True, True, most(16), id="export, kept, checked first"),
        pytest.param("stream", True, False, 6 * MIB, id="stream, kept"),
    ],
)
def test_growth_by_a_download_is_within_the_limit(
    net: AtprotoNetwork,
    small: AtprotoAccount,
    large: AtprotoAccount,
    *,
    order: Order,
    keep: bool,
    check_first: bool,
    limit: float,
    tmp_path: Path,
) -> None:
    large.order = order
    path = tmp_path / "kept.car"
    said: dict[str, Any] = measured(
        CHILD, net.directory, small.did, large.did, path if keep else "", "yes" * check_first
    )
    assert said["records"] == RECORDS
    assert said["spilled"] == (order == "export")
    assert said["more"] <= limit
    assert path.exists() == keep
