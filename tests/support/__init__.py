"""What several test files need: the shared material, and short ways through the library."""

from __future__ import annotations

import base64
import os
import tracemalloc
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar, cast

import pytest

from repo_stream import DiskBuilder, DiskStore, Driver, DriverBuilder, Output, Source

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
SAMPLE = ROOT / "tests" / "cars" / "sample.car"


# What lies beside the project, by its folder, and why it is not part of it.
NOT_REDISTRIBUTED = {
    "cars": "real exports, not redistributed: ../shared/cars",
    "interop": "public fixtures, not redistributed: ../shared/interop",
}


def shared(name: str) -> Path:
    """A file or folder of `../shared`; whoever asks for it is skipped if it is absent.

    A file of tests shows one skip for all that it lacks, with a reason, not one for each case:

    - Tests that need shared material have a file of their own, `test_interop_*.py` for the public
      fixtures and `test_real_*.py` for real exports. It asks once, before its first test, and is
      skipped as a whole while it is collected::

          INTEROP = shared("interop")

      Only the folder is asked for there. Its files are read within the tests, or they would be read
      whenever tests are collected.
    - A single test in another file asks within itself. It is not parametrised, but goes through
      what it compares in a loop.
    """
    __tracebackhide__ = True  # the skip is told of the file that asks
    path = SHARED / name
    if not path.exists():
        pytest.skip(NOT_REDISTRIBUTED[name.partition("/")[0]], allow_module_level=True)
    return path


@contextmanager
def traced() -> Generator[Callable[[], int]]:
    """Say how much memory Python has taken since, at its highest."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def replaced(number: int, other: int) -> Generator[None]:
    """Put another file in the place of one that is open."""
    kept = os.dup(number)
    os.dup2(other, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@contextmanager
def new_descriptors() -> Generator[Callable[[], list[str]]]:
    """Say which files have been opened since, by name."""
    directory = Path("/proc/self/fd")
    if not directory.is_dir():
        pytest.skip("needs /proc/self/fd to see descriptors")

    def opened() -> dict[str, str]:
        found: dict[str, str] = {}
        for link in directory.iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
            # As a thread gives memory back, glibc looks there, for a moment.
            if target != "/proc/sys/vm/overcommit_memory":
                found[link.name] = target
        return found

    before = opened()
    yield lambda: sorted(
        target for fd, target in opened().items() if target[0] == "/" and before.get(fd) != target
    )


def columns(blocks: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], list[bytes]]:
    """Put blocks into columns: their CIDs, and their bytes."""
    cids, data = zip(*blocks, strict=True)
    return [*cids], [*data]


def from_base64(text: str) -> bytes:
    """Decode it as atproto writes it, without padding."""
    return base64.b64decode(text + "=" * (-len(text) % 4))


def from_json(value: object, *, link: Callable[[str], object]) -> object:
    """The value that a fixture of the data model means; `link` makes one of the text of a CID."""
    match value:
        case {"$link": str(text)}:
            return link(text)
        case {"$bytes": str(text)}:
            return from_base64(text)
        case dict():
            items = cast("dict[str, object]", value).items()
            return {key: from_json(item, link=link) for key, item in items}
        case list():
            return [from_json(item, link=link) for item in cast("list[object]", value)]
        case _:
            return value


class Pieces:
    """An async source that may be left at any time; trio wants an async generator to be closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def pieces_of(data: bytes, size: int) -> Pieces:
    return Pieces(data[at : at + size] for at in range(0, len(data), size))


async def walk(
    source: Source,
    builder: DriverBuilder[T],
    *,
    store: DiskStore | None = None,
    chunk: int = 256,
) -> list[Output[T]]:
    """Walk a whole repo, through `store` or a temporary one where it does not fit in memory."""
    outputs: list[Output[T]] = []
    match await builder.load_car(source):
        case Driver.Memory(_, driver):
            while part := await driver.next_outputs(chunk):
                outputs += part
        case Driver.Disk(paused):
            if store is None:
                async with DiskBuilder().open() as temporary:
                    _, on_disk = await paused.finish_loading(temporary)
                    while part := await on_disk.next_outputs(chunk):
                        outputs += part
            else:
                _, on_disk = await paused.finish_loading(store)
                while part := await on_disk.next_outputs(chunk):
                    outputs += part
                await on_disk.reset_store()
    return outputs
