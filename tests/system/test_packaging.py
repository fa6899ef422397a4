"""The wheel and the sdist: what is in them, and whether a stranger can use them."""

from __future__ import annotations

import email
import json
import os
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.packaging import PIP, environment, needs, run
from support.readme import README, blocks

pytestmark = pytest.mark.long

# What the stranger does not have.
NEEDS_MORE = re.compile(
    r"^\s*(import|from) "
    r"(aiohttp|duckdb|fastapi|httpx|msgspec|pandas|polars|pyarrow|pydantic|pytest|ray)\b",
    re.MULTILINE,
)
TYPED_PROGRAM = ROOT / "tests" / "typing_api.py"


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, what it depends on, and nothing else."""
    where = tmp_path_factory.mktemp("stranger")
    python = environment(where / "env")
    probe = ("download", "--no-deps", "--retries=0", "--timeout=15", "--dest", where, "anyio")
    if run(*PIP, *probe, cwd=where).returncode != 0:
        pytest.skip("needs a package index, which cannot be reached")
    done = run(*PIP, "--python", python, "install", wheel, cwd=where)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


# --- What is in them ----------------------------------------------------------------------------


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "repo_stream").rglob("*")
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".typed"}
    }
    assert {"repo_stream/py.typed", "repo_stream/ipld/_digest.pyi"} <= sources
    plain = "repo_stream/_not_compiled.txt"
    assert {name for name in names if ".dist-info/" not in name} == {*sources, plain}


def test_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        licenses = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    assert metadata["Name"] == "atproto-repo-stream"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT OR Apache-2.0"
    assert licenses == {"LICENSE-MIT", "LICENSE-APACHE"}
    assert set(metadata.get_all("License-File", [])) == licenses
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0] for line in required}
    assert names == {"anyio", "cbor2", "multiformats", "aiosqlite"}
    assert "## Try it" in str(metadata.get_payload())


def test_metadata_is_what_an_index_accepts(wheel: Path, sdist: Path) -> None:
    """What `twine check` and an index look at; the README has to be Markdown that they can show."""
    needs("packaging", "trove_classifiers")
    from packaging.metadata import Metadata  # noqa: PLC0415 - it may not be installed
    from trove_classifiers import classifiers  # noqa: PLC0415 - as above

    with zipfile.ZipFile(wheel) as zipped, tarfile.open(sdist) as archive:
        (name,) = (name for name in zipped.namelist() if name.endswith(".dist-info/METADATA"))
        (member,) = (it for it in archive.getmembers() if it.name.endswith("/PKG-INFO"))
        file = archive.extractfile(member)
        assert file is not None
        for data in zipped.read(name), file.read():
            metadata = Metadata.from_email(data, validate=True)
            assert metadata.description == README
            assert metadata.description_content_type == "text/markdown"
            assert set(metadata.classifiers or ()) <= classifiers
            assert metadata.project_urls


def test_wheels_are_built_for_each_python_in_the_classifiers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    versions = re.findall(r":: (3)\.(\d+)", "\n".join(project["project"]["classifiers"]))
    assert versions
    built = project["tool"]["cibuildwheel"]["build"]
    assert built == [f"cp{major}{minor}-*" for major, minor in versions]


def test_wheels_are_tested_with_the_extras_that_examples_and_tests_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert {"fast", "network", "zstd"} <= {*project["tool"]["cibuildwheel"]["test-extras"]}


def test_sdist_is_enough_to_work_with(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        files = {
            member.name.partition("/")[2]: member.size
            for member in archive.getmembers()
            if member.isfile()
        }
    needed = {
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "pyproject.toml",
        "src/compile/hook.py",
        "src/repo_stream/ipld/_digest.pxd",
        "src/repo_stream/ipld/_digest.pyx",
        "src/repo_stream/py.typed",
        "tests/cars/sample.car",
        "tests/conftest.py",
        "tests/typing_api.py",
    }
    assert needed <= files.keys()
    left_behind = re.compile(r"(^|/)(\.venv|__pycache__|target|\.[a-z_]+_cache)/")
    assert [name for name in files if left_behind.search(name)] == []
    assert sum(files.values()) < 5 * 2**20


# --- Whether it works for somebody else ---------------------------------------------------------


def test_installed_package_reads_a_repo(stranger: Path, tmp_path: Path) -> None:
    sample = ROOT / "tests" / "cars" / "sample.car"
    for limit in ("16", "0"):
        command = (stranger, "-I", "-m", "repo_stream", "inspect", sample, "--mem-limit-mb", limit)
        done = run(*command, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert ["Total", "500"] in [line.split()[:2] for line in done.stdout.splitlines()]


def test_installed_package_says_why_it_is_not_compiled(stranger: Path, tmp_path: Path) -> None:
    done = run(stranger, "-I", "-m", "repo_stream", "--version", cwd=tmp_path)
    why = "(plain Python: REPO_STREAM_COMPILE was 0 when the wheel was built)"
    assert done.stdout.rstrip().endswith(why)


def test_installed_package_is_the_one_from_the_wheel(stranger: Path, tmp_path: Path) -> None:
    script = "import repo_stream; print(repo_stream.__file__)"
    done = run(stranger, "-I", "-c", script, cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(stranger.parents[1])


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Programs for a type checker: the typed one, those of the README, and one with a mistake."""
    typed = TYPED_PROGRAM.read_text(encoding="utf-8")
    (tmp_path / "typed.py").write_text(typed, encoding="utf-8")
    for number, program in enumerate(blocks(README, "python")):
        if not NEEDS_MORE.search(program):
            (tmp_path / f"readme_{number}.py").write_text(program, encoding="utf-8")
    wrong = typed.replace("assert_type(size, int)", "assert_type(size, str)", 1)
    assert wrong != typed
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    return tmp_path


def test_mypy_sees_the_types_of_the_installed_package(stranger: Path, programs: Path) -> None:
    needs("mypy")
    options = ("--strict", "--no-error-summary", "--cache-dir", os.devnull)
    command = (sys.executable, "-m", "mypy", *options, "--python-executable", stranger)
    done = run(*command, *sorted(programs.glob("*.py")), cwd=programs)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert "wrong.py" in line
    assert "assert-type" in line


def test_pyright_sees_the_types_of_the_installed_package(stranger: Path, programs: Path) -> None:
    needs("pyright")
    command = (sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", stranger)
    settings = {"typeCheckingMode": "strict", "include": ["typed.py", "wrong.py"]}
    (programs / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    done = run(*command, "--project", programs, cwd=programs)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 2
    (error,) = (item for item in report["generalDiagnostics"] if item["severity"] == "error")
    assert Path(error["file"]).name == "wrong.py"
    assert error["rule"] == "reportAssertTypeFailure"
