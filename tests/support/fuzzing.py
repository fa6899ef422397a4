"""`benches/fuzz.py`, which is no module of a package, imported as one."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from support import ROOT

FUZZ = ROOT / "benches" / "fuzz.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("repo_stream_fuzz", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load()

# Inputs of a few bytes: none, the first that chooses limits, the start of a node, a whole one.
SHORT = [b"", b"\0", b"\4", b"\0\0", b"\0\xa2", b"\0\xa2ae\x80al\xf6", b"\xff" * 50]
