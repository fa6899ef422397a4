"""`--completion`: scripts that the shells accept, and that complete commands, options and files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.cli import Run

READING = {"inspect", "ls", "get", "export", "sql", "blobs", "fetch", "order", "join", "verify"}
COMMANDS = READING | {"resolve"}
FORMS = ["arrow", "csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


SHELLS = [
    pytest.param("bash", ["-n"], marks=needs("bash"), id="bash"),
    pytest.param("zsh", ["-n"], marks=needs("zsh"), id="zsh"),
    pytest.param("fish", ["--no-execute"], marks=needs("fish"), id="fish"),
]


def said(*command: str | Path, cwd: Path) -> list[str]:
    """The lines that a shell writes; it writes no errors."""
    ended = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two files and a folder, one with a name that needs care."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / "repo.car").touch()
    (folder / "re *'po.car").touch()
    return folder


def script(run: Run, folder: Path, shell: str) -> Path:
    """The script of a shell, in a file."""
    code, out, err = run("--completion", shell)
    assert (code, err) == (0, "")
    path = folder.parent / f"completion.{shell}"
    path.write_text(out)
    return path


@pytest.mark.parametrize(("shell", "check"), SHELLS)
def test_script_is_valid(run: Run, files: Path, shell: str, check: list[str]) -> None:
    path = script(run, files, shell)
    assert said(shell, *check, path, cwd=files) == []


def test_every_option_of_every_command_is_in_each_script(run: Run) -> None:
    scripts = [run("--completion", shell)[1] for shell in ("bash", "zsh", "fish")]
    for command in sorted(COMMANDS):
        usage = run(command, "--help")[1]
        flags = set(re.findall(r"^  (?:-\w.*, )?(--[a-z-]+)", usage, re.MULTILINE))
        assert flags >= {"--plc", "--allow-private"}
        assert command not in READING or flags >= {"--mem-limit-mb", "--disk", "--quiet"}
        for flag in flags:
            assert flag in scripts[0]
            assert flag in scripts[1]
            assert f"-l {flag[2:]}" in scripts[2]


def test_unknown_shell_is_wrong_usage(run: Run) -> None:
    code, out, err = run("--completion", "tcsh")
    assert (code, out) == (2, "")
    assert "invalid choice: 'tcsh'" in err


# --- bash -----------------------------------------------------------------------------------------

#: Has the function complete the last of its arguments, split into words as bash splits them.
ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_repo_stream
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash(run: Run, files: Path, *words: str) -> list[str]:
    path = script(run, files, "bash")
    found = said("bash", "-c", ASK_BASH, "bash", path, "repo-stream", *words, cwd=files)
    return sorted(word for word in found if word)


@needs("bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([""], sorted(COMMANDS), id="commands"),
        pytest.param(["in"], ["inspect"], id="command"),
        pytest.param(["--co"], ["--completion"], id="option without a command"),
        pytest.param(["--completion", ""], ["bash", "fish", "zsh"], id="shells"),
        pytest.param(["export", "--f"], ["--format"], id="option"),
        pytest.param(["export", "repo.car", "--to"], ["--to-folder"], id="option after a file"),
        pytest.param(["order", "--f"], [], id="option of another command"),
        pytest.param(["export", "--format", ""], FORMS, id="choices"),
        pytest.param(["export", "--format", "csv"], FORMS[1:3], id="some choices"),
        pytest.param(["export", "--format", "="], FORMS, id="choices after ="),
        pytest.param(["export", "--format", "=", "p"], ["parquet"], id="choice after ="),
        pytest.param(["ls", "repo"], ["repo.car"], id="file"),
        pytest.param(["ls", "r"], ["re *'po.car", "repo.car"], id="files"),
        pytest.param(["ls", ""], ["deep", "re *'po.car", "repo.car"], id="all files"),
        pytest.param(["ls", "-q", "repo.car", "re"], ["re *'po.car", "repo.car"], id="next file"),
        pytest.param(["export", "-o", "repo"], ["repo.car"], id="file of an option"),
        pytest.param(["export", "--to-folder", ""], ["deep"], id="folder of an option"),
        pytest.param(["ls", "--collection", ""], [], id="nothing that is known"),
        pytest.param(["ls", "inspect"], [], id="command as a file"),
    ],
)
def test_bash_completes(run: Run, files: Path, words: list[str], expected: list[str]) -> None:
    assert bash(run, files, *words) == expected


@needs("bash")
def test_bash_knows_whose_completion_it_is(run: Run, files: Path) -> None:
    path = script(run, files, "bash")
    registered = said("bash", "-c", f"source '{path}'; complete -p repo-stream", cwd=files)
    assert registered == ["complete -F _repo_stream repo-stream"]


# --- zsh and fish ---------------------------------------------------------------------------------


@needs("zsh")
def test_zsh_takes_the_script_as_a_file_and_by_eval(run: Run, files: Path) -> None:
    path = script(run, files, "zsh")
    begin = "autoload -U compinit; compinit -u -D; "
    for load in (f"source '{path}'", f"eval \"$(cat '{path}')\""):
        asked = f"{begin}{load}; print -- $_comps[repo-stream]; whence -w _repo_stream"
        assert said("zsh", "-f", "-c", asked, cwd=files) == [
            "_repo_stream",
            "_repo_stream: function",
        ]
    functions = files.parent / "functions"
    functions.mkdir()
    path.rename(functions / "_repo_stream")
    asked = f"fpath=('{functions}' $fpath); {begin}print -- $_comps[repo-stream]"
    assert said("zsh", "-f", "-c", asked, cwd=files) == ["_repo_stream"]


@needs("fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("", COMMANDS, id="commands"),
        pytest.param("in", {"inspect"}, id="command"),
        pytest.param("export --form", {"--format"}, id="option"),
        pytest.param("export --format ", set(FORMS), id="choices"),
        pytest.param("ls repo", {"repo.car"}, id="file"),
        pytest.param("export --to-folder ", {"deep/"}, id="folder"),
        pytest.param("export -o repo", {"repo.car"}, id="file of an option"),
        pytest.param("ls --collection ", set[str](), id="nothing that is known"),
    ],
)
def test_fish_completes(run: Run, files: Path, line: str, expected: set[str]) -> None:
    path = script(run, files, "fish")
    ask = f"source '{path}'; complete -C 'repo-stream {line}'"
    found = said("fish", "--no-config", "-c", ask, cwd=files)
    assert {each.split("\t")[0] for each in found} == expected
