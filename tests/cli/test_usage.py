"""How the command is called: wrong usage, `--help`, `--version`."""

from __future__ import annotations

import tomllib

import pytest

from support import ROOT
from support.cli import Run


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["a.car"], id="no command, a file"),
        pytest.param(["inspect"], id="no file"),
        pytest.param(["get", "a.car"], id="no key"),
        pytest.param(["inspect", "a.car", "b.car"], id="two files"),
        pytest.param(["inspect", "a.car", "--wrong"], id="unknown option"),
        pytest.param(["inspect", "a.car", "--disk"], id="option without its value"),
        pytest.param(["export", "a.car", "--format", "xml"], id="unknown format"),
        pytest.param(["ls", "a.car", "--range", "b", "a"], id="range that ends before it starts"),
        pytest.param(["ls", "a.car", "--collection", "a/b"], id="key as a collection"),
        pytest.param(["get", "a.car", "\udcff"], id="key that is no text"),
        pytest.param(["ls", "a.car", "--collection", "\udcff"], id="collection that is no text"),
        *(
            pytest.param(["inspect", "a.car", "--mem-limit-mb", limit], id=f"memory limit {limit}")
            for limit in ("x", "-1", "nan", "inf", "1e308")
        ),
        *(
            pytest.param(["inspect", "a.car", "--limit", limit], id=f"limit {limit}")
            for limit in ("blocks", "blocks=", "blocks=-1", "block=1", "=1")
        ),
    ],
)
def test_wrong_usage_shows_the_usage(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: repo-stream")


def test_help_fits_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("inspect", "--help")
    assert (code, err) == (0, "")
    assert {"CAR", "--mem-limit-mb", "--disk"} <= set(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_version_is_that_of_the_package(run: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert run("--version") == (0, f"repo-stream {project['version']}\n", "")
