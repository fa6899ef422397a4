"""The public names are the same at run time and for type checkers."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import repo_stream
from repo_stream import _face
from repo_stream._face import public_names

INIT_FILE = Path(repo_stream.__file__).with_suffix(".pyi")
INIT = INIT_FILE.read_text(encoding="utf-8")


def test_every_public_name_is_there_and_is_what_type_checkers_see() -> None:
    declared = {
        alias.name: node.module
        for node in ast.walk(ast.parse(INIT))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert sorted(declared) == sorted(public_names("repo_stream"))
    for name, module in declared.items():
        found = getattr(repo_stream, name)
        if module == "repo_stream":
            assert found is sys.modules[f"repo_stream.{name}"]
        else:
            __import__(module)
            assert found is getattr(sys.modules[module], name)
    assert set(public_names("repo_stream")) <= set(dir(repo_stream))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(repo_stream, "DriverBilder")


def test_the_faces_of_the_core_are_found_though_they_are_not_imported_with_it() -> None:
    faces = [name for name in ("arrow", "ray", "sync") if (INIT_FILE.parent / name).is_dir()]
    assert faces
    for name in faces:
        assert _face.named("repo_stream", name) is sys.modules[f"repo_stream.{name}"]
