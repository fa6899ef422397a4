"""The README: its Python runs, its commands are one each, its tables leave nothing out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import repo_stream
from repo_stream import DiskBuilder, Limits, RepoStreamError
from repo_stream._face import public_names
from repo_stream.cli import main
from repo_stream.store.budget import Budget
from repo_stream.testing import build_car
from repo_stream.testing.car_server import CarServer
from support import ROOT, walk
from support.readme import PYTHON, README, blocks, section

RECORDS = {
    f"app.bsky.feed.post/3jzfcijpj2z2{end}": {"$type": "app.bsky.feed.post", "text": end * 10}
    for end in "abcdefg"
}


def execute(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec", dont_inherit=True), names)  # noqa: S102 - the point
    return names


def table(title: str) -> str:
    return "\n".join(line for line in section(title).splitlines() if line.startswith("|"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run in, with the repo that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repo.car").write_bytes(build_car(RECORDS))
    return tmp_path


@pytest.fixture
def network() -> Iterator[str]:
    """The URL of a server that stands in for the network: PLC directory and PDS in one."""
    with CarServer() as server:
        server.serve(build_car(RECORDS), did="did:plc:ewvi7nxzyoun6zhxrhs64oiz", chunked=True)
        yield server.url


WAYS = ["in memory", "through the disk"]


@contextmanager
def going(way: str) -> Generator[None]:
    """Have the README's programs take one of both branches, whatever limit they set."""
    nothing = Budget.of(0)

    def of(_limit: float) -> Budget:
        return nothing

    with pytest.MonkeyPatch.context() as patched:
        if way == "through the disk":
            patched.setattr(Budget, "of", of)
        yield


def test_every_python_block_is_found() -> None:
    assert len(PYTHON) == README.count("```python")
    assert len(PYTHON) >= 5


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(block: str, network: str) -> None:
    for way in WAYS:
        with going(way):
            execute(block.replace("https://plc.directory", network))


@pytest.mark.parametrize(
    "example", blocks(section("From an account to its records"), "python"), ids=["httpx", "aiohttp"]
)
def test_account_leads_to_its_records(
    example: str, network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in WAYS:
        with going(way):
            execute(example.replace("https://plc.directory", network))
        printed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in printed] == sorted(RECORDS), way


async def test_example_of_a_test_passes() -> None:
    (block,) = blocks(section("In your tests"), "python")
    await execute(block)["test_lengths"](build_car)


@pytest.mark.usefixtures("here")
def test_example_gives_every_record_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    examples = blocks(section("Use it"), "python")
    assert len(examples) == 2
    for example, way in product(examples, WAYS):
        with going(way):
            execute(example)
        commit, *records = capsys.readouterr().out.splitlines()
        assert commit.startswith("did:plc:")
        assert [line.split()[0] for line in records] == sorted(RECORDS), way


async def test_custom_processor_gives_what_it_says(here: Path) -> None:
    (block,) = blocks(section("Your own processors"), "python")
    for way in WAYS:
        with going(way):
            outputs = await walk(str(here / "repo.car"), execute(block)["builder"])
        assert [output.value.kind for output in outputs] == ["app.bsky.feed.post"] * len(RECORDS)


@pytest.mark.parametrize("library", ["msgspec", "pydantic"])
async def test_recipe_gives_what_it_says(here: Path, library: str) -> None:
    (block,) = (it for it in blocks(section("Ready processors"), "python") if library in it)
    names = execute(block)
    for way in WAYS:
        with going(way):
            outputs = await walk(str(here / "repo.car"), names["builder"])
        assert [output.value for output in outputs] == [
            names["Post"](text=value["text"]) for value in RECORDS.values()
        ]


@pytest.mark.parametrize("title", ["Try it", "Test it"])
def test_section_has_one_command(title: str) -> None:
    (block,) = blocks(section(title), "sh")
    assert len(block.splitlines()) == 1
    assert block.startswith("python3.11 -m venv ")
    assert ";" not in block, "a command that fails must not be passed over"


def test_try_it_shows_what_it_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (command,), (shown,) = blocks(section("Try it"), "sh"), blocks(section("Try it"), "text")
    arguments = command.split(" -m repo_stream ")[1].split()
    assert main(arguments) == 0
    assert capsys.readouterr().out == shown


def errors(accept: Callable[[type[RepoStreamError]], bool]) -> set[str]:
    public = (getattr(repo_stream, name) for name in public_names("repo_stream"))
    return {
        kind.__name__
        for kind in public
        if isinstance(kind, type) and issubclass(kind, RepoStreamError) and accept(kind)
    }


def named(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_every_error_is_explained() -> None:
    explained = named(section("Errors")) | named(section("What is checked"))
    assert errors(lambda _: True) <= explained


def test_error_table_names_every_family() -> None:
    families = errors(lambda kind: kind.__base__ is RepoStreamError or bool(kind.__subclasses__()))
    assert families <= named(section("Errors"))


def test_tables_name_no_error_that_is_not_there() -> None:
    first_column = re.findall(r"^\| (`\w+`.*?) \|", table("Errors"), re.MULTILINE)
    second_column = re.findall(r"^\|[^|]*\|([^|]*)\|", table("What is checked"), re.MULTILINE)
    assert first_column
    assert second_column
    assert named(" ".join(first_column + second_column)) <= errors(lambda _: True)


def test_every_limit_is_listed_with_its_default() -> None:
    defaults = [f"{field.name}={field.default}" for field in dataclasses.fields(Limits)]
    defaults.append(f"max_stored_mb={DiskBuilder().max_stored_mb}")
    listed = table("What is checked")
    assert [default for default in defaults if default not in listed] == []


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_prose_takes_ten_minutes_to_read() -> None:
    prose = re.sub(r"^```.*?^```$|^\|.*?$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 2_400
