"""What is not installed is named with its extra, whichever part of the package needs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from support import ROOT, SAMPLE

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]

# What a process does not have: packages of these names, and modules.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(tuple(f"{each}." for each in missing)) or name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = sys.argv[1].split()
sys.meta_path.insert(0, Missing())
"""

# Runs the rest of its arguments as the command does.
COMMAND = "from repo_stream.__main__ import main\nsys.argv[1:] = sys.argv[2:]\nsys.exit(main())"
# What a program ends with.
TOLD = """
except repo_stream.MissingExtra as error:
    print(f"[{error.extra}]", error)
"""


class Use(NamedTuple):
    """What needs an extra.

    Attributes:
        missing: what is not installed.
        program: what is done then; with arguments, they are those of the command.
        arguments: as above.
        package: what is to be installed.
    """

    missing: str
    package: str
    program: str
    arguments: tuple[str | Path, ...] = ()


def command(missing: str, package: str, *arguments: str | Path) -> Use:
    return Use(missing, package, COMMAND, arguments)


def program(missing: str, package: str, statement: str) -> Use:
    lines = f"import repo_stream\ntry:\n    {statement}{TOLD}"
    return Use(missing, package, lines.replace("SAMPLE", repr(str(SAMPLE))))


RECORDS = "repo_stream.arrow.records(SAMPLE).schema"
TABLE = "repo_stream.arrow.table(SAMPLE, collection='a.b.c').schema"
ZSTD = "repo_stream.sync.load_commit('compressed.car')"
VERIFY = "repo_stream.sync.load_commit(SAMPLE).verify_signature('did:key:z')"

USES: list[tuple[str, Use]] = [
    ("arrow", program("pyarrow", "pyarrow", RECORDS)),
    ("arrow", program("pyarrow", "pyarrow", TABLE)),
    ("crypto", program("cryptography", "cryptography", VERIFY)),
    (
        "network",
        program("httpx httpcore", "httpx", "repo_stream.sync.get_record('at://a.b/c.d.e/f')"),
    ),
    ("parquet", command("pyarrow", "pyarrow", "export", SAMPLE, "-o", "out.parquet")),
    ("arrow", command("pyarrow", "pyarrow", "export", SAMPLE, "--format", "arrow")),
    ("plot", command("matplotlib", "matplotlib", "inspect", SAMPLE, "--plot", "out.png")),
    ("ray", program("ray", "ray[data]", "repo_stream.ray.read_repos(SAMPLE)")),
    ("ray", program("ray", "ray[data]", "repo_stream.ray.Problems()")),
    ("sql", command("duckdb", "duckdb", "sql", "select 1", SAMPLE)),
    ("zstd", program("backports.zstd compression.zstd", "backports.zstd", ZSTD)),
]
# Without them, other code does the same.
NEVER_MISSED = {"cli", "fast"}


def test_every_extra_is_in_the_matrix() -> None:
    assert {extra for extra, _ in USES} == EXTRAS.keys() - NEVER_MISSED


@pytest.mark.parametrize(
    ("extra", "use"), USES, ids=[f"{extra}-{number}" for number, (extra, _) in enumerate(USES)]
)
def test_what_is_missing_is_named_with_its_extra(extra: str, use: Use, tmp_path: Path) -> None:
    (tmp_path / "compressed.car").write_bytes(b"\x28\xb5\x2f\xfd")
    asked = [sys.executable, "-W", "error", "-c", WITHOUT + use.program, use.missing]
    done = subprocess.run(
        [*asked, *map(str, use.arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = done.stderr if use.arguments else done.stdout
    assert f"the package '{use.package}' of the extra atproto-repo-stream[{extra}]" in told, done
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if use.arguments else 0)
    if not use.arguments:
        assert told.startswith(f"[{extra}]")
    assert [*tmp_path.glob("out.*")] == []


def test_all_is_imported_without_any_extra() -> None:
    missing = "cryptography dns duckdb fsspec httpx libipld matplotlib pandas pyarrow ray rich"
    modules = "repo_stream.arrow, repo_stream.ray, repo_stream.sync, repo_stream.cli"
    asked = [sys.executable, "-W", "error", "-c", f"{WITHOUT}import {modules}", missing]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
