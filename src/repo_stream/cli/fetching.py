"""`fetch`: the repo of an account as a CAR file, which is kept up to date.

A new file has what the server sent, verified. A kept file is brought up to date by the slice since
its rev: both are joined, and the newest repo takes the place of the old one, complete or not at
all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from repo_stream import (
    Account,
    BadSignature,
    Commit,
    Gap,
    IncompleteJoin,
    NothingNew,
    OtherAccount,
    Output,
    RepoStreamError,
    load_commit,
)
from repo_stream.cli.accounts import network_of
from repo_stream.cli.downloads import Named, account_repo, who_in
from repo_stream.cli.input import limits_of
from repo_stream.cli.messages import complain
from repo_stream.cli.opened import Given, joined_sources, opened
from repo_stream.cli.ordered_cars import write_car
from repo_stream.cli.progress import Meter
from repo_stream.cli.screen import explained, one_line
from repo_stream.cli.signatures import earlier_key

if TYPE_CHECKING:
    from repo_stream import AccountRepo, Network

__all__ = ["fetch"]

# How many records to take at a time, of which only the lengths are kept.
_RECORDS: Final = 512
# How often a slice is fetched that turns out to be torn, because the account writes meanwhile.
_ATTEMPTS: Final = 3


async def fetch(options: argparse.Namespace) -> int:
    """Keep the repo of an account in a file, or bring the file up to date."""
    path: str = options.output
    meter = Meter(shown=not options.quiet)
    try:
        async with network_of(options) as network:
            account = await network.resolve(who_in(options.car))
            kept = await _kept_commit(options)
            if kept is None:
                said = await _begun(options, network, account, meter)
            elif kept.did == account.did:
                said = await _brought_up_to_date(options, network, account, kept, meter)
            else:
                error = OtherAccount(did=kept.did, expected=account.did)
                return complain(f"{path}: {error}; name another file with -o")
    except RepoStreamError as error:
        if error.source != path:
            raise
        return complain(f"{path}: {explained(error)}; to fetch the whole repo, remove this file")
    finally:
        meter.close()
    if not options.quiet:
        print(one_line(said), file=sys.stderr)
    return 0


# --- A new file -----------------------------------------------------------------------------------


async def _begun(
    options: argparse.Namespace, network: Network, account: Account, meter: Meter
) -> str:
    """Keep what the server sends; return what was done, in words."""
    path: str = options.output
    try:
        repo, records = await _kept(options, network, meter, path=path, since=options.since)
    except NothingNew:
        return f"nothing has changed since rev {options.since}, so {path} was not written"
    what = "the repo" if options.since is None else f"the slice since rev {options.since}"
    return (
        f"wrote {what} of {_in_words(account)}, rev {repo.commit.rev}, {_count(records)}, "
        f"to {path}; {_signed(repo)}"
    )


async def _kept(
    options: argparse.Namespace, network: Network, meter: Meter, *, path: str, since: str | None
) -> tuple[AccountRepo[Any], int]:
    """Keep what the server sends in a file; return the repo, closed, and how many records it has.

    Any: of each record, only whether it is there matters.
    """
    records = 0
    keywords = {"since": since, "keep": path, "block_processor": len}
    async with account_repo(options, network, meter, keywords) as repo:
        while chunk := await repo.next_outputs(_RECORDS):
            found = _records_in(chunk)
            records += found
            meter.walked(found)
    return repo, records


def _records_in(chunk: list[Output[Any]]) -> int:
    return sum(not isinstance(output.value, Gap) for output in chunk)


# --- A kept file ----------------------------------------------------------------------------------


async def _brought_up_to_date(
    options: argparse.Namespace,
    network: Network,
    account: Account,
    before: Commit,
    meter: Meter,
) -> str:
    """Join the file and what the server sends; return what was done, in words."""
    path: str = options.output
    since: str = options.since or before.rev
    with TemporaryDirectory(prefix="repo-stream-") as folder:
        slices: list[str] = []
        while True:
            slices.append(str(Path(folder, f"slice {len(slices) + 1}.car")))
            try:
                repo, _ = await _kept(options, network, meter, path=slices[-1], since=since)
            except NothingNew:
                repo = None
            if repo is None or (repo.commit.cid == before.cid and options.since is None):
                await _check(options, network, account, meter)
                return f"{path} is up to date, rev {before.rev}"
            try:
                after = await _joined(options, [path, *slices], meter)
            except IncompleteJoin:
                if len(slices) == _ATTEMPTS:
                    raise
            else:
                break
    if after.rev != repo.commit.rev:
        await _check(options, network, account, meter)
        return (
            f"{path} is newer, rev {after.rev}, than what {account.pds} sends, "
            f"rev {repo.commit.rev}; it keeps its rev"
        )
    return (
        f"brought {path} of {_in_words(account)} up to date, from rev {before.rev} to "
        f"rev {after.rev}; {_signed(repo)}"
    )


async def _kept_commit(options: argparse.Namespace) -> Commit | None:
    """Return the commit of the kept file; `None` if there is none.

    Raises:
        RepoStreamError: if it cannot be read.
    """
    path: str = options.output
    try:
        return await load_commit(path, limits=limits_of(options))
    except FileNotFoundError:
        return None
    except RepoStreamError as error:
        error.source = path
        raise


async def _check(
    options: argparse.Namespace, network: Network, account: Account, meter: Meter
) -> None:
    """Check a file that nothing is joined to: it may be damaged, or somebody else's.

    Raises:
        RepoStreamError: if it is not the whole repo, signed by the account.
    """
    path: str = options.output
    try:
        async with opened(options, len, given=Given(path, meter)) as car:
            async for _ in car.chunks():
                pass
        await _check_signature(options, network, account, car.repo.commit)
    except RepoStreamError as error:
        error.source = path
        raise


async def _check_signature(
    options: argparse.Namespace, network: Network, account: Account, commit: Commit
) -> None:
    key = account.signing_key
    try:
        commit.verify_signature(key)
    except BadSignature as error:
        earlier = await earlier_key(commit, Named(account.did, account, network))
        if earlier is None:
            raise
        if not options.earlier_keys:
            reason = (
                f"it is signed by {earlier}, a key that the account had before; to accept it: "
                "--earlier-keys"
            )
            raise BadSignature(cid=commit.cid, did_key=key, reason=reason) from error


async def _joined(options: argparse.Namespace, sources: list[str], meter: Meter) -> Commit:
    """Write the newest repo of all sources in the place of the first; return its commit."""
    path = sources[0]
    async with joined_sources(options, sources, meter) as car:
        await write_car(car, path)
    return car.commit


# --- In words -------------------------------------------------------------------------------------


def _in_words(account: Account) -> str:
    return account.did if account.handle is None else f"{account.handle} ({account.did})"


def _signed(repo: AccountRepo[Any]) -> str:
    earlier = (
        "" if repo.signed_by == repo.account.signing_key else ", an earlier key of the account"
    )
    return f"signed by {repo.signed_by}{earlier}"


def _count(records: int) -> str:
    return f"{records:,} {'record' if records == 1 else 'records'}"
