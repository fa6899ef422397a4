"""`verify`: every check that can be made, and a report on all of them.

A check that fails does not end the others. The repo is walked past what is damaged or missing,
which is sorted afterwards by the check that it concerns. Without a valid commit, the file is read
once more, to check its blocks, and the tree that the invalid commit names, if that can be read. Of
standard input, what was read until then has been kept for that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from repo_stream import (
    BadCommit,
    BadSignature,
    CarError,
    CarReader,
    Cid,
    CidMismatch,
    Commit,
    CommitError,
    Damage,
    Gap,
    LimitExceeded,
    MissingBlock,
    NodeError,
    OtherAccount,
    ProcessError,
    Repo,
    RepoStreamError,
    UncheckableBlock,
    UnsupportedKey,
)
from repo_stream.cli.accounts import kind_of
from repo_stream.cli.downloads import Named
from repo_stream.cli.opened import Given, Opened, blocks_of, kept, opened
from repo_stream.cli.progress import Meter
from repo_stream.cli.reports import put_report
from repo_stream.cli.signatures import check_signature_of, fault_of_signature
from repo_stream.cli.standin import with_standin
from repo_stream.cli.verification_report import Fault, Name, Report
from repo_stream.process import record

__all__ = ["verify"]

# The most bad records and lost subtrees to name; the others are counted.
_MOST_NAMED: Final = 20
_LIMITS_OF_FILES: Final = {"header_bytes", "block_bytes", "car_bytes", "blocks"}

# What can be wrong with a CAR, as opposed to the disk or the command line.
_FAULTS: Final = (CarError, CommitError, NodeError, LimitExceeded, MissingBlock, ProcessError)


async def verify(options: argparse.Namespace) -> int:
    """Make every check; return 0 if none failed, else 1."""
    async with kept(options) as given:
        named = given.named
        report = Report(options.did or (None if named is None else named.account.did))
        try:
            async with opened(
                options, _check, on_error="skip", gaps="all", check_first=False, given=given
            ) as car:
                await _check_repo(options, report, car, named)
        except UnsupportedKey:
            raise  # wrong usage
        except _FAULTS as error:
            await _check_without_commit(options, report, given, error)
    put_report(options, report.as_text, report.as_json, indent=2)
    return 0 if report.valid else 1


def _check(block: bytes) -> Gap | None:
    record(block)  # only for the errors that it raises
    return None


# --- Without a commit ---------------------------------------------------------------------------


async def _check_without_commit(
    options: argparse.Namespace, report: Report, given: Given, error: RepoStreamError
) -> None:
    """Make the checks that need no commit.

    Args:
        options: the command line.
        report: the report to add them to.
        given: the CAR.
        error: why there is no commit.
    """
    if isinstance(error, (CommitError, CidMismatch)):
        report.failed("commit", Fault.of(error))
        report.skip("no valid commit says what is signed", "signature")
    await _check_file(options, report, given, error)
    if report.checks["commit"].status == "FAILED":
        report.skip("no valid commit says which tree is the repo's", "tree", "records")
    if report.checks["car"].status == "FAILED":
        report.skip("the file could not be read")
    elif report.checks["commit"].status != "FAILED":
        report.failed(_check_of(error), Fault.of(error))


async def _check_file(
    options: argparse.Namespace, report: Report, given: Given, cause: RepoStreamError
) -> None:
    """Check the file and its blocks, whatever they are, and the tree that a bad commit names."""
    try:
        async with blocks_of(options, given) as reader:
            if isinstance(cause, BadCommit) and cause.data is not None:
                await _check_tree(options, report, reader, cause.cid, cause.data)
            while await reader.next_blocks() is not None:
                pass
            _add_damage(report, reader.damage, reader.damage_count)
            report.passed("car", f"{reader.offset:,} bytes")
            report.passed("blocks", _unchecked(reader.unchecked))
    except _FAULTS as error:
        report.failed(_check_of(error), Fault.of(error))


async def _check_tree(
    options: argparse.Namespace, report: Report, reader: CarReader, commit: Cid, tree: Cid
) -> None:
    """Check the tree below a commit that is not valid."""
    given = Given(with_standin(reader, commit, tree), Meter(shown=False))
    # The reader holds the limits on files, which the stand-in is no part of.
    limits = [limit for limit in options.limits or () if limit[0] not in {"car_bytes", "blocks"}]
    without = argparse.Namespace(**{**vars(options), "limits": limits})
    async with opened(without, _check, on_error="skip", gaps="all", given=given) as car:
        findings = await _walk(car)
    count = reader.damage_count + car.repo.damage_count
    _add_findings(report, car.repo, findings, [*reader.damage, *car.repo.damage], count)


# --- A repo -------------------------------------------------------------------------------------


async def _check_repo(
    options: argparse.Namespace, report: Report, car: Opened[Gap | None], named: Named | None
) -> None:
    repo = car.repo
    report.commit = commit = repo.commit
    if report.did is not None and report.did != commit.did:
        report.failed("commit", Fault.of(OtherAccount(did=commit.did, expected=report.did)))
    await _check_signature(options, report, commit, named)
    findings: _Findings | None = None
    try:
        await repo.read_all()
        findings = await _walk(car)
    except _FAULTS as error:
        report.failed(_check_of(error), Fault.of(error))
    _add_damage(report, repo.damage, repo.damage_count, commit)
    report.passed("commit", str(commit.cid))
    if repo.fully_read:
        report.passed("car", f"{repo.bytes_read:,} bytes")
        report.passed("blocks", _unchecked(repo.blocks_unchecked))
    if findings is not None:
        _add_findings(report, repo, findings, repo.damage, repo.damage_count)
    report.skip("the file could not be read to its end")


async def _check_signature(
    options: argparse.Namespace, report: Report, commit: Commit, named: Named | None
) -> None:
    did_key: str | None = options.key
    if did_key is not None:
        if fault := fault_of_signature(commit, did_key):
            report.failed("signature", fault)
        report.passed("signature", did_key)
    elif named is not None:
        await check_signature_of(options, report, commit, named)
    elif kind_of(options.car) == "url":
        how = "name the account instead of a URL, or pass its key with --key did:key:..."
        report.skip(f"a URL does not say whose key it has to be; {how}", "signature")
    else:
        report.skip("pass the account's key with --key did:key:...", "signature")


@dataclass
class _Findings:
    """What a walk found.

    Attributes:
        records: how many records are present and valid.
        lost_records: how many are missing or damaged.
        lost_subtrees: how many nodes are missing, damaged or break a rule.
        records_named: the first of the lost records.
        subtrees_named: the first of the lost subtrees.
    """

    records: int = 0
    lost_records: int = 0
    lost_subtrees: int = 0
    records_named: list[tuple[str, Cid]] = field(default_factory=list[tuple[str, Cid]])
    subtrees_named: list[Gap] = field(default_factory=list[Gap])

    def add(self, gap: Gap) -> None:
        """Add what is lost in a gap."""
        if gap.key is None:
            self.lost_subtrees += 1
            if len(self.subtrees_named) < _MOST_NAMED:
                self.subtrees_named.append(gap)
        else:
            self.lost_records += 1
            if len(self.records_named) < _MOST_NAMED:
                self.records_named.append((gap.key, gap.cid))


async def _walk(car: Opened[Gap | None]) -> _Findings:
    findings = _Findings()
    async for chunk in car.chunks():
        for output in chunk:
            if isinstance(output.value, Gap):
                findings.add(output.value)
            else:
                findings.records += 1
    return findings


def _add_findings(
    report: Report,
    repo: Repo[Gap | None],
    findings: _Findings,
    damage: Sequence[Damage],
    damage_count: int,
) -> None:
    damaged = {each.cid: each.error for each in damage if each.cid is not None}
    missing = partial(_missing, unlisted=damage_count > len(damage))
    for gap in findings.subtrees_named:
        error = damaged.get(gap.cid)
        if not isinstance(error, (NodeError, LimitExceeded)):  # it is not there, or damaged
            error = missing(gap.cid, None, error)
        report.failed("tree", Fault.of(error, _between(gap)))
    if more := findings.lost_subtrees - len(findings.subtrees_named):
        report.checks["tree"].count += more
    report.passed("tree")
    report.bad = repo.problem_count + findings.lost_records
    report.records = findings.records + report.bad
    bad = [(problem.key, Fault.of(problem.error)) for problem in repo.problems[:_MOST_NAMED]]
    bad += [
        (key, Fault.of(missing(cid, key, damaged.get(cid)))) for key, cid in findings.records_named
    ]
    report.problems = sorted(bad)[:_MOST_NAMED]
    for _, fault in report.problems:
        report.failed("records", fault)
    report.checks["records"].count = report.bad
    note = f"{report.bad:,} of {report.records:,} are bad" if report.bad else ""
    if findings.lost_subtrees:
        if not report.bad:
            report.failed("records", report.checks["tree"].faults[0])
            note = f"{report.records:,} are valid"
        nodes = "a lost node" if findings.lost_subtrees == 1 else "lost nodes"
        note += f"; how many there are below {nodes} is not known"
        report.checks["records"].complete = False
    report.passed("records", f"{report.records:,} records")
    report.checks["records"].note = note or report.checks["records"].note


def _between(gap: Gap) -> str:
    after = "the beginning" if gap.after is None else repr(gap.after)
    before = "the end" if gap.before is None else repr(gap.before)
    return f"; the keys between {after} and {before} cannot be read"


def _unchecked(blocks: int) -> str:
    if not blocks:
        return ""
    return f"but for {blocks:,} whose hash function is not known here, so they were not read"


def _missing(
    cid: Cid, key: str | None, damage: RepoStreamError | None, *, unlisted: bool
) -> MissingBlock:
    """Return the error for a block that was not read.

    Args:
        cid: the block.
        key: the key of the record; `None` if it is a node.
        damage: what is wrong with it, if that is listed.
        unlisted: whether there is damage that is not listed.
    """
    if isinstance(damage, UncheckableBlock):
        return UncheckableBlock(cid=cid, key=key)  # several keys may name it
    return MissingBlock(
        cid=cid,
        kind="node" if key is None else "record",
        key=key,
        damage=damage if isinstance(damage, CarError) else None,
        may_be_damaged=unlisted,
    )


# --- What is damaged ----------------------------------------------------------------------------


def _add_damage(
    report: Report, damage: Sequence[Damage], count: int, commit: Commit | None = None
) -> None:
    """Add what is damaged in the file to the checks that it concerns.

    What is wrong with nodes is left to the walk, which knows where in the tree they are.
    """
    for each in damage:
        name = _check_of(each.error)
        if name == "tree":
            continue
        more = "; it was repaired for the other checks" if each.repaired else ""
        report.failed(name, Fault.of(each.error, more))
        if commit is not None and each.cid == commit.cid:
            report.failed("commit", Fault.of(each.error))
    if count > len(damage):
        for name in ("car", "blocks"):
            report.checks[name].complete = False


def _check_of(error: RepoStreamError) -> Name:
    """Return the check that an error concerns."""
    match error:
        case CidMismatch():
            return "blocks"
        case CarError():
            return "car"
        case BadSignature():
            return "signature"
        case CommitError():
            return "commit"
        case LimitExceeded() if error.limit in _LIMITS_OF_FILES:
            return "car"
        case ProcessError():
            return "records"
        case MissingBlock() if error.kind == "record":
            return "records"
        case _:
            return "tree"
