r"""Records as files in a folder: `COLLECTION/RKEY.json`, each with one line of JSON.

Or a collection is one file: `COLLECTION.parquet`; see `typed`.

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

The folder is new, or empty, or one that `export` has made of the same account before, in the same
form, which is then brought up to date: its collections are replaced, all or none, and are as those
of a new folder. `_repo.json` in it says which those are, and is how it is recognized. Other files
in it stay. With `--partial` or `--skip-bad` such a folder is refused, as what is lost now would be
removed from it, and so is one of other collections or another range, unless all records are written
now.

While records are written, they are in a folder of their own within it, which nobody else can enter;
so what lies in the folder, such as a symbolic link, is never written through.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from repo_stream import Commit, Output
from repo_stream.cli.output import OutputError, naming, writing_to
from repo_stream.cli.rows import Line

__all__ = ["Files", "Folder", "collection_of", "folder", "path_of", "record_files"]

_ENDING: Final = ".json"
_ABOUT: Final = f"_repo{_ENDING}"
_PART: Final = "_part-"
_LONGEST: Final = 140
_HASH_LENGTH: Final = len("%~") + 64
_KEPT: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
# `com¹` and `conin$` are such names as well, but have characters that are encoded anyway.
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)")
_NAME: Final = re.compile(r"[a-z0-9%_~-](?:[a-z0-9%_~.-]*[a-z0-9%_~-])?")
_CUT_ESCAPE: Final = re.compile(r"%.?$")


#: What is in a folder: a folder of JSON files for each collection, or a file of Parquet.
FolderForm: TypeAlias = Literal["json", "parquet"]


class Contents(NamedTuple):
    """What is in a folder that `export` has made.

    Attributes:
        did: the account, or several, with spaces between them.
        rev: the revision of its repo, or theirs, in that order.
        collections: the names of the folders or files in it.
        selection: the filters of the command line; none if all records were to be written.
        form: what they are.
    """

    did: str
    rev: str
    collections: set[str]
    selection: list[str]
    form: FolderForm = "json"


def path_of(key: str) -> str:
    """Return the path of a record's file within the folder.

    Example:
        >>> path_of("app.bsky.feed.post/3jzfcijpj2z2a")
        'app.bsky.feed.post/3jzfcijpj2z2a.json'
        >>> path_of("app.bsky.feed.getLikes/Nul:..")
        'app.bsky.feed.get%4cikes/%4eul%3a.%2e.json'
    """
    _, slash, rkey = key.partition("/")
    name = _name_of(rkey if slash else key, _LONGEST - len(_ENDING))
    return f"{collection_of(key)}/{name}{_ENDING}"


def collection_of(key: str, ending: str = "") -> str:
    """Return the name of the folder or file for the collection of a record.

    Args:
        key: the key of the record.
        ending: the end of the name.
    """
    collection, slash, _ = key.partition("/")
    return f"{_name_of(collection, _LONGEST - len(ending)) if slash else '_no-collection'}{ending}"


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


class Files(Protocol):
    """Writes the records of repos to files in a folder."""

    @property
    def names(self) -> set[str]:
        """What is in the folder."""
        ...

    def begin(self, commit: Commit, /) -> None:
        """Begin with the records of a repo."""
        ...

    # Any: what the processor has made of a record is known to who writes it.
    def write(self, chunk: Sequence[Output[Any]], /) -> None:
        """Write the next records."""
        ...


class RecordFiles:
    """Writes each record to a file of its own, as a line of JSON.

    Args:
        part: an empty folder.
        line: makes the line.

    Attributes:
        names: the names of the folders in it.
    """

    def __init__(self, part: Path, line: Line) -> None:
        self.names: set[str] = set()
        self._part = part
        self._line = line
        self._did = ""

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo."""
        self._did = commit.did

    def write(self, chunk: Sequence[Output[str]]) -> None:
        """Write the next records."""
        for output in chunk:
            path = path_of(output.key)
            collection = path.partition("/")[0]
            if collection not in self.names:
                (self._part / collection).mkdir()
                self.names.add(collection)
            with (self._part / path).open("xb") as file:
                file.write(self._line(self._did, output).encode() + b"\n")


@contextmanager
def record_files(part: Path, line: Line) -> Generator[RecordFiles]:
    """Write each record to a file of its own, as `folder` asks for."""
    yield RecordFiles(part, line)


