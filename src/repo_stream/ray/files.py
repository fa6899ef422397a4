"""Files on any file system of fsspec: which there are, how large they are, and how to read one.

A file of the machine is read by its path, as everywhere in the library: what does not fit in memory
is read again in its place. A file of another system is read as a stream, a piece at a time, in a
thread; what does not fit in memory is copied to a temporary file of the worker.
"""

from __future__ import annotations

import glob
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from errno import ENOENT
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from re import IGNORECASE, compile as compile_regex
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from repo_stream.arrow.sources import CAR_SUFFIXES, Given, expand
from repo_stream.errors import MissingExtra
from repo_stream.syntax import AT_SCHEME

__all__ = ["File", "FileSystem", "as_file_system", "listed", "opened_file"]

#: A file system: `fsspec.AbstractFileSystem`, which has no types.
FileSystem: TypeAlias = Any

S = TypeVar("S")
T = TypeVar("T")

# How a path begins that names its file system; also that of a file which is one, as in
# zip://repo.car::s3://bucket/cars.zip.
_SCHEME: Final = compile_regex(r"[a-z0-9+:-]+://", IGNORECASE)
# How many times as large a repo is as its compressed file, about.
_COMPRESSION: Final = 2
# How many files are looked up at once, and how many one after the other in each thread.
_LOOKUPS: Final = 32
_IN_A_ROW: Final = 64


class File(NamedTuple):
    """What a text stands for: a file, or the name of an account.

    Attributes:
        given: what it is called, and how this machine reads it.
        size: about how many bytes its CAR has, `None` if that is not known.
        remote: its path on its file system; `None` if it is on this machine, or is no file.
    """

    given: Given
    size: int | None
    remote: str | None = None


def _has_scheme(path: str) -> bool:
    """Return whether a path names its file system, as `s3://bucket/repo.car` does."""
    return _SCHEME.match(path) is not None and not path.startswith(AT_SCHEME)


def as_file_system(given: object) -> FileSystem:
    """Return a file system as fsspec has it.

    Args:
        given: one of fsspec, or of `pyarrow.fs`.

    Raises:
        MissingExtra: if fsspec is not installed.
        TypeError: if it is anything else.
    """
    fsspec = _fsspec()
    if isinstance(given, fsspec.AbstractFileSystem):
        return given
    if isinstance(given, import_module("pyarrow.fs").FileSystem):
        return import_module("fsspec.implementations.arrow").ArrowFSWrapper(given)
    raise TypeError(
        "filesystem must be a file system of fsspec or of pyarrow.fs, such as "
        f"fsspec.filesystem('s3'), not {given!r}"
    )


def listed(
    paths: Sequence[str | os.PathLike[str]], system: FileSystem | None
) -> Iterator[list[File]]:
    """Look up what texts stand for: for each, its files in order, or the name of an account.

    Args:
        paths: files, folders with CARs, or patterns, also on other file systems; or names. Hidden
            files are left out. If it is not known whether a file is there, or how large it is,
            whoever opens it learns why.
        system: the file system of all the paths; `None` if each names its own.

    Raises:
        FileNotFoundError: if there is no file of a pattern, or no CAR in a folder.
        ImportError: if the package of a file system is not installed; the message names it.
    """
    with ThreadPoolExecutor(_LOOKUPS, "repo-stream-lookup") as pool:
        look_up = partial(_look_up, system=system)
        for found in pool.map(partial(_each, look_up), _in_parts(paths, _IN_A_ROW)):
            yield from found


def _each(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    return [work(item) for item in items]


def _in_parts(items: Iterable[T], length: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, length)):
        yield part


def _look_up(path: str | os.PathLike[str], *, system: FileSystem | None) -> list[File]:
    text = os.fsdecode(path)
    is_name = isinstance(path, str) and path.startswith(("did:", AT_SCHEME))
    if is_name or (system is None and not _has_scheme(text)):
        return [_file_here(given) for given in expand(path)]
    if system is None:
        try:
            system_of_path, there = _in_system(text)
        except (ImportError, ValueError):
            raise
        except Exception:  # noqa: BLE001 - of an archive that is looked into at once
            return [_file_there(text, text, None)]
        return _look_up_there(system_of_path, there, text)
    return _look_up_there(system, system._strip_protocol(text), text)  # noqa: SLF001 - a hook of it


