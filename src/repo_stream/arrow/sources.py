"""What can be scanned: files, folders, bytes, and the names of accounts.

A scan begins anew each time that somebody reads the stream, so there are no sources here that can
only be read once.
"""

from __future__ import annotations

import glob
import os
from collections.abc import AsyncIterable, Iterable
from errno import ENOENT
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeGuard, cast

from repo_stream.syntax import AT_SCHEME, is_handle

__all__ = ["CAR_SUFFIXES", "ArrowSource", "ArrowSources", "Given", "each_source", "expand"]

#: The path of a file or a folder, a glob, the name of an account, or the bytes of a CAR.
ArrowSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview"
#: One source, or several.
ArrowSources: TypeAlias = "ArrowSource | Iterable[ArrowSource]"

_URLS: Final = ("https://", "http://")
_NAMES: Final = ("did:", AT_SCHEME)
#: What the names of CAR files end in. `repo.car` has the form of a handle, but hardly ever is one.
CAR_SUFFIXES: Final = (".car", ".car.gz", ".car.zst")
_FILE_SUFFIXES: Final = (".car", ".gz", ".zst")
_READ_ONCE: Final = (
    "can only be read once, and each scan begins anew: pass the path of the file, or its bytes"
)


class Given(NamedTuple):
    """One source to scan.

    Attributes:
        name: what it is called in errors and problems: its path, the name of the account, or for
            bytes, at which index they were passed, such as `sources[0]`.
        source: the path, the name, or the bytes.
        kind: what it is.
    """

    name: str
    source: str | bytes
    kind: Literal["file", "bytes", "account"]


def expand(sources: ArrowSources) -> list[Given]:
    """Return what there is to scan, in the order in which it was passed.

    Args:
        sources: one source, or several:

            - the path of a CAR, which may be compressed with gzip or zstd;
            - a glob, such as `cars/**/*.car`: the files that match, in the order of their names.
              A file of exactly that name wins;
            - a folder: all files below it whose names end in `.car`, `.car.gz` or `.car.zst`, in
              the order of their paths. Hidden files and folders are left out;
            - the name of an account: a handle, a DID, or an `at://` URI. A file of that name wins,
              and what ends in `.car` is always a file;
            - the bytes of a CAR.

    Raises:
        FileNotFoundError: if nothing matches a glob, or a folder has no CARs. That a file is
            missing is only found when it is read.
        TypeError: if a source is of no such type, or can only be read once.
        ValueError: if a source is a URL, or if there are no sources.

    Example:
        >>> expand(["alice.example.com", "alice.car", b""])[0].kind
        'account'
    """
    return [
        given for at, source in enumerate(each_source(sources)) for given in _expanded(source, at)
    ]


def each_source(sources: ArrowSources) -> list[ArrowSource]:
    """Return the sources one by one.

    Raises:
        TypeError: if a source is of another type, or can only be read once.
        ValueError: if there are no sources.
    """
    if _is_source(sources):
        return [sources]
    _refuse_read_once(sources)
    found: list[ArrowSource] = []
    for source in _several(sources):
        _refuse_read_once(source)
        if not _is_source(source):
            raise TypeError(_no_source(source))
        found.append(source)
    if not found:
        raise ValueError("there are no sources")
    return found


def _is_source(source: object) -> TypeGuard[ArrowSource]:
    return isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview))


def _refuse_read_once(source: object) -> None:
    if _is_read_once(source):
        raise TypeError(f"{_shown(source)} {_READ_ONCE}")


def _several(sources: object) -> Iterable[object]:
    if not isinstance(sources, Iterable):
        raise TypeError(_no_source(sources))
    return cast("Iterable[object]", sources)


def _expanded(source: ArrowSource, at: int) -> list[Given]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        copied = bytes(source)  # nobody can change it between two scans
        return [Given(f"sources[{at}]", copied, "bytes")]
    text = os.fsdecode(source)
    if os.path.isdir(text):  # noqa: PTH112 - of a text that may be no path
        return _in_folder(text)
    if os.path.lexists(text):
        return [Given(text, text, "file")]
    if isinstance(source, str):
        if text.startswith(_URLS):
            raise ValueError(
                f"{text} is a URL; pass the name of the account instead, or download it first"
            )
        if _is_account(text):
            return [Given(text, text, "account")]
    if glob.has_magic(text):
        return _matching(text)
    return [Given(text, text, "file")]


def _in_folder(folder: str) -> list[Given]:
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(root, name)  # noqa: PTH118 - a path for each of a million files takes long
            for name in files
            if name.lower().endswith(CAR_SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        raise FileNotFoundError(ENOENT, "there are no files named *.car in the folder", folder)
    return [Given(path, path, "file") for path in sorted(found)]


def _matching(pattern: str) -> list[Given]:
    # PTH207: as shells do it, with paths as they were written
    paths = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - above
    # A pattern with several ** yields a path as often as it matches.
    found = {path for path in paths if not Path(path).is_dir()}
    if not found:
        raise FileNotFoundError(ENOENT, "no file matches", pattern)
    return [Given(path, path, "file") for path in sorted(found)]


def _is_account(text: str) -> bool:
    if text.startswith(_NAMES):
        return True
    return is_handle(text.removeprefix("@")) and not text.lower().endswith(_FILE_SUFFIXES)


def _is_read_once(source: Any) -> bool:  # noqa: ANN401 - whatever was passed
    return isinstance(source, AsyncIterable) or any(
        callable(getattr(source, name, None)) for name in ("read", "receive")
    )


def _no_source(source: object) -> str:
    return (
        f"{_shown(source)} is not a source: pass paths, globs, folders, the names of accounts, or "
        "bytes; one of them, or a list"
    )


def _shown(source: object) -> str:
    text = repr(source)
    return text if len(text) <= 100 else f"{text[:100]}..."
