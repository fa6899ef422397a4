"""Whether a repo is signed by the key of its account, and else by which one."""

from __future__ import annotations

import argparse

import repo_stream
from repo_stream import BadSignature, Commit, RepoStreamError
from repo_stream.cli.downloads import Named
from repo_stream.cli.verification_report import Fault, Report

__all__ = ["check_signature_of", "earlier_key", "fault_of_signature"]


def fault_of_signature(commit: Commit, did_key: str) -> Fault | None:
    """Return what is wrong with the signature of a commit; `None` if nothing is.

    Raises:
        UnsupportedKey: if the key is none that can sign a commit.
    """
    try:
        commit.verify_signature(did_key)
    except BadSignature as error:
        return Fault.of(error)
    return None


async def check_signature_of(
    options: argparse.Namespace, report: Report, commit: Commit, named: Named
) -> None:
    """Check the signature of a commit with the key of its account.

    If it does not hold, the account may have another key by now, and is looked up again. It may
    also have had another one when it signed the commit.

    Args:
        options: the command line.
        report: the report to add the check to.
        commit: the commit.
        named: the account.
    """
    key = named.account.signing_key
    fault = fault_of_signature(commit, key)
    if fault is not None:
        key = (await named.network.resolve(named.who, fresh=True)).signing_key
        fault = fault_of_signature(commit, key)
    if fault is None:
        report.passed("signature", f"{key}, the key of {named.who}")
        return
    earlier = await earlier_key(commit, named)
    if earlier is not None and options.earlier_keys:
        report.passed("signature", f"{earlier}, a key that {named.who} had before")
        return
    if earlier is not None:
        more = f"; it is signed by {earlier}, a key that the account had before"
        fault = fault._replace(message=f"{fault.message}{more}; to accept it: --earlier-keys")
    report.failed("signature", fault)


async def earlier_key(commit: Commit, named: Named) -> str | None:
    """Return the key that signed a commit, if the account had it before."""
    try:
        async with repo_stream.open_repo(
            named.who, network=named.network, block_processor=len, earlier_keys=True, retries=0
        ) as repo:
            return repo.signed_by if repo.commit.cid == commit.cid else None
    except RepoStreamError:
        return None
