"""`--partial`: what could not be had of a repo, on standard error and in a file (`--report`).

The file has one line of JSON for each CAR:

    {"car": "repo.car", "did": "did:plc:...", "rev": "3k...", "commit": "bafyrei...",
     "complete": false, "records": 1200,
     "lost": {"records": 1, "subtrees": 1, "listed": [
       {"key": "app.bsky.feed.post/3k...", "cid": "bafyrei...", "after": "...", "before": "..."},
       {"key": null, "cid": "bafyrei...", "after": "...", "before": null}]},
     "bad": {"records": 0, "listed": []},
     "damage": {"places": 2, "repaired": 1, "listed": [
       {"offset": 5120, "cid": "bafyrei...", "error": "CidMismatch", "message": "...",
        "repaired": false}]}}

`complete` is true if nothing is lost; for `ls`, which reads no records, damage counts as a loss
unless it was repaired. `lost` has records by their keys, and subtrees, whose keys are not known but
lie between two others (`null` for the beginning or the end of the repo). `bad` has records that are
there and not valid. `damage` says where in the file something is damaged; `offset` is null for a
node that breaks a rule, and for a record whose hash cannot be checked. Each list has the first
1,000.

A CAR that cannot be read at all has its error instead:

    {"car": "page.html", "complete": false, "error": "NotACar", "message": "..."}
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from repo_stream import Damage, Repo, RepoStreamError
from repo_stream.cli.input import named, refuse_input
from repo_stream.cli.losses import Loss, Losses
from repo_stream.cli.messages import BAD_REPO, PROGRAM
from repo_stream.cli.opened import Opened
from repo_stream.cli.output import destination, writing_to
from repo_stream.cli.progress import Meter
from repo_stream.cli.screen import WIDTH, explained, one_line, shown_key

__all__ = [
    "Lost",
    "add_partial",
    "check_report",
    "lost_as_json",
    "lost_facts",
    "lost_of",
    "report_lost",
    "report_unread",
    "reporting",
]

# How many losses standard error shows, and how much damage, which takes some lines each.
_MOST_SHOWN: Final = 10
_MOST_DAMAGE: Final = 5


def add_partial(command: argparse.ArgumentParser) -> None:
    """Add the options `--partial` and `--report`."""
    command.add_argument(
        "--partial",
        action="store_true",
        help="go past missing and damaged blocks: everything that can still be reached comes out, "
        "what is lost is reported, and the exit code is 1 if anything is",
    )
    command.add_argument(
        "--report",
        metavar="FILE",
        help="with --partial: write what is lost, between which keys, and what is damaged, as one "
        "line of JSON for each CAR",
    )
    command.set_defaults(report_file=None)


def check_report(options: argparse.Namespace) -> None:
    """Exit if the report would go where it must not."""
    path: str | None = options.report
    if path is None:
        return
    if not options.partial:
        options.usage("--report goes with --partial")
    if path in {"", "-"}:
        options.usage("--report writes to a file; name one")
    output: str | None = getattr(options, "output", None)
    if output is not None and Path(output).absolute() == Path(path).absolute():
        options.usage(f"--report and -o name the same file: {path}")
    folder: str | None = getattr(options, "to_folder", None)
    if folder is not None and Path(folder).resolve() in Path(path).resolve().parents:
        options.usage(f"--report is in the folder of --to-folder, which is for records: {path}")
    refuse_input(options, "--report", path)


@contextmanager
def reporting(options: argparse.Namespace) -> Generator[None]:
    """Open the file of `--report`, which is complete at the end."""
    if options.report is None:
        yield
        return
    with destination(options.report) as options.report_file:
        yield


def report_lost(
    options: argparse.Namespace, car: Opened[Any], found: int, *, damage_counts: bool = False
) -> int:
    """Report what is lost, if the walk went past it; return the exit code.

    Args:
        options: the command line.
        car: the repo, walked to its end. Any: what the processor makes of records does not matter.
        found: how many records or keys came out.
        damage_counts: whether a damaged place is a loss by itself: if no records were read, or the
            file as a whole was asked about.
    """
    report = lost_of(options, car, found, damage_counts=damage_counts)
    return 0 if report is None else report.put()


class Lost(NamedTuple):
    """What to report of a repo, which need not be kept for that.

    Attributes:
        options: the command line.
        meter: its progress.
        lines: for standard error.
        about: for the report.
        complete: whether nothing is lost.
    """

    options: argparse.Namespace
    meter: Meter
    lines: Sequence[str]
    about: dict[str, object]
    complete: bool

    def put(self) -> int:
        """Report it; return the exit code."""
        if self.lines:
            self.meter.close()
            print("\n".join(self.lines), file=sys.stderr)
        if self.options.report is not None:
            _append(self.options, self.about)
        return 0 if self.complete else BAD_REPO


def lost_of(
    options: argparse.Namespace, car: Opened[Any], found: int, *, damage_counts: bool = False
) -> Lost | None:
    """Return what `report_lost` reports, with the same arguments; `None` if that is nothing."""
    losses = car.losses
    if losses is None:
        return None
    complete = _is_complete(losses, car.repo, damage_counts=damage_counts)
    lines = [*_lines(named(options.car), losses, car.repo, complete=complete)]
    about = _report(losses, car.repo, found, complete=complete)
    return Lost(options, car.meter, lines, about, complete)


def report_unread(options: argparse.Namespace, error: RepoStreamError | OSError) -> None:
    """Write to the report that a CAR cannot be read; standard error is told elsewhere."""
    if options.report is not None:
        message = explained(error) if isinstance(error, RepoStreamError) else str(error)
        what = {"error": type(error).__name__, "message": message}
        _append(options, {"complete": False, **what})


def lost_facts(car: Opened[Any]) -> list[tuple[str, str]]:
    """Return what is lost and damaged, in words; nothing if nothing is. Any: see `report_lost`."""
    if car.losses is None:
        return []
    lost = [("Lost", _what(car.losses))] if car.losses.count else []
    if not car.repo.damage_count:
        return lost
    return [*lost, ("Damage", _damage_summary(car.repo))]


def lost_as_json(car: Opened[Any]) -> dict[str, object]:
    """Return the same for JSON, as in the file of `--report`. Any: see `report_lost`."""
    if car.losses is None:
        return {}
    complete = _is_complete(car.losses, car.repo, damage_counts=True)
    return {"complete": complete, **_as_json(car.losses, car.repo)}


def _is_complete(losses: Losses, repo: Repo[Any], *, damage_counts: bool) -> bool:
    """Return whether nothing is lost; a damaged block can be there twice, or not be needed."""
    damaged = damage_counts and repo.damage_count > repo.damage_repaired
    return not (losses.count or repo.problem_count or damaged)


# --- On standard error --------------------------------------------------------------------------


def _lines(name: str, losses: Losses, repo: Repo[Any], *, complete: bool) -> Iterator[str]:
    if losses.count:
        verb = "is" if losses.count == 1 else "are"
        yield from _wrapped(f"{PROGRAM}: {name}: {_what(losses)} {verb} lost:")
        for loss in losses.listed[:_MOST_SHOWN]:
            yield from _shown(loss)
        yield from _rest(losses.count - _MOST_SHOWN)
    if repo.damage_count:
        yield from _wrapped(f"{PROGRAM}: {name}: {_damage_summary(repo, complete=complete)}:")
        for damage in repo.damage[:_MOST_DAMAGE]:
            yield from _shown_damage(damage)
        yield from _rest(repo.damage_count - _MOST_DAMAGE)


def _what(losses: Losses) -> str:
    parts: list[str] = []
    if losses.records:
        parts.append(_counted(losses.records, "record", "records"))
    if losses.subtrees:
        parts.append(_counted(losses.subtrees, "subtree of records", "subtrees of records"))
    return " and ".join(parts)


def _damage_summary(repo: Repo[Any], *, complete: bool = False) -> str:
    count, repaired = repo.damage_count, repo.damage_repaired
    how_many = _counted(count, "place is damaged", "places are damaged")
    if repaired:
        how_many += f", {'all' if repaired == count else f'{repaired:,}'} repaired"
    if complete and repaired < count:
        how_many += "; no record that was asked for is lost"
    return how_many


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _shown(loss: Loss) -> Iterator[str]:
    if loss.key is not None:
        yield f"  {_cut(shown_key(loss.key), WIDTH - 2)}"
        return
    after = "the beginning" if loss.after is None else shown_key(loss.after)
    before = "the end" if loss.before is None else shown_key(loss.before)
    yield f"  between {_cut(after, WIDTH - 10)}"
    yield f"      and {_cut(before, WIDTH - 10)}"


def _shown_damage(damage: Damage) -> Iterator[str]:
    state = "repaired: " if damage.repaired else ""
    yield from _wrapped(f"{state}{explained(damage.error)}", indent="  ")


def _rest(count: int) -> Iterator[str]:
    if count > 0:
        yield f"  and {count:,} more"


def _wrapped(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        one_line(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )


def _cut(text: str, room: int) -> str:
    """Return a text with its middle left out if it is too long: keys differ at their ends."""
    if len(text) <= room:
        return text
    half = (room - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


# --- As JSON ------------------------------------------------------------------------------------


def _report(losses: Losses, repo: Repo[Any], found: int, *, complete: bool) -> dict[str, object]:
    commit = repo.commit
    return {
        "did": commit.did,
        "rev": commit.rev,
        "commit": str(commit.cid),
        "complete": complete,
        "records": found,
        **_as_json(losses, repo),
    }


def _as_json(losses: Losses, repo: Repo[Any]) -> dict[str, object]:
    return {
        "lost": {
            "records": losses.records,
            "subtrees": losses.subtrees,
            "listed": [{**each._asdict(), "cid": str(each.cid)} for each in losses.listed],
        },
        "bad": {
            "records": repo.problem_count,
            "listed": [
                {"key": each.key, "cid": str(each.cid), "error": explained(each.error)}
                for each in repo.problems
            ],
        },
        "damage": {
            "places": repo.damage_count,
            "repaired": repo.damage_repaired,
            "listed": _damage_as_json(repo.damage),
        },
    }


def _damage_as_json(damage: Sequence[Damage]) -> list[dict[str, object]]:
    return [
        {
            "offset": each.offset,
            "cid": None if each.cid is None else str(each.cid),
            "error": type(each.error).__name__,
            "message": explained(each.error),
            "repaired": each.repaired,
        }
        for each in damage
    ]


def _append(options: argparse.Namespace, report: dict[str, object]) -> None:
    """Write the line of a CAR."""
    file: IO[bytes] = options.report_file
    with writing_to(options.report):
        file.write(json.dumps({"car": options.car, **report}).encode() + b"\n")
