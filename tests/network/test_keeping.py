"""What `open_repo(keep=...)` keeps: the CAR as it came, complete or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from repo_stream import (
    AccountRepo,
    DownloadBroken,
    Limits,
    Network,
    NothingNew,
    TornExport,
    key_depth,
    load_commit,
    open_car,
    open_repo,
    process,
)
from repo_stream.network import keeping
from repo_stream.testing import AtprotoAccount, AtprotoNetwork, Fault, Order
from repo_stream.testing.repos import section

NOTES: dict[str, object] = {
    f"com.example.note/{n:04}": {"n": n, "text": "x" * 2000} for n in range(400)
}
LAST = "com.example.note/0399"
NAME = "alice.example.com"


@pytest.fixture
def alice(atproto_network: AtprotoNetwork) -> AtprotoAccount:
    return atproto_network.add_account(NAME, NOTES)


@pytest.fixture
async def network(atproto_network: AtprotoNetwork) -> AsyncIterator[Network]:
    async with atproto_network.network(patience=0) as network:
        yield network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.car"


Way = Callable[[AccountRepo], Awaitable[None]]


async def walk(repo: AccountRepo) -> None:
    async for _ in repo:
        pass


async def walk_keys(repo: AccountRepo) -> None:
    while await repo.next_keys(50):
        pass


async def read_all(repo: AccountRepo) -> None:
    await repo.read_all()


def files(path: Path) -> list[str]:
    """All files beside the path; a part of a download would be one."""
    return sorted(each.name for each in path.parent.iterdir())


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def without(alice: AtprotoAccount, key: str) -> bytes:
    """The account's CAR without a record, as if the account had deleted it meanwhile."""
    cid = alice.repo.records[key]
    return alice.car().replace(section(cid, alice.repo.blocks[cid]), b"")


@pytest.fixture
def before(path: Path) -> bytes:
    """What is in the file already."""
    path.write_bytes(b"before")
    return b"before"


# --- Complete -------------------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("way", [walk, walk_keys, read_all])
async def test_kept_file_is_the_car_as_it_came(
    alice: AtprotoAccount, network: Network, path: Path, way: Way
) -> None:
    async with open_repo(NAME, network=network, keep=path, drain=False) as repo:
        await way(repo)
        assert content(path) is None
    assert content(path) == alice.car()


