"""What can be scanned, and in which order it comes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repo_stream import Network, sync
from repo_stream.arrow import expand, records
from repo_stream.loop_thread import Block, loop_thread
from repo_stream.testing import AtprotoNetwork, build_car

pytest.importorskip("pyarrow")

KEY = "app.bsky.feed.post/3k2a"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with CARs, in which the test runs."""
    for name in ("b.car", "a.car", "deep/c.CAR.gz", "deep/d.car.zst", "odd[1].car"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(build_car({KEY: {"name": name}}))
    for name in ("readme.md", ".hidden.car", "a.gz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/e.car").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(sources: Any) -> list[str]:
    return [given.name for given in expand(sources)]


def test_a_path_is_a_file_whether_or_not_it_is_there(folder: Path) -> None:
    assert names("a.car") == names(["a.car"]) == names(Path("a.car")) == ["a.car"]
    assert names(["later.car", Path("later"), folder / "a.car"]) == [
        "later.car",
        "later",
        str(folder / "a.car"),
    ]
    assert {given.kind for given in expand(["a.car", Path("later")])} == {"file"}


@pytest.mark.usefixtures("folder")
def test_a_glob_is_all_files_that_match_in_the_order_of_their_names() -> None:
    assert names("*.car") == ["a.car", "b.car", "odd[1].car"]
    assert names("**/*.car*") == ["a.car", "b.car", "deep/d.car.zst", "odd[1].car"]
    assert names([Path("?.car")]) == ["a.car", "b.car"]
    assert names("**/**/d.*") == ["deep/d.car.zst"]  # which `glob` finds twice


@pytest.mark.usefixtures("folder")
def test_a_file_of_exactly_that_name_is_no_glob() -> None:
    assert names("odd[1].car") == ["odd[1].car"]


def test_a_folder_is_all_cars_below_it_in_the_order_of_their_paths(folder: Path) -> None:
    found = ["a.car", "b.car", "deep/c.CAR.gz", "deep/d.car.zst", "odd[1].car"]
    assert names(folder) == [str(folder / name) for name in found]
    assert names(["deep"]) == ["deep/c.CAR.gz", "deep/d.car.zst"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("sources", "says"),
    [("x*.car", "no file matches: 'x\\*.car'"), (".git/", "no files named .* in the folder")],
    ids=["glob", "folder"],
)
def test_nothing_is_not_a_source(sources: str, says: str) -> None:
    if sources == ".git/":
        Path(".git/e.car").unlink()
    with pytest.raises(FileNotFoundError, match=says):
        expand(sources)
    with pytest.raises(ValueError, match="there are no sources"):
        expand([])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("alice.example.com", "account"),
        ("@alice.example.com", "account"),
        ("did:plc:abcdefghijklmnopqrstuvwx", "account"),
        ("at://alice.example.com/app.bsky.feed.post", "account"),
        ("./alice.example.com", "file"),
        ("alice.car", "file"),
        ("alice.example.gz", "file"),
        ("alice", "file"),
    ],
)
def test_names_of_accounts_are_told_from_files(text: str, kind: str) -> None:
    assert [given.kind for given in expand(text)] == [kind]
    assert [given.kind for given in expand(Path(text))] == ["file"]


@pytest.mark.usefixtures("folder")
def test_a_file_wins_over_an_account_of_its_name() -> None:
    Path("alice.example.com").write_bytes(b"")
    assert [given.kind for given in expand("alice.example.com")] == ["file"]


def test_bytes_are_named_by_their_index() -> None:
    car = bytearray(build_car({KEY: {}}))
    stream = records(["x.car", memoryview(bytes(car)), car], on_error="skip", columns=["uri"])
    car[:] = b""  # they were copied
    assert [each.name for each in expand([b"", b""])] == ["sources[0]", "sources[1]"]
    assert sum(batch.num_rows for batch in stream.batches()) == 2


def test_any_iterable_of_sources_will_do(folder: Path) -> None:
    stream = records(path for path in sorted(folder.glob("?.car")))
    for _ in range(2):
        assert sum(batch.num_rows for batch in stream.batches()) == 2


def test_a_compressed_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "a.car.gz"
    path.write_bytes(gzip.compress(build_car({KEY: {}})))
    assert sum(batch.num_rows for batch in records(path).batches()) == 1


async def pieces() -> Any:
    yield b""


@pytest.mark.parametrize("several", [False, True], ids=["alone", "in_a_list"])
@pytest.mark.parametrize("make", [lambda: io.BytesIO(b""), pieces], ids=["file", "pieces"])
def test_what_can_only_be_read_once_is_refused(make: Callable[[], Any], several: bool) -> None:
    source = make()
    with pytest.raises(TypeError, match=r"can only be read once.*pass the path.*or its bytes"):
        records([source] if several else source)


@pytest.mark.parametrize("source", [7, None, [7], [["a.car"]], {"a.car": 1}.items()], ids=repr)
def test_anything_else_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match="is not a source: pass paths, globs, folders, the names"):
        records(source)


def test_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="is a URL; pass the name of the account instead"):
        records("https://example.com/xrpc/com.atproto.sync.getRepo?did=x")


# --- Accounts -------------------------------------------------------------------------------------


@pytest.fixture
def network(atproto_network: AtprotoNetwork) -> Callable[[], Network]:
    atproto_network.add_account("alice.example.com", {KEY: {"who": "alice"}})
    atproto_network.add_account("bob.example.com", {KEY: {"who": "bob"}})
    return atproto_network.network


def test_accounts_are_downloaded_by_each_scan(network: Callable[[], Network]) -> None:
    stream = records(
        ["alice.example.com", "nobody.example.com", "at://bob.example.com/app.bsky.feed.post"],
        network=network,
        on_error="report",
        columns=["record"],
    )
    for _ in range(2):
        found = [text for batch in stream.batches() for text in batch["record"].to_pylist()]
        assert found == ['{"who":"alice"}', '{"who":"bob"}']
        (problem,) = stream.problems
        assert (problem.source, problem.did, problem.error) == (
            "nobody.example.com",
            None,
            "HandleNotFound",
        )


def test_a_network_without_async_serves_all_scans_and_stays_open(
    atproto_network: AtprotoNetwork,
) -> None:
    atproto_network.add_account("alice.example.com", {KEY: {"who": "alice"}})
    client = atproto_network.client()
    world: dict[str, Any] = {
        "resolver": atproto_network.resolver,
        "directory": atproto_network.directory,
    }
    with loop_thread() as loop, Block(loop, client), sync.Network(client, **world) as network:
        stream = records("alice.example.com", network=network, columns=["rkey"])
        for _ in range(2):
            assert [batch.num_rows for batch in stream.batches()] == [1]
        assert network.resolve("alice.example.com").handle == "alice.example.com"
    assert len([request for request in atproto_network.requests if "plc" in request.host]) == 1


@pytest.mark.parametrize("wrong", [Network, "a text"], ids=["async", "text"])
def test_other_networks_are_refused(wrong: Any) -> None:
    network: Any = wrong if isinstance(wrong, str) else wrong()
    with pytest.raises(TypeError, match=r"network must be a repo_stream\.sync\.Network, or a fun"):
        records("alice.example.com", network=network)
