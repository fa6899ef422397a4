"""The README: its Python runs, its commands are one each, its tables leave nothing out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import repo_stream
from repo_stream import DiskBuilder, DriverBuilder, Limits, RepoStreamError, Source
from repo_stream.car_server import CarServer
from repo_stream.cli import main
from repo_stream.testing import build_car
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


@pytest.fixture(params=["in memory", "through the disk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which branch the README's programs take, whatever limit they set."""
    way: str = request.param
    if way == "through the disk":
        load_car = cast("Any", DriverBuilder).load_car

        async def spill(self: DriverBuilder[Any], source: Source) -> object:
            outcome: object = await load_car(self.with_mem_limit_mb(0), source)
            return outcome

        monkeypatch.setattr(DriverBuilder, "load_car", spill)
    return way


def test_every_python_block_is_found() -> None:
    assert len(PYTHON) == README.count("```python")
    assert len(PYTHON) >= 5


@pytest.mark.usefixtures("here", "way")
@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(block: str, network: str) -> None:
    execute(block.replace("https://plc.directory", network))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "example", blocks(section("From an account to its records"), "python"), ids=["httpx", "aiohttp"]
)
def test_an_account_leads_to_its_records(
    example: str, network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(example.replace("https://plc.directory", network))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(RECORDS)


async def test_the_test_in_the_readme_passes() -> None:
    (block,) = blocks(section("In your tests"), "python")
    await execute(block)["test_lengths"](build_car)


@pytest.mark.usefixtures("here", "way")
@pytest.mark.parametrize("example", blocks(section("Use it"), "python"))
def test_example_gives_every_record_in_order(
    example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(example)
    commit, *records = capsys.readouterr().out.splitlines()
    assert commit.startswith("did:plc:")
    assert [line.split()[0] for line in records] == sorted(RECORDS)


@pytest.mark.usefixtures("way")
async def test_custom_processor_gives_what_it_says(here: Path) -> None:
    (block,) = blocks(section("Your own processors"), "python")
    outputs = await walk(str(here / "repo.car"), execute(block)["builder"])
    assert [output.data.kind for output in outputs] == ["app.bsky.feed.post"] * len(RECORDS)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("library", ["msgspec", "pydantic"])
async def test_recipe_gives_what_it_says(here: Path, library: str) -> None:
    (block,) = (it for it in blocks(section("Ready processors"), "python") if library in it)
    names = execute(block)
    outputs = await walk(str(here / "repo.car"), names["builder"])
    assert [output.data for output in outputs] == [
        names["Post"](text=value["text"]) for value in RECORDS.values()
    ]


@pytest.mark.parametrize("title", ["Try it", "Test it"])
def test_section_holds_one_command(title: str) -> None:
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
    public = (getattr(repo_stream, name) for name in repo_stream.__all__)
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


def test_tables_name_nothing_that_is_not_there() -> None:
    first_column = re.findall(r"^\| (`\w+`.*?) \|", table("Errors"), re.MULTILINE)
    second_column = re.findall(r"^\|[^|]*\|([^|]*)\|", table("What is checked"), re.MULTILINE)
    assert first_column
    assert second_column
    assert named(" ".join(first_column + second_column)) <= errors(lambda _: True)


@pytest.mark.parametrize(
    ("name", "default"),
    [(field.name, field.default) for field in dataclasses.fields(Limits)]
    + [("max_stored_mb", DiskBuilder().max_stored_mb)],
)
def test_limit_is_listed_with_its_default(name: str, default: int | None) -> None:
    assert f"{name}={default}" in table("What is checked")


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_a_person_reads_it_in_ten_minutes() -> None:
    prose = re.sub(r"^```.*?^```$|^\|.*?$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 2_400
