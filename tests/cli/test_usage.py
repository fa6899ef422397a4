"""How the command is called: wrong usage, `--help`, `--version`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

import repo_stream
from repo_stream._compiled import how_it_runs
from repo_stream.cli import slowness
from support import ROOT
from support.cli import Run


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["a.car"], id="no command, a file"),
        pytest.param(["inspect"], id="no file"),
        pytest.param(["get", "a.car"], id="no key"),
        pytest.param(["order", "a.car", "b.car", "c.car"], id="three files"),
        pytest.param(["inspect", "a.car", "--wrong"], id="unknown option"),
        pytest.param(["inspect", "a.car", "--disk"], id="option without its value"),
        pytest.param(["export", "a.car", "--format", "xml"], id="unknown format"),
        pytest.param(["ls", "a.car", "--range", "b", "a"], id="range that ends before it starts"),
        pytest.param(["ls", "a.car", "--collection", "a/b"], id="key as a collection"),
        pytest.param(["get", "a.car", "a/\udcff"], id="key that is no text"),
        pytest.param(["ls", "a.car", "--collection", "\udcff"], id="collection that is no text"),
        pytest.param(["inspect", "a.car", "--plc", "plc.directory"], id="directory without https"),
        pytest.param(
            ["inspect", "a.test", "--handle-server", "localhost", "--allow-private"],
            id="server of handles without http",
        ),
        pytest.param(
            ["inspect", "a.test", "--handle-server", "http://localhost"],
            id="server of handles without --allow-private",
        ),
        pytest.param(["inspect", "a.car", "--patience", "nan"], id="patience that is no number"),
        pytest.param(["resolve"], id="no account"),
        pytest.param(["resolve", "a.b", "--earlier-keys"], id="resolve, which checks no repo"),
        *(
            pytest.param(["inspect", "a.car", "--mem-limit-mb", limit], id=f"memory limit {limit}")
            for limit in ("x", "-1", "nan", "inf", "1e308")
        ),
        *(
            pytest.param(["inspect", "a.car", "--limit", limit], id=f"limit {limit[:9]}")
            for limit in ("blocks", "blocks=", "blocks=-1", "block=1", "=1", f"blocks={'9' * 5000}")
        ),
    ],
)
def test_wrong_usage_shows_the_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: repo-stream")
    assert " _" not in err  # a name of the program's own


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(
            ["get", "a.car", "3jzfcijpj2z2a"],
            "it has no collection, as in collection/3jzfcijpj2z2a; a key is collection/rkey, such "
            "as app.bsky.feed.post/3jzfcijpj2z2a, or an at:// URI",
            id="bare rkey",
        ),
        pytest.param(["get", "a.car", "a.b.c/d/e"], "it has more than one slash", id="two slashes"),
        pytest.param(["get", "a.car", "app.bsky.feed.post"], "it has no rkey", id="collection"),
        pytest.param(["get", "a.car", "at://did:plc:a/b/c"], "'b' is not an NSID", id="bad URI"),
        pytest.param(
            ["ls", "a.car", "--collection", "app.bsky"],
            "name one by its NSID, such as app.bsky.feed.post, or several as in app.bsky.feed.*",
            id="beginning of an NSID",
        ),
        pytest.param(
            ["export", "a.car", "--collection", "app.bsky.feed*"],
            "a * is allowed only after a period",
            id="bad wildcard",
        ),
        pytest.param(
            ["ls", "a.car", "--range", "at://did:plc:a/a.b.c/d", ""],
            "is a URI",
            id="URI as a bound",
        ),
        pytest.param(
            ["ls", "a.car", "--range", "b", "a"], "stop must not come before start", id="range"
        ),
        *(
            pytest.param(
                ["ls", "a.car", "--range", *bounds],
                "argument --range: not UTF-8: 'a/\\udcff'",
                id=f"{which} of a range that is no text",
            )
            for which, bounds in {"start": ("a/\udcff", ""), "stop": ("", "a/\udcff")}.items()
        ),
    ],
)
def test_wrong_keys_and_filters_are_explained_before_a_file_is_read(
    run: Run, arguments: list[str], reason: str
) -> None:
    code, out, err = run(*arguments)  # there is no such file
    assert (code, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["ls", ""], id="CAR"),
        pytest.param(["ls", "CAR", "--json", ""], id="CAR after an option"),
        pytest.param(["join", "CAR", ""], id="slice"),
        pytest.param(["export", "CAR", "-o", ""], id="output"),
        pytest.param(["export", "CAR", "--to-folder", ""], id="folder"),
        pytest.param(["ls", "CAR", "--partial", "--report", ""], id="report"),
        pytest.param(["ls", "CAR", "--disk", ""], id="disk"),
    ],
)
def test_an_empty_path_is_wrong_usage_and_not_the_working_folder(
    run: Run, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell passes one for a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "it is empty" in err or "name one" in err
    assert [*tmp_path.iterdir()] == []


def test_help_says_what_a_key_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, shown, _ = run("get", "--help")
    assert "collection/rkey" in shown
    assert "at://" in shown
    _, shown, _ = run("ls", "--help")
    assert "app.bsky.feed.post" in shown
    assert "app.bsky.feed.*" in shown
    for command in ("ls", "get", "export"):
        _, shown, _ = run(command, "--help")
        assert max(map(len, shown.splitlines())) <= 80


def test_help_fits_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("inspect", "--help")
    assert (code, err) == (0, "")
    assert {"CAR", "--mem-limit-mb", "--disk"} <= set(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_version_is_that_of_the_package_and_says_how_it_runs(run: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert run("--version") == (0, f"repo-stream {project['version']} ({how_it_runs()})\n", "")
    assert repo_stream.__version__ == project["version"]


# --- An install that could not be compiled ------------------------------------------------------


REASON = ("it could not be compiled when it was installed: no C compiler was found (cc)", "get one")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that took long, with a package that could not be compiled."""
    monkeypatch.setattr(slowness, "why_not_compiled", lambda: REASON)
    monkeypatch.setattr(slowness, "process_time", lambda: 10.0)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have standard error be one from now on. In a fixture it is not the test's own yet."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.usefixtures("slow")
def test_a_slow_command_says_why_and_what_to_do(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    code, out, err = run("ls", car)
    assert (code, err) == (0, f"repo-stream: slower than it could be, as {REASON[0]}; get one\n")
    assert out


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("why_not_compiled", ("an editable install", ""), id="nothing to do"),
        pytest.param("why_not_compiled", ("", ""), id="compiled"),
        pytest.param("process_time", 1.0, id="quick"),
    ],
)
def test_nobody_else_is_told(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    on_a_terminal(monkeypatch)
    monkeypatch.setattr(slowness, name, lambda: value)
    assert run("ls", car)[2] == ""


@pytest.mark.usefixtures("slow")
def test_a_quiet_command_does_not_say_why_it_is_slow(
    run: Run, car: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    assert run("ls", "--quiet", car)[2] == ""


@pytest.mark.usefixtures("slow")
def test_a_slow_command_says_nothing_without_a_terminal(run: Run, car: Path) -> None:
    assert run("ls", car)[2] == ""