async def test_kept_file_is_what_was_sent_compressed(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    alice.inject("getRepo", Fault(encoding="gzip"))
    async with open_repo(NAME, network=network, keep=str(path)) as repo:
        await walk(repo)
    assert content(path) == alice.car()


async def test_narrowed_walk_keeps_the_whole_file(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    alice.order = "stream"
    async with open_repo(NAME, network=network, keep=path, prefix="com.example.note/00") as repo:
        await walk(repo)
    assert content(path) == alice.car()


async def test_file_that_is_checked_first_is_kept_however_the_loop_ends(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    async with open_repo(NAME, network=network, keep=path, check_first=True):
        pass
    assert content(path) == alice.car()


async def test_slice_and_proof_can_be_kept(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    rev = alice.rev
    alice.write({LAST: {"new": 1}})
    async with open_repo(NAME, network=network, keep=path, since=rev) as repo:
        async for _ in repo:
            pass
    assert content(path) == alice.car(rev)
    async with open_repo(f"at://{NAME}/{LAST}", network=network, keep=path) as repo:
        await walk(repo)
    assert content(path) == alice.proof(LAST)


async def test_download_that_began_anew_is_kept_once(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    alice.inject("getRepo", Fault(times=2, stop_at=300_000))
    async with open_repo(NAME, network=network, keep=path, check_first=True) as repo:
        await walk(repo)
        assert len(files(path)) == 1
    assert content(path) == alice.car()
    assert files(path) == [path.name]


async def test_torn_export_is_kept_as_it_was_completed(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    def write() -> None:
        alice.write({LAST: {"changed": 1}, "com.example.note/0000": None})

    alice.inject("getRepo", Fault(times=1, during_at=50_000, during=write))
    async with open_repo(NAME, network=network, keep=path, check_first=True):
        pass
    async with open_car(path, block_processor=process.record) as repo:
        assert {key: value async for key, value in repo} == alice.records
        assert repo.commit.rev == alice.rev
        repo.commit.verify_signature(alice.key.did_key)
    assert files(path) == [path.name]


async def test_file_that_was_there_is_replaced_at_the_end(
    alice: AtprotoAccount, network: Network, path: Path, before: bytes, tmp_path: Path
) -> None:
    link = tmp_path / "link.car"
    link.symlink_to(path)
    async with open_repo(NAME, network=network, keep=link) as repo:
        await walk(repo)
        assert content(path) == before
    assert link.is_symlink()
    assert content(path) == alice.car()


def test_kept_file_has_the_permissions_of_any_new_file(path: Path) -> None:
    path.touch()
    expected = path.stat().st_mode
    copy = keeping.Copy(path)
    anyio.run(copy.publish)
    assert path.stat().st_mode == expected


@pytest.mark.both_loops
async def test_two_downloads_into_one_path_do_not_disturb_each_other(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    async def keep(wait: float) -> None:
        async with open_repo(NAME, network=network, keep=path) as repo:
            await anyio.sleep(wait)
            await walk(repo)

    async with anyio.create_task_group() as tasks:
        for wait in (0, 0.05, 0.1):
            tasks.start_soon(keep, wait)
    assert content(path) == alice.car()
    assert files(path) == [path.name]


# --- Not complete ---------------------------------------------------------------------------------


async def leave_loop(repo: AccountRepo) -> None:
    async for _ in repo:
        break


async def get_one(repo: AccountRepo) -> None:
    await repo.get(LAST)


async def do_nothing(_repo: AccountRepo) -> None:
    pass


@pytest.mark.both_loops
@pytest.mark.parametrize("way", [leave_loop, get_one, do_nothing])
async def test_nothing_is_kept_if_the_walk_is_left(
    alice: AtprotoAccount, network: Network, path: Path, way: Way, before: bytes
) -> None:
    orders: list[Order] = ["stream", "export"]
    for alice.order in orders:
        async with open_repo(NAME, network=network, keep=path) as repo:
            await way(repo)
        assert content(path) == before
        assert files(path) == [path.name]


async def test_nothing_is_kept_if_the_walk_of_a_small_repo_is_left(
    atproto_network: AtprotoNetwork, network: Network, path: Path
) -> None:
    """Though it was read to its end, and the walk has gone further than the loop."""
    atproto_network.add_account("bob.example.com", {key: NOTES[key] for key in [*NOTES][:9]})
    async with open_repo("bob.example.com", network=network, keep=path) as repo:
        await get_one(repo)
        await leave_loop(repo)
        assert repo.fully_read
    assert files(path) == []


@pytest.mark.parametrize("check_first", [False, True], ids=["stream", "check first"])
async def test_nothing_is_kept_if_the_block_fails(
    alice: AtprotoAccount, network: Network, path: Path, check_first: bool
) -> None:
    async def fail() -> None:
        async with open_repo(NAME, network=network, keep=path, check_first=check_first) as repo:
            await walk(repo)
            raise KeyError(3)

    with pytest.raises(KeyError):
        await fail()
    assert files(path) == []


async def test_nothing_is_kept_if_the_download_fails(
    alice: AtprotoAccount, atproto_network: AtprotoNetwork, network: Network, path: Path
) -> None:
    alice.order = "stream"
    alice.inject("getRepo", Fault(stop_at=400_000))
    async with open_repo(NAME, network=network, keep=path) as repo:
        with pytest.raises(DownloadBroken):
            await walk(repo)
    assert files(path) == []
    atproto_network.clear_faults()
    alice.inject("getRepo", Fault(error="RepoNotFound"))
    with pytest.raises(Exception, match="no repo"):
        await open_repo(NAME, network=network, keep=path).__aenter__()
    assert files(path) == []


async def test_nothing_is_kept_of_a_torn_export(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    alice.order = "stream"
    alice.inject(
        "getRepo", Fault(times=1, during_at=400_000, during=lambda: alice.write({LAST: {}}))
    )
    async with open_repo(NAME, network=network, keep=path) as repo:
        with pytest.raises(TornExport):
            await walk(repo)
    assert files(path) == []


async def walk_from_the_middle(repo: AccountRepo) -> None:
    await repo.seek("com.example.note/0380")
    await walk(repo)


PREFIX = "com.example.note/00"


@pytest.mark.parametrize(
    ("way", "keywords"),
    [
        pytest.param(read_all, {}, id="read_all"),
        pytest.param(walk, {"prefix": PREFIX}, id="prefix"),
        pytest.param(walk_keys, {}, id="keys"),
        pytest.param(walk_from_the_middle, {}, id="seek"),
        pytest.param(walk, {"on_error": "skip"}, id="skip"),
    ],
)
async def test_what_the_walk_did_not_need_is_looked_at_before_a_file_is_kept(
    alice: AtprotoAccount, network: Network, path: Path, way: Way, keywords: dict[str, Any]
) -> None:
    alice.inject("getRepo", Fault(body=without(alice, "com.example.note/0300")))
    ended: list[AccountRepo] = []

    async def keep() -> None:
        async with open_repo(NAME, network=network, keep=path, **keywords) as repo:
            await way(repo)
            ended.append(repo)

    with pytest.raises(TornExport, match=r"0300.*check_first=True") as caught:
        await keep()
    assert ended
    assert (caught.value.did, caught.value.rev) == (alice.did, alice.rev)
    assert files(path) == []


async def test_narrowed_walk_that_is_checked_first_keeps_what_the_whole_file_lacks(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    alice.order = "stream"
    alice.inject(
        "getRepo", Fault(times=1, during_at=400_000, during=lambda: alice.write({LAST: {}}))
    )
    async with open_repo(NAME, network=network, keep=path, prefix=PREFIX, check_first=True) as repo:
        await walk(repo)
    async with open_car(path, block_processor=process.record) as kept:
        assert {key: value async for key, value in kept} == alice.records
    assert alice.records[LAST] == {}


async def test_file_is_looked_at_in_its_place(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    """So a walk that needs little memory needs no more at its end."""
    alice.order = "stream"
    async with open_repo(
        NAME, network=network, keep=path, prefix=PREFIX, mem_limit_mb=0.2, spill=False
    ) as repo:
        await walk(repo)
    assert content(path) == alice.car()


async def test_node_that_breaks_a_rule_is_no_reason_not_to_keep_a_file(
    alice: AtprotoAccount, network: Network, path: Path
) -> None:
    keys = (f"com.example.zzz/{n:040}" for n in range(99))
    long = next(key for key in keys if key_depth(key.encode()) == 0)
    alice.write({long: {}})
    limits = Limits(key_bytes=40)
    async with open_repo(NAME, network=network, keep=path, prefix=PREFIX, limits=limits) as repo:
        await walk(repo)
    assert content(path) == alice.car()


async def test_nothing_is_kept_if_nothing_is_new(
    alice: AtprotoAccount, network: Network, path: Path, before: bytes
) -> None:
    with pytest.raises(NothingNew):
        await open_repo(NAME, network=network, keep=path, since=alice.rev).__aenter__()
    assert content(path) == before
    assert files(path) == [path.name]


@pytest.mark.parametrize("name", ["n" * 255, "\N{EURO SIGN}" * 85], ids=["ASCII", "UTF-8"])
async def test_file_of_the_longest_name_is_kept(
    alice: AtprotoAccount, network: Network, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    async with open_repo(NAME, network=network, keep=path) as repo:
        await walk(repo)
    assert content(path) == alice.car()
    assert files(path) == [name]


# --- Where nothing can be kept --------------------------------------------------------------------


def test_path_of_no_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_repo(NAME, keep=tmp_path)
    with pytest.raises(FileNotFoundError):
        open_repo(NAME, keep=tmp_path / "none" / "alice.car")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_repo(NAME, keep=tmp_path / "pipe")


async def test_full_disk_says_which_file_could_not_be_written(
    alice: AtprotoAccount, network: Network, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: keeping.Copy, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keeping.Copy, "_write", full)
    for first in (False, True):
        with pytest.raises(OSError, match="No space left on device") as caught:
            async with open_repo(NAME, network=network, keep=path, check_first=first) as repo:
                await walk(repo)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
    assert files(path) == []


async def test_directory_that_is_gone_says_so(
    alice: AtprotoAccount, network: Network, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = open_repo(NAME, network=network, keep=folder / "alice.car")
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"could not be written.*alice\.car"):
        await opened.__aenter__()


async def test_copy_of_a_check_is_temporary(
    alice: AtprotoAccount, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with open_repo(NAME, network=network, check_first=True) as repo:
        assert files(tmp_path / "any") == []
        assert (await load_commit(alice.car())) == repo.commit
