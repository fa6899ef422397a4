"""The report of `verify`: what was checked, what was found, and what could not be checked and why.

In JSON, a report is an object with these keys. More may be added; none of them is renamed.

- `ok`: whether no check failed.
- `did`, `rev`, `commit`: of the commit, the last as its CID; `null` if there is no valid one.
- `records`: how many records the tree names, as far as it can be read.
- `bad_records`: how many of those are missing, damaged or not valid.
- `problems`: the first 20 of those, each with `key`, `error` and `message`.
- `checks`: a list of objects with

  - `name` and `what`: which check it is, as a word and as a sentence;
  - `status`: `ok`, `failed`, or `skipped` if it could not be made;
  - `note`: what was found, or why it was skipped; may be empty;
  - `count`: how many faults were found; `complete` is `false` if there may be more;
  - `faults`: the first 20 of those, each with `error` and `message`;
  - `error` and `message`: of the first fault; `null` if there is none.

An `error` is the name of a class in `repo_stream.errors`.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from repo_stream import Commit, RepoStreamError
from repo_stream.cli.screen import WIDTH, explained, facts, one_line

__all__ = ["Check", "Fault", "Name", "Report"]

Name = Literal["car", "blocks", "commit", "signature", "tree", "records"]

_CHECKS: Final[dict[Name, str]] = {
    "car": "the file is a complete CARv1",
    "blocks": "every block has the hash in its CID",
    "commit": "the commit is complete and canonical",
    "signature": "the commit is signed with the account's key",
    "tree": "every node is canonical and obeys the rules of the tree",
    "records": "every record is present and canonical DAG-CBOR",
}
# The most faults of a check to keep, and to show as text; all are counted.
_MOST_KEPT: Final = 20
_MOST_SHOWN: Final = 3
_INDENT: Final = 20


class Fault(NamedTuple):
    """Something that makes a check fail.

    Attributes:
        error: the name of its error.
        message: what is wrong.
    """

    error: str
    message: str

    @classmethod
    def of(cls, error: RepoStreamError, more: str = "") -> Fault:
        """Return the fault with an error, and what more there is to say about it."""
        return cls(type(error).__name__, explained(error) + more)


@dataclass
class Check:
    """One check of the report.

    Attributes:
        status: `"skipped"` if it could not be made.
        note: details, or why it was skipped.
        faults: the first of those that were found.
        count: how many were found.
        complete: whether there are no more.
    """

    status: Literal["ok", "FAILED", "skipped"] = "skipped"
    note: str = ""
    faults: list[Fault] = field(default_factory=list[Fault])
    count: int = 0
    complete: bool = True

    def lines(self) -> list[str]:
        """Return the note and the faults as a person reads them."""
        if self.note or not self.faults:
            return [self.note]
        if self.count == 1:
            return [self.faults[0].message]
        shown = self.faults[:_MOST_SHOWN]
        more = self.count - len(shown)
        rest = [f"- and {more:,} more"] if more else []
        about = "" if self.complete else "at least "
        return [
            f"{about}{self.count:,} faults:",
            *(f"- {fault.message}" for fault in shown),
            *rest,
        ]

    def as_json(self, name: Name, what: str) -> dict[str, object]:
        """Return what JSON says about it."""
        first = self.faults[0] if self.faults else Fault("", "")
        return {
            "name": name,
            "what": what,
            "status": self.status.lower(),
            "note": self.note,
            "error": first.error or None,
            "message": first.message or None,
            "count": self.count,
            "complete": self.complete,
            "faults": [fault._asdict() for fault in self.faults],
        }


@dataclass
class Report:
    """The results of all checks.

    Attributes:
        did: the account that the repo has to be of; `None` if any will do.
        commit: the commit; `None` if there is no valid one.
        records: how many records the tree names, as far as it can be read.
        bad: how many of them are missing, damaged or not valid.
        problems: the first of those, with their keys.
        checks: by name.
    """

    did: str | None = None
    commit: Commit | None = None
    records: int = 0
    bad: int = 0
    problems: list[tuple[str, Fault]] = field(default_factory=list[tuple[str, Fault]])
    checks: dict[Name, Check] = field(default_factory=lambda: {name: Check() for name in _CHECKS})

    @property
    def valid(self) -> bool:
        """Whether no check failed, and all were made but that of the signature."""
        return all(
            check.status == "ok" or (name == "signature" and check.status == "skipped")
            for name, check in self.checks.items()
        )

    def passed(self, name: Name, note: str = "") -> None:
        """Note that a check passed, unless it failed."""
        check = self.checks[name]
        if check.status != "FAILED":
            check.status, check.note = "ok", note

    def failed(self, name: Name, fault: Fault, *, count: int = 1) -> None:
        """Add a fault that a check found, or one that stands for several."""
        check = self.checks[name]
        if check.status != "FAILED":
            check.status, check.note = "FAILED", ""
        check.count += count
        if len(check.faults) < _MOST_KEPT:
            check.faults.append(fault)

    def skip(self, reason: str, *names: Name) -> None:
        """Note why checks were not made, unless they were or have a reason; all by default."""
        for name in names or _CHECKS:
            check = self.checks[name]
            if check.status == "skipped" and not check.note:
                check.note = reason

    # --- How it is shown ------------------------------------------------------------------------

    def as_text(self) -> str:
        """Return the report for people."""
        lines: list[str] = []
        if (commit := self.commit) is not None:
            lines += [*facts([("DID", one_line(commit.did)), ("Rev", commit.rev)]), ""]
        for name, check in self.checks.items():
            lines.append(f"{check.status:7}  {name:9}  {self._what(name)}")
            for line in check.lines():  # a CID fills one, so nothing is indented further
                wrapped = _wrapped(one_line(line), WIDTH - _INDENT, "")
                lines += [f"{'':{_INDENT}}{part}" for part in wrapped]
        if self.problems:
            lines += ["", "Bad records:"]
            for _, fault in self.problems:
                lines += _wrapped(f"- {one_line(fault.message)}", WIDTH, "  ")
            if self.bad > len(self.problems):
                lines.append(f"- and {self.bad - len(self.problems):,} more")
        return "\n".join([*lines, "", self._verdict(), ""])

    def _verdict(self) -> str:
        if not self.valid:
            return "The repo is not valid."
        if self.checks["signature"].status == "ok":
            return "The repo is valid."
        return "The repo is valid, but anyone could have made it: no signature was checked."

    def _what(self, name: Name) -> str:
        of_account = name == "commit" and self.did is not None
        return f"{_CHECKS[name]}, of the account" if of_account else _CHECKS[name]

    def as_json(self) -> dict[str, object]:
        """Return the report as the docstring of this module says."""
        commit = self.commit
        return {
            "ok": self.valid,
            "did": None if commit is None else commit.did,
            "rev": None if commit is None else commit.rev,
            "commit": None if commit is None else str(commit.cid),
            "records": self.records,
            "bad_records": self.bad,
            "problems": [{"key": key, **fault._asdict()} for key, fault in self.problems],
            "checks": [
                check.as_json(name, self._what(name)) for name, check in self.checks.items()
            ],
        }


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