def _file_here(given: Given) -> File:
    if given.kind != "file":
        return File(given, None)
    path = Path(os.fsdecode(given.source))
    # A worker has another current folder.
    given = given._replace(source=str(path.absolute()))
    try:
        return File(given, _car_bytes(given.name, path.stat().st_size))
    except OSError:
        return File(given, None)


# --- On other file systems ------------------------------------------------------------------------


def _look_up_there(system: FileSystem, path: str, label: str) -> list[File]:
    try:
        info: dict[str, Any] = system.info(path)  # Any: fsspec has no types
    except OSError:
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
            return _some(_files_in(system, found, path, label), label)
        return [_file_there(label, path, None)]
    if info["type"] == "directory":
        found = system.find(path, detail=True)
        cars = {each: about for each, about in found.items() if _is_car(each)}
        return _some(_files_in(system, cars, path, label), label)
    return [_file_there(label, path, info.get("size"))]


def _files_in(system: FileSystem, found: dict[str, Any], asked: str, label: str) -> list[File]:
    def name(path: str) -> str:
        if not _has_scheme(label):
            return path
        _, chained, outer = label.partition("::")
        return f"{system.unstrip_protocol(path)}{chained}{outer}"

    return [
        _file_there(name(path), path, about.get("size"))
        for path, about in sorted(found.items())
        if about["type"] != "directory" and (_is_hidden(asked) or not _is_hidden(path))
    ]


def _is_hidden(path: str) -> bool:
    return "/." in f"/{path}"


def _file_there(name: str, path: str, size: int | None) -> File:
    return File(Given(name, name, "file"), _car_bytes(name, size), path)


def _car_bytes(name: str, size: int | None) -> int | None:
    compressed = name.lower().endswith((".gz", ".zst"))
    return size * _COMPRESSION if size and compressed else size


def _in_system(url: str) -> tuple[FileSystem, str]:
    """Return the file system that a URL names, and its path there.

    Raises:
        ImportError: if its package is not installed; the message names it.
        ValueError: if there is no such file system.
    """
    core: Any = _fsspec().core  # Any: fsspec has no types
    found: tuple[FileSystem, str] = core.url_to_fs(url)
    return found


def _is_car(path: str) -> bool:
    return path.lower().endswith(CAR_SUFFIXES)


def _some(files: list[File], path: str) -> list[File]:
    if not files:
        raise FileNotFoundError(ENOENT, "no CAR is there", path)
    return files


def _fsspec() -> Any:  # noqa: ANN401 - fsspec has no types
    try:
        for module in ("fsspec.compression", "fsspec.core"):
            import_module(module)
        return import_module("fsspec")
    except ImportError as error:
        raise MissingExtra(extra="ray", package="fsspec", feature="a file system") from error


# --- Reading --------------------------------------------------------------------------------------


class _Stream:
    """A file of fsspec as an async source."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 - fsspec has no types
        self._file = file

    async def read(self, n: int) -> bytes:
        """Return up to `n` bytes; none at the end."""
        data: bytes = await _in_thread(self._file.read, n)
        return data


async def _in_thread(work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - see above
    """Call a function of fsspec in a thread.

    Raises:
        OSError: whatever it raises: file systems and compression have errors of their own.
        ImportError, MemoryError: as they are, for which no file is to blame.
    """
    try:
        return await anyio.to_thread.run_sync(work, *arguments)
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def opened_file(name: str, path: str, system: FileSystem | None) -> AsyncGenerator[_Stream]:
    """Open a file of another file system as a source for `open_car`, a stream.

    If its name says that it is compressed, it is decompressed as it is read.

    Args:
        name: what it is called, with its scheme if `system` is `None`.
        path: its path on its file system.
        system: its file system; `None` if its name tells both.

    Raises:
        MissingExtra: if it is compressed with zstd, which fsspec cannot read here.
        OSError: if it cannot be opened, or in the block, if it cannot be read.
    """
    if name.lower().endswith(".zst") and "zstd" not in _fsspec().compression.compr:
        raise MissingExtra(
            extra="zstd", package="backports.zstd", feature="reading a CAR compressed with zstd"
        )
    of_file: FileSystem = system
    if system is None:
        of_file, path = await _in_thread(_in_system, name)
    opened = await _in_thread(partial(of_file.open, path, "rb", compression="infer"))
    try:
        yield _Stream(opened)
    finally:
        with anyio.CancelScope(shield=True):
            await _in_thread(opened.close)