class Folder:
    """Writes records to a folder, which is not to lose any.

    Args:
        path: the folder, for errors.
        files: writes them.
        before: what was in the folder before; `None` if nothing was.
        form: what is in it from now on.
        partial: whether records may be left out because they are missing or damaged.
        selection: the filters of the command line.
    """

    def __init__(
        self,
        path: str,
        files: Files,
        before: Contents | None,
        *,
        form: FolderForm,
        partial: bool,
        selection: Sequence[str],
    ) -> None:
        self._path = path
        self._files = files
        self._before = before
        self._form: FolderForm = form
        self._partial = partial
        self._selection = [*selection]
        self._revs: dict[str, str] = {}

    def begin(self, commit: Commit) -> None:
        """Begin with the records of a repo.

        Raises:
            OutputError: if the folder has those of another account, or those that are left out now.
        """
        if self._before is not None:
            self._check_update(self._before, commit)
        self._revs[commit.did] = commit.rev
        self._files.begin(commit)

    def _check_update(self, before: Contents, commit: Commit) -> None:
        if commit.did not in before.did.split(" "):
            raise _refusal(self._path, f"it has the records of {before.did}, not of {commit.did}")
        if self._form != before.form:
            raise _refusal(self._path, f"it has an earlier export, as {before.form}")
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

    def write(self, chunk: Sequence[Output[Any]]) -> None:  # Any: as of `Files`
        """Write the next records."""
        with writing_to(self._path):
            self._files.write(chunk)

    def made(self) -> Contents | None:
        """Return what has been written; `None` if no repo has been begun.

        Raises:
            OutputError: if the folder has records of an account of which there are none now.
        """
        if not self._revs:
            return None
        dids, revs = " ".join(self._revs), " ".join(self._revs.values())
        before = set[str]() if self._before is None else set(self._before.did.split(" "))
        if missing := sorted(before.difference(self._revs)):
            raise _refusal(self._path, f"it has the records of {missing[0]} as well")
        return Contents(dids, revs, self._files.names, self._selection, self._form)


@contextmanager
def folder(
    path: str,
    files: Callable[[Path], AbstractContextManager[Files]],
    *,
    form: FolderForm,
    partial: bool,
    selection: Sequence[str],
) -> Generator[Folder]:
    """Write records to a folder, where they appear when all of them are complete.

    Args:
        path: the folder.
        files: opens what writes them to an empty folder.
        form: what it writes.
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
        part = target / f"{_PART}{secrets.token_hex(4)}"
        try:
            before = _contents(target, path)
            part.mkdir(mode=0o700)
        except BaseException:
            if is_new:
                target.rmdir()
            raise
    try:
        with files(part) as written:
            sink = Folder(path, written, before, form=form, partial=partial, selection=selection)
            yield sink
        made = sink.made()
        if made is not None:
            with naming(path):  # without `at_once`: a Ctrl-C here would leave half of it
                _replace(target, part, before, made)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it has the records
                target.rmdir()


def _contents(target: Path, path: str) -> Contents | None:
    """Return what is in a folder that `export` has made.

    Returns:
        What is in it; `None` if it is empty, but for what exports have left that were killed.

    Raises:
        OutputError: if it is neither.
    """
    if all(each.name.startswith(_PART) for each in target.iterdir()):
        return None
    about = target / _ABOUT
    if about.is_symlink() or not about.is_file():
        raise _refusal(path, f"it is not empty, and has no {_ABOUT} of an export before")
    try:
        contents = _read(about.read_bytes())
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refusal(path, f"its {_ABOUT} is not that of an export") from error
    check = _check_collection if contents.form == "json" else _check_file
    for name in contents.collections:
        check(target / name, path)
    return contents


def _read(about: bytes) -> Contents:
    contents: dict[str, Any] = json.loads(about)  # Any: checked here
    did, rev, collections = contents["did"], contents["rev"], set(contents["collections"])
    selection = [*contents["selection"]]
    if not (isinstance(did, str) and isinstance(rev, str)):
        raise TypeError("not text")
    if not all(_NAME.fullmatch(name) for name in collections):
        raise ValueError("not a name of a collection")
    form = contents.get("form", "json")
    if form not in {"json", "parquet"}:
        raise ValueError("not a form of a folder")
    return Contents(did, rev, collections, selection, form)


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


def _check_file(file: Path, path: str) -> None:
    """Check that what is going to be replaced is a file.

    Raises:
        OutputError: if it is not.
    """
    if os.path.lexists(file) and (file.is_symlink() or not file.is_file()):
        raise _refusal(path, f"{file.name} in it is not a file")


def _replace(target: Path, part: Path, before: Contents | None, made: Contents) -> None:
    """Put what was written in the place of what was there before: all of it or nothing."""
    there = before.collections if before else set[str]()
    for name in sorted(made.collections - there):
        if os.path.lexists(target / name):
            raise FileExistsError(0, f"{name} in it is in the way")
    about, old = part / _ABOUT, part / "_old"
    contents = {**made._asdict(), "collections": sorted(made.collections)}
    if made.form == "json":
        del contents["form"]  # as it has always been
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
