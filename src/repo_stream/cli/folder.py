r"""Records as files in a folder: `COLLECTION/RKEY.json`, each with one line of JSON.

A key can be any text, and a file system has names that it refuses, changes, or takes for one. So
what a name is made of is the same everywhere: lower-case ASCII.

- In a collection and an rkey, `a-z`, `0-9`, `-`, `_` and `.` stay. Every other byte of its
  UTF-8 is percent-encoded in lower case, as `%4c` for `L`: two keys that differ only by case have
  two names where case does not count.
- A `.` or `_` that comes first and a `.` that comes last are encoded, too. So is the first letter
  of a name that Windows keeps for a device, with or without an ending: `con`, `nul.txt`.
- A name longer than 140 bytes, which is what the strictest file systems allow, is cut, and ends in
  `%~` and the SHA-256 of the collection or rkey.
- A key without a slash is in `_no-collection`. An empty collection is `_empty`, and so is an rkey.

So different keys have different names, none of them leads out of the folder, and for all but long
ones `urllib.parse.unquote` returns what was encoded. The exact key is in the file.

The folder is new, or empty, or one that `export` has made of the same account before, which is then
brought up to date: its collections are replaced, all or none, and are as those of a new folder.
`_repo.json` in it says which those are, and is how it is recognized. Other files in it stay. With
`--partial` or `--skip-bad` such a folder is refused, as what is lost now would be removed from it,
and so is one of other collections or another range, unless all records are written now.

While records are written, they are in a folder of their own within it, which nobody else can enter;
so what lies in the folder, such as a symbolic link, is never written through.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from repo_stream import Commit, Output
from repo_stream.cli.output import OutputError, naming, writing_to
from repo_stream.cli.rows import Line

__all__ = ["Folder", "folder", "path_of"]

_ENDING: Final = ".json"
_ABOUT: Final = f"_repo{_ENDING}"
_LONGEST: Final = 140
_HASH_LENGTH: Final = len("%~") + 64
_KEPT: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
# `com¹` and `conin$` are such names as well, but have characters that are encoded anyway.
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)")
_NAME: Final = re.compile(r"[a-z0-9%_~-](?:[a-z0-9%_~.-]*[a-z0-9%_~-])?")
_CUT_ESCAPE: Final = re.compile(r"%.?$")


class Contents(NamedTuple):
    """What is in a folder that `export` has made.

    Attributes:
        did: the account.
        rev: the revision of its repo.
        collections: the names of the folders in it.
        selection: the filters of the command line; none if all records were to be written.
    """

    did: str
    rev: str
    collections: set[str]
    selection: list[str]


def path_of(key: str) -> str:
    """Return the path of a record's file within the folder.

    Example:
        >>> path_of("app.bsky.feed.post/3jzfcijpj2z2a")
        'app.bsky.feed.post/3jzfcijpj2z2a.json'
        >>> path_of("app.bsky.feed.getLikes/Nul:..")
        'app.bsky.feed.get%4cikes/%4eul%3a.%2e.json'
    """
    collection, slash, rkey = key.partition("/")
    if not slash:
        collection, rkey = "", key
    within = _name_of(collection, _LONGEST) if slash else "_no-collection"
    return f"{within}/{_name_of(rkey, _LONGEST - len(_ENDING))}{_ENDING}"


def _name_of(part: str, longest: int) -> str:
    if not part:
        return "_empty"
    name = "".join(chr(byte) if byte in _KEPT else f"%{byte:02x}" for byte in part.encode())
    if name.endswith("."):
        name = f"{name[:-1]}%2e"
    if name.startswith((".", "_")) or _DEVICE.match(name):
        name = f"%{ord(name[0]):02x}{name[1:]}"
    if len(name) <= longest:
        return name
    begin = _CUT_ESCAPE.sub("", name[: longest - _HASH_LENGTH])
    return f"{begin}%~{sha256(part.encode()).hexdigest()}"


class Folder:
    """Writes each record of a repo to a file of its own.

    Args:
        path: the folder, for errors.
        part: an empty folder to write to.
        line: makes the line of a record.
        before: what was in the folder before; `None` if nothing was.
        partial: whether records may be left out because they are missing or damaged.
        selection: the filters of the command line.

    Attributes:
        made: what is in `part`; `None` if no repo has been begun.
    """

    def __init__(
        self,
        path: str,
        part: Path,
        line: Line,
        before: Contents | None,
        *,
        partial: bool,
        selection: Sequence[str],
    ) -> None:
        self.made: Contents | None = None
        self._path = path
        self._part = part
        self._line = line
        self._before = before
        self._partial = partial
        self._selection = [*selection]

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo.

        Raises:
            OutputError: if the folder has those of another account, or those that are left out now.
        """
        if self._before is not None:
            self._check_update(self._before, commit)
        self.made = Contents(commit.did, commit.rev, set(), self._selection)

    def _check_update(self, before: Contents, commit: Commit) -> None:
        if before.did != commit.did:
            raise _refusal(self._path, f"it has the records of {before.did}, not of {commit.did}")
        if self._partial:
            raise _refusal(
                self._path,
                "it has an earlier export, and records that are lost now would be removed from it",
            )
        if self._selection not in ([], before.selection):
            raise _refusal(
                self._path,
                "it has an earlier export, and records that are not selected now would be removed "
                "from it",
            )

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Write the next records."""
        made = cast("Contents", self.made)
        for output in chunk:
            path = path_of(output.key)
            collection = path.partition("/")[0]
            with writing_to(self._path):
                if collection not in made.collections:
                    (self._part / collection).mkdir()
                    made.collections.add(collection)
                with (self._part / path).open("xb") as file:
                    file.write(self._line(made.did, output).encode() + b"\n")


@contextmanager
def folder(path: str, line: Line, *, partial: bool, selection: Sequence[str]) -> Generator[Folder]:
    """Write records to a folder, where they appear when all of them are complete.

    Args:
        path: the folder.
        line: makes the line of a record.
        partial: whether records may be left out because they are missing or damaged. Then it must
            not have an earlier export, which may have those.
        selection: the filters of the command line. If there are any, an earlier export has to be
            one with the same.

    Raises:
        OutputError: if it cannot be written, or has something that is not of an export.
    """
    target = Path(os.path.realpath(path))  # keep a link, and write to where it leads
    with writing_to(path):
        is_new = not target.exists()
        if is_new:
            target.mkdir()
        part = target / f"_part-{os.getpid()}"
        try:
            before = _contents(target, path)
            part.mkdir(mode=0o700)
        except BaseException:
            if is_new:
                target.rmdir()
            raise
    try:
        sink = Folder(path, part, line, before, partial=partial, selection=selection)
        yield sink
        if sink.made is not None:
            with naming(path):  # without `at_once`: a Ctrl-C here would leave half of it
                _replace(target, part, before, sink.made)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it has the records
                target.rmdir()


def _contents(target: Path, path: str) -> Contents | None:
    """Return what is in a folder that `export` has made; `None` if it is empty.

    Raises:
        OutputError: if it is neither.
    """
    if not any(target.iterdir()):
        return None
    about = target / _ABOUT
    if about.is_symlink() or not about.is_file():
        raise _refusal(path, f"it is not empty, and has no {_ABOUT} of an export before")
    try:
        contents = _read(about.read_bytes())
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refusal(path, f"its {_ABOUT} is not that of an export") from error
    for name in contents.collections:
        _check_collection(target / name, path)
    return contents


def _read(about: bytes) -> Contents:
    contents: dict[str, Any] = json.loads(about)  # Any: checked here
    did, rev, collections = contents["did"], contents["rev"], set(contents["collections"])
    selection = [*contents["selection"]]
    if not (isinstance(did, str) and isinstance(rev, str)):
        raise TypeError("not text")
    if not all(_NAME.fullmatch(name) for name in collections):
        raise ValueError("not a name of a collection")
    return Contents(did, rev, collections, selection)


def _check_collection(within: Path, path: str) -> None:
    """Check that a folder, which is going to be replaced, has only what was exported.

    Raises:
        OutputError: if it has not.
    """
    if not os.path.lexists(within):
        return
    if within.is_symlink() or not within.is_dir():
        raise _refusal(path, f"{within.name} in it is not a folder")
    with os.scandir(within) as entries:
        for entry in entries:
            name = entry.name
            exported = name.endswith(_ENDING) and _NAME.fullmatch(name)
            if not exported or not entry.is_file(follow_symlinks=False):
                raise _refusal(path, f"{within.name}/{name} in it is not of an export")


def _replace(target: Path, part: Path, before: Contents | None, made: Contents) -> None:
    """Put what was written in the place of what was there before: all of it or nothing."""
    there = before.collections if before else set[str]()
    for name in sorted(made.collections - there):
        if os.path.lexists(target / name):
            raise FileExistsError(0, f"{name} in it is in the way")
    about, old = part / _ABOUT, part / "_old"
    contents = {**made._asdict(), "collections": sorted(made.collections)}
    about.write_text(f"{json.dumps(contents, indent=2)}\n", "utf-8")
    old.mkdir()
    moves = [
        (target / name, old / name) for name in sorted(there) if os.path.lexists(target / name)
    ]
    moves += [(part / name, target / name) for name in sorted(made.collections)]
    moved: list[tuple[Path, Path]] = []
    try:
        for source, place in moves:
            source.rename(place)
            moved.append((source, place))
        about.replace(target / _ABOUT)
    except BaseException:
        for source, place in reversed(moved):
            place.rename(source)
        raise


def _refusal(path: str, reason: str) -> OutputError:
    return OutputError(path, OSError(0, f"{reason}; name another folder, or an empty one"))
