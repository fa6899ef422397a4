"""One repo, from its account to the first record: what `open_repo` does when it is entered.

**Everything that can be repaired is repaired before the first record comes out.** Until then nobody
has seen anything of a download, so another one can take its place:

- the account is looked up again past what is kept (`Network.resolve(fresh=True)`), once, if its
  server has no repo for it, does not answer, or sends a commit that the key did not sign. It may
  have moved, or have another key;
- a download that breaks off begins anew;
- an export is torn if the account writes while its server sends it: the server leaves out blocks
  that it has deleted meanwhile. The slice since the rev of that export has what replaced them, and
  both are joined (`join_cars`). For that, the export has to be in a file, so a copy is made from the
  beginning if it is to be checked first or kept, and otherwise from the second attempt on.

All of that together happens `retries` times at most. Afterwards records have come out of one state
of the repo, and another state cannot take its place: what fails then is an error that says so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.incoming import Incoming
from repo_stream.drivers.keywords import Spill
from repo_stream.drivers.options import Options
from repo_stream.drivers.spilling import Kept
from repo_stream.drivers.stream import streamed
from repo_stream.errors import BadSignature
from repo_stream.mst.commit import Commit
from repo_stream.network.account import Account
from repo_stream.network.document import earlier_keys
from repo_stream.network.errors import OtherAccountServed
from repo_stream.network.keeping import Copy
from repo_stream.network.resolving import Network
from repo_stream.opening import Repo

if TYPE_CHECKING:
    from repo_stream.network.web import Download

__all__ = ["AccountRepo", "Plan", "opened"]

T = TypeVar("T")

_GET_REPO: Final = "/xrpc/com.atproto.sync.getRepo"


class AccountRepo(Repo[T]):
    """A repo that was downloaded from the server of its account; `open_repo` makes it.

    It is a `Repo`, whose commit is of this account, and is signed.

    Attributes:
        account: the account.
        signed_by: the key that the commit is signed by, as a `did:key`. It is that of the account,
            or with `earlier_keys`, one that it had before.
    """

    account: Account
    signed_by: str

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        incoming: Incoming[T],
        kept: Kept[T],
        *,
        drain: bool,
    ) -> None:
        super().__init__(options, commit, incoming, kept, drain=drain)


@dataclass(frozen=True)
class Plan(Generic[T]):
    """What `open_repo` was told.

    Attributes:
        who: the account.
        builder: how the repo is to be read.
        spill: see `open_car`.
        drain: see `open_car`.
        check_first: see `open_car`.
        since: the rev since which a slice is asked for; `None` for the whole repo.
        keep: the file to keep the CAR in.
        earlier_keys: whether earlier keys of the account are accepted, too.
        retries: how often a download may be repaired.
    """

    who: str
    builder: DriverBuilder[T]
    spill: Spill
    drain: bool
    check_first: bool
    since: str | None
    keep: Path | None
    earlier_keys: bool
    retries: int


class _Feed:
    """A download as a source, which is copied to a file while it is read."""

    def __init__(self, download: Download, copy: Copy | None) -> None:
        self._download = download
        self._copy = copy

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        copy = self._copy
        if copy is None:
            return await anext(self._download)
        await copy.keep_up()
        try:
            piece = await anext(self._download)
        except StopAsyncIteration:
            await copy.flush()
            raise
        copy.add(piece)
        return piece


@asynccontextmanager
async def opened(plan: Plan[T], network: Network) -> AsyncGenerator[AccountRepo[T]]:
    """Open the repo of an account; see `open_repo`."""
    account = await network.resolve(plan.who)
    params = {"did": account.did}
    if plan.since is not None:
        params["since"] = plan.since
    async with AsyncExitStack() as stack:
        download = await stack.enter_async_context(
            network.web.stream(account.pds + _GET_REPO, params=params)
        )
        repo = await stack.enter_async_context(
            streamed(
                plan.builder,
                _Feed(download, None),
                plan.spill,
                drain=plan.drain,
                kind=AccountRepo[T],
            )
        )
        repo.account, repo.signed_by = await _verified(repo.commit, account, plan, network)
        if plan.check_first:
            await repo.read_all()
        yield repo


async def _verified(
    commit: Commit, account: Account, plan: Plan[T], network: Network
) -> tuple[Account, str]:
    """Return the account, and the key that signed the commit."""
    if commit.did != account.did:
        raise OtherAccountServed(did=commit.did, expected=account.did, server=account.pds)
    if _is_signed(commit, account.signing_key):
        return account, account.signing_key
    fresh = await network.resolve(plan.who, fresh=True)
    keys = [fresh.signing_key]
    if plan.earlier_keys:
        keys += earlier_keys(await network.audit_log(fresh.did))
    for key in keys:
        if _is_signed(commit, key):
            return fresh, key
    commit.verify_signature(fresh.signing_key)
    raise AssertionError("it was not signed by this key a moment ago")


def _is_signed(commit: Commit, key: str) -> bool:
    try:
        commit.verify_signature(key)
    except BadSignature:
        return False
    return True
