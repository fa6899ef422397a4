"""The README: its programs run, its commands exist, and it is short.

Its recipes are in test_recipes.py.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest

import repo_stream
from repo_stream import Network
from repo_stream.cli import main
from repo_stream.network import opening
from repo_stream.store.budget import Budget
from repo_stream.testing import (
    AtprotoAccount,
    AtprotoNetwork,
    RawRecord,
    build_car,
    made_records,
)
from support import ROOT, SAMPLE, walk
from support.readme import PROGRAMS, PYTHON, README, blocks, section

# The records of the sample repo, as tests/cars/README.md says that they were made.
BLOCKS = dict(made_records(500))
RECORDS: dict[str, dict[str, Any]] = {key: cbor2.loads(block) for key, block in BLOCKS.items()}


def execute(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec", dont_inherit=True), names)  # noqa: S102 - the point
    return names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with the sample repo where the README has it and copies it."""
    monkeypatch.chdir(tmp_path)
    sample = SAMPLE.read_bytes()
    for name in "tests/cars/sample.car", "repo.car":
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample)
    return tmp_path


@pytest.fixture
def alice(atproto_network: AtprotoNetwork, monkeypatch: pytest.MonkeyPatch) -> AtprotoAccount:
    """The account of the README, which has the records of the sample repo."""
    net = atproto_network

    class Connected(Network):
        def __init__(self) -> None:
            self._client = net.client()
            super().__init__(self._client, directory=net.directory, resolver=net.resolver)

        async def aclose(self) -> None:
            await super().aclose()
            await self._client.aclose()

    for module in (opening, repo_stream):
        monkeypatch.setattr(module, "Network", Connected)
    return atproto_network.add_account(
        "alice.example.com", {key: RawRecord(block) for key, block in BLOCKS.items()}
    )


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


# --- Programs -----------------------------------------------------------------------------------


def test_every_python_block_is_found() -> None:
    assert len(PYTHON) == README.count("```python")
    assert len(PYTHON) >= 5


@pytest.mark.usefixtures("here", "alice")
@pytest.mark.parametrize("block", PROGRAMS)
def test_python_block_runs(block: str) -> None:
    for way in WAYS:
        with going(way):
            execute(block)


@pytest.mark.usefixtures("alice")
def test_first_example_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (example,), (shown,) = (blocks(section("Use it"), kind) for kind in ("python", "text"))
    for way in WAYS:
        with going(way):
            execute(example)
        printed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in printed[1:]] == sorted(RECORDS), way
        for line, whole in zip(shown.splitlines(), printed, strict=False):
            start, cut, _ = line.partition("...")
            assert whole.startswith(start) if cut else whole == start, way


@pytest.mark.usefixtures("here")
def test_tables_have_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(section("Tables"), "python")
    execute(example)
    printed = capsys.readouterr().out
    rows = re.findall(r"│ (app\.bsky\.\S+) +│ +(\d+) │ (\S+)", printed)
    assert {name: int(count) for name, count, _ in rows} == Counter(
        value["$type"] for value in RECORDS.values()
    )
    assert {latest for _, _, latest in rows} == {"2023-04-01"}
    assert "134 rows" in printed


def test_account_example_shows_the_account_and_a_record(
    alice: AtprotoAccount, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = blocks(section("From an account"), "python")
    execute(block)
    account, record = capsys.readouterr().out.splitlines()
    server, key = alice.server.url, alice.key.did_key
    assert account == f"{alice.did} {alice.handle} {server} {key}"
    assert record.startswith("Output(key='app.bsky.actor.profile/self'")


async def test_example_of_a_test_passes() -> None:
    (block,) = blocks(section("In your tests"), "python")
    await execute(block)["test_lengths"](build_car)


async def test_lazy_processor_makes_what_it_says(here: Path) -> None:
    (block,) = blocks(section("Your own types"), "python")
    names = execute(block)
    for way in WAYS:
        with going(way):
            outputs = await walk(str(here / "repo.car"), names["builder"])
        assert [output.value for output in outputs] == [
            names["Post"](value["text"], value.get("langs", []))
            for value in RECORDS.values()
            if value["$type"] == "app.bsky.feed.post"
        ], way


# --- Commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["Try it", "Test it"])
def test_section_has_one_command(title: str) -> None:
    (block,) = blocks(section(title), "sh")
    assert len(block.splitlines()) == 1
    assert block.startswith("python3.11 -m venv ")
    assert ";" not in block, "a command that fails must not be passed over"


def test_install_names_extras_that_exist() -> None:
    (block,) = blocks(section("Install"), "sh")
    extras = re.fullmatch(r'pip install "\.\[([a-z,]+)\]"\n', block)
    assert extras is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = project["optional-dependencies"].keys()
    assert set(extras[1].split(",")) <= known
    assert [name for name in known if f"`{name}`" not in section("Install")] == []


def test_try_it_shows_what_it_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (command,), (shown,) = blocks(section("Try it"), "sh"), blocks(section("Try it"), "text")
    arguments = command.split(" -m repo_stream ")[1].split()
    assert main(arguments) == 0
    assert capsys.readouterr().out == shown


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_table_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    listed = re.findall(r"^\| `repo-stream (\w+)", section("The command"), re.MULTILINE)
    known = re.findall(r"^    (\w+)", help_of(capsys=capsys), re.MULTILINE)
    assert listed == known


def test_options_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = section("The command")
    commands = set(re.findall(r"`repo-stream (\w+) CAR", text))
    known = "".join(help_of(command, capsys=capsys) for command in commands)
    named = set(re.findall(r"(?<=`)--[a-z-]+", text))
    assert named
    assert [option for option in sorted(named) if option not in known] == []


# --- The text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["README.md", "benches/README.md", "tests/README.md", "tests/cars/README.md"]
)
def test_linked_files_and_headings_exist(path: str) -> None:
    page = ROOT / path
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text("utf-8")):
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert heading in {title.lower().replace(" ", "-") for title in headings}, link


def test_contributors_are_shown_packages_and_files_that_exist() -> None:
    page = (ROOT / "tests" / "README.md").read_text("utf-8")
    text = page.partition("## Where the code is")[2].partition("\n## ")[0]
    package = ROOT / "src" / "repo_stream"
    files = re.findall(r"`((?:\w+/)*\w+\.py[ix]?)`", text)
    assert files
    assert [name for name in files if not (package / name).exists()] == []
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    there = {path.stem for path in package.iterdir() if not path.stem.startswith(("_", "py"))}
    assert sorted(listed) == sorted(there)


def test_readme_is_two_screens_and_a_reference() -> None:
    assert len(README.replace(section("Recipes"), "").split()) <= 2_500


def test_readme_shows_records_before_it_speaks_of_trees() -> None:
    words = ("Merkle", "MST", "node", "proof")
    start, found, _ = README.partition("## Use it")
    assert found
    shown = re.sub(r"^```.*?^```$", "", start, flags=re.MULTILINE | re.DOTALL)
    assert [word for word in words if word in shown] == []


def test_readme_uses_no_heading_twice() -> None:
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert [one for one, other in itertools.pairwise(sorted(headings)) if one == other] == []
