"""`verify`: every check that the library has, and a report on them."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from repo_stream import (
    BadSignature,
    CarError,
    CidMismatch,
    Commit,
    CommitError,
    LimitExceeded,
    MissingBlock,
    MissingCommit,
    NodeError,
    NothingNew,
    ProcessError,
    RepoStreamError,
    UnsupportedKey,
)
from repo_stream.cli.opened import Opened, opened
from repo_stream.cli.reports import put_report
from repo_stream.cli.screen import WIDTH, explained, facts, one_line
from repo_stream.process import record

__all__ = ["verify"]

Name = Literal["car", "blocks", "commit", "signature", "tree", "records"]

_CHECKS: Final[dict[Name, str]] = {
    "car": "the file is a complete CARv1",
    "blocks": "every block has the hash in its CID",
    "commit": "the commit is complete and canonical",
    "signature": "the commit is signed with the account's key",
    "tree": "every node is canonical and obeys the rules of the tree",
    "records": "every record is present and canonical DAG-CBOR",
}
# The most bad records to name; the others are counted.
_MOST_SHOWN: Final = 20
_LIMITS_OF_FILES: Final = {"header_bytes", "block_bytes", "car_bytes", "blocks"}


@dataclass
class Check:
    """One line of the report.

    Attributes:
        status: `"skipped"` if a check before it failed, or there was no key to check with.
        note: details.
        error: why it failed.
    """

    status: Literal["ok", "FAILED", "skipped"] = "skipped"
    note: str = ""
    error: RepoStreamError | None = None


@dataclass
class Report:
    """The results of all checks."""

    commit: Commit | None = None
    records: int = 0
    bad: int = 0
    problems: list[tuple[str, RepoStreamError]] = field(
        default_factory=list[tuple[str, RepoStreamError]]
    )
    checks: dict[Name, Check] = field(default_factory=lambda: {name: Check() for name in _CHECKS})

    @property
    def valid(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "FAILED" for check in self.checks.values())

    def passed(self, *names: Name, note: str = "") -> None:
        """Note that these checks passed, unless they have a status already."""
        for name in names:
            if self.checks[name].status == "skipped":
                self.checks[name] = Check("ok", note)

    def failed(self, error: RepoStreamError) -> None:
        """Note a failed check, and the checks that must have passed before it."""
        name = _check_of(error)
        if isinstance(error, (MissingCommit, NothingNew)):  # raised at the end of the file
            self.passed("car", "blocks")
        self.checks[name] = Check("FAILED", explained(error), error)


async def verify(options: argparse.Namespace) -> int:
    """Make every check; return 0 if none failed, else 1."""
    report = Report()
    try:
        async with opened(options, _check, on_error="skip") as car:
            report.commit = commit = car.repo.commit
            report.passed("car", note=f"{car.repo.bytes_read:,} bytes")
            report.passed("blocks")
            report.passed("commit", note=str(commit.cid))
            _check_signature(report, commit, options.key)
            await _check_records(report, car)
    except UnsupportedKey:
        raise  # wrong usage
    except (CarError, CommitError, NodeError, LimitExceeded, MissingBlock, ProcessError) as error:
        report.failed(error)
    put_report(options, partial(_as_text, report), partial(_as_json, report), indent=2)
    return 0 if report.valid else 1


def _check(block: bytes) -> None:
    record(block)  # only for the errors that it raises


def _check_signature(report: Report, commit: Commit, did_key: str | None) -> None:
    if did_key is None:
        report.checks["signature"].note = "pass the account's key with --key did:key:..."
        return
    try:
        commit.verify_signature(did_key)
    except BadSignature as error:
        report.failed(error)
    else:
        report.passed("signature", note=did_key)


async def _check_records(report: Report, car: Opened[None]) -> None:
    async for chunk in car.chunks():
        report.records += len(chunk)
    report.passed("tree")
    problems = car.repo.problems
    if not problems:
        report.passed("records", note=f"{report.records:,} records")
        return
    report.bad = car.repo.problem_count
    report.records += report.bad
    report.problems = [(problem.key, problem.error) for problem in problems[:_MOST_SHOWN]]
    note = f"{report.bad:,} of {report.records:,} are bad"
    report.checks["records"] = Check("FAILED", note, problems[0].error)


def _check_of(error: RepoStreamError) -> Name:
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


def _as_text(report: Report) -> str:
    lines: list[str] = []
    if report.commit is not None:
        lines += [*facts([("DID", one_line(report.commit.did)), ("Rev", report.commit.rev)]), ""]
    for name, check in report.checks.items():
        lines.append(f"{check.status:8}  {name:9}  {_CHECKS[name]}")
        if check.note:
            lines += [f"{'':21}{line}" for line in _wrapped(one_line(check.note), 59, "")]
    if report.problems:
        lines += ["", "Bad records:"]
        for _, error in report.problems:
            lines += _wrapped(f"- {one_line(explained(error))}", WIDTH, "  ")
        if report.bad > len(report.problems):
            lines.append(f"- and {report.bad - len(report.problems):,} more")
    verdict = "The repo is valid." if report.valid else "The repo is not valid."
    if report.valid and report.checks["signature"].status != "ok":
        verdict = "The repo is valid, but anyone could have made it: no signature was checked."
    return "\n".join([*lines, "", verdict, ""])


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _as_json(report: Report) -> dict[str, object]:
    commit = report.commit
    return {
        "ok": report.valid,
        "did": None if commit is None else commit.did,
        "rev": None if commit is None else commit.rev,
        "commit": None if commit is None else str(commit.cid),
        "records": report.records,
        "bad_records": report.bad,
        "problems": [
            {"key": key, "error": type(error).__name__, "message": explained(error)}
            for key, error in report.problems
        ],
        "checks": [
            {
                "name": name,
                "what": _CHECKS[name],
                "status": check.status.lower(),
                "error": None if check.error is None else type(check.error).__name__,
                "message": None if check.error is None else explained(check.error),
            }
            for name, check in report.checks.items()
        ],
    }
