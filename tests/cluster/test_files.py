"""Files on any file system, as they are looked up and read; there is no Ray in it."""

from __future__ import annotations

import gzip
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anyio
import pytest

from repo_stream import MissingExtra, load_commit
from repo_stream.ray.files import as_file_system, listed, opened_file
from repo_stream.testing import DID, build_car

# Any: none of them has types.
fsspec: Any = import_module("fsspec")
arrow_fs: Any = import_module("pyarrow.fs")

CAR = build_car({"com.example.note/1": {"n": 1}})
NAMES = ["a.car", "b.car.gz", "inside/c.car", "notes.txt", "d[1].car", ".x.car", ".x/x.car"]


@pytest.fixture
def memory() -> Generator[Any]:
    system = fsspec.filesystem("memory")
    for name in NAMES:
        system.pipe(f"/cars/{name}", gzip.compress(CAR) if name.endswith(".gz") else CAR)
    yield system
    system.rm("/cars", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CAR)
    return tmp_path


def names_of(path: str, system: Any = None) -> list[str]:
    return [file.given.name for [*files] in listed([path], system) for file in files]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("", ["a.car", "b.car.gz", "d[1].car", "inside/c.car"], id="folder"),
        pytest.param("/*", ["a.car", "b.car.gz", "d[1].car", "notes.txt"], id="pattern"),
        pytest.param("/.x/*", [".x/x.car"], id="hidden"),
        pytest.param("/d[1].car", ["d[1].car"], id="name-like-a-pattern"),
        pytest.param("/**/c.car", ["inside/c.car"], id="deep-pattern"),
        pytest.param("/notes.txt", ["notes.txt"], id="file"),
        pytest.param("/no.car", ["no.car"], id="missing"),
    ],
)
@pytest.mark.usefixtures("memory")
def test_a_path_stands_for_the_same_on_all_file_systems(
    folder: Path, asked: str, found: list[str]
) -> None:
    there = names_of(f"memory://cars{asked}")
    assert [name.partition("cars/")[2] for name in there] == found
    assert all(name.startswith("memory://") for name in there)
    assert names_of(f"{folder}{asked}") == [f"{folder}/{name}" for name in found]
    assert names_of(f"{folder}{asked}", as_file_system(arrow_fs.LocalFileSystem())) == [
        f"{folder}/{name}" for name in found
    ]


@pytest.mark.usefixtures("memory")
def test_a_compressed_file_counts_twice(folder: Path) -> None:
    """Repos are about twice as large as their compressed files."""
    for path, size in (("memory://cars/b.car.gz", len(gzip.compress(CAR))), (folder, len(CAR))):
        [files] = listed([path], None)
        assert [file.size for file in files if file.given.name.endswith(".gz")] == [2 * size]


@pytest.mark.usefixtures("memory")
def test_sizes_are_looked_up() -> None:
    found = [*listed(["memory://cars/*.car", "memory://cars/no.car", "did:web:a.example"], None)]
    assert [[file.size for file in files] for files in found] == [[len(CAR)] * 2, [None], [None]]


@pytest.mark.parametrize("path", ["memory://cars/x*", "memory://cars/inside/*.gz", "no/*.car"])
@pytest.mark.usefixtures("memory")
def test_a_pattern_without_files_is_an_error(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"file|CAR"):
        names_of(path)


def test_a_file_system_can_be_a_file_of_another(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "cars.zip", "w") as cars:
        for name in NAMES:
            cars.writestr(name, CAR)
    there = f"zip://{{}}::{tmp_path}/cars.zip".format
    assert names_of(there("inside/c.car")) == [there("inside/c.car")]
    assert names_of(there("*.car")) == [there("a.car"), there("d[1].car")]

    async def did() -> str:
        [[file]] = listed([there("a.car")], None)
        async with opened_file(file.given.name, file.remote or "", None) as source:
            return (await load_commit(source)).did

    assert anyio.run(did) == DID


def test_a_file_system_that_is_damaged_is_an_error_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "cars.zip").write_bytes(b"no zip")
    name = f"zip://a.car::{tmp_path}/cars.zip"
    [[file]] = listed([name], None)

    async def read() -> None:
        async with opened_file(file.given.name, file.remote or "", None):
            pass

    with pytest.raises(OSError, match=r"BadZipFile: "):
        anyio.run(read)


def test_a_path_is_no_name() -> None:
    [[file], [name]] = listed([Path("alice.example.com"), "alice.example.com"], None)
    assert (file.given.kind, name.given.kind) == ("file", "account")


def test_the_package_of_a_file_system_is_named() -> None:
    with pytest.raises(ImportError, match="gcsfs"):
        names_of("gs://bucket/a.car")


def test_what_is_no_file_system_is_refused() -> None:
    with pytest.raises(TypeError, match="filesystem must be"):
        as_file_system("s3")


@pytest.mark.parametrize("name", ["a.car", "b.car.gz"])
def test_a_file_is_read_as_a_stream(memory: Any, name: str) -> None:
    async def did() -> str:
        async with opened_file(name, f"/cars/{name}", memory) as source:
            return (await load_commit(source)).did

    assert anyio.run(did) == DID


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("the bucket is away"), OSError),
        (ImportError("install it"), ImportError),
        (MemoryError("full"), MemoryError),
    ],
    ids=["its-own", "import", "memory"],
)
@pytest.mark.parametrize("at", ["open", "close"])
def test_only_errors_of_its_own_are_those_of_the_source(
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    raised: Exception,
    expected: type[Exception],
) -> None:
    """What is wrong with the machine is not, or all files would be left out in silence."""

    def fails(*_: object, **__: object) -> None:
        raise raised

    file = memory.open("/cars/a.car")

    def opens(*_: object, **__: object) -> Any:
        return file

    monkeypatch.setattr(memory, "open", opens)
    monkeypatch.setattr(memory if at == "open" else file, at, fails)

    async def read() -> None:
        async with opened_file("a.car", "/cars/a.car", memory):
            pass

    with pytest.raises(expected, match=str(raised)):
        anyio.run(read)


def test_the_package_for_zstd_is_named(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, all such files would be left out with `on_error="skip"`."""
    monkeypatch.delitem(fsspec.compression.compr, "zstd", raising=False)
    monkeypatch.delitem(fsspec.utils.compressions, "zst", raising=False)

    async def read() -> None:
        async with opened_file("memory://cars/d.car.zst", "/cars/d.car.zst", memory):
            pass

    memory.pipe("/cars/d.car.zst", CAR)
    with pytest.raises(MissingExtra, match=r"atproto-repo-stream\[zstd\]"):
        anyio.run(read)


@pytest.mark.parametrize("cut", [slice(0, -20), slice(0, 5)], ids=["cut", "stub"])
def test_whatever_a_file_system_raises_is_an_error_of_the_source(memory: Any, cut: slice) -> None:
    memory.pipe("/cars/cut.car.gz", gzip.compress(CAR)[cut])

    async def read() -> None:
        async with opened_file("cut.car.gz", "/cars/cut.car.gz", memory) as source:
            while await source.read(1 << 16):
                pass

    with pytest.raises(OSError, match=r"EOFError: .*ended"):
        anyio.run(read)
