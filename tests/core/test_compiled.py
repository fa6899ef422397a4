"""Which modules are compiled: all that can be, or none.

With `REPO_STREAM_COMPILED=1` in the environment it has to be all, for whoever runs the whole suite
against a compiled wheel.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import traceback
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import distribution
from pathlib import Path

import pytest

import repo_stream
from repo_stream import CarDecoder, Cid, Limits, MalformedNode
from repo_stream.mst.node import decode_node
from repo_stream.testing import build_car

COMPILED = ("car", "digest", "entries", "memory", "mst", "nodes", "sections", "tables", "walk")
SUFFIXES = tuple(EXTENSION_SUFFIXES)


def file_of(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__))


def is_compiled(module: str) -> bool:
    return file_of(module).name.endswith(SUFFIXES)


EXPECTED = (
    [f"repo_stream.{name}" for name in COMPILED]
    if os.environ.get("REPO_STREAM_COMPILED") == "1" or is_compiled("repo_stream.car.decoder")
    else []
)


def test_all_hot_modules_are_compiled_or_none() -> None:
    modules = [
        module.name
        for module in pkgutil.iter_modules(repo_stream.__path__, "repo_stream.")
        if module.name != "repo_stream.__main__"
    ]
    assert [name for name in modules if is_compiled(name)] == EXPECTED


def test_sources_lie_beside_compiled_modules() -> None:
    for module in EXPECTED or ["repo_stream.car.decoder"]:
        assert file_of(module).with_name(module.rpartition(".")[2] + ".py").is_file()


def test_a_wheel_with_compiled_modules_is_for_one_platform() -> None:
    wheel = distribution("atproto-repo-stream").read_text("WHEEL")
    assert wheel is not None
    assert ("Tag: py3-none-any" in wheel, "Root-Is-Purelib: true" in wheel) == (
        (False, False) if EXPECTED else (True, True)
    )


def test_tracebacks_name_the_lines_of_the_sources() -> None:
    with pytest.raises(MalformedNode) as raised:
        decode_node(b"", Cid(b"\x01\x71\x12\x20" + bytes(32)), Limits())
    lines = file_of("repo_stream.mst.node").with_name("node.py").read_text("utf-8").splitlines()
    _here, *frames = traceback.extract_tb(raised.value.__traceback__)
    assert {Path(frame.filename).parts[-2:] for frame in frames} == {("mst", "node.py")}
    assert "decode_node_plainly(block, cid, limits)" in lines[(frames[0].lineno or 0) - 1]
    assert "raise self._malformed(" in lines[(frames[-1].lineno or 0) - 1]


def test_bytes_of_a_subclass_are_bytes() -> None:
    car = build_car({"app.bsky.feed.post/3jzfcijpj2z2a": {"text": "hi"}})
    blocks = CarDecoder().feed(Cid(car))
    assert blocks == CarDecoder().feed(car)
    assert {type(part) for block in blocks for part in block} == {bytes}
