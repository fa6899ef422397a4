"""The names beside the lines of a picture (`benches/drawing.py`): none is written over another."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given, strategies as st

from support import ROOT

GAP = 0.1


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """`benches/drawing.py`, which is no module of a package, imported as one."""
    spec = importlib.util.spec_from_file_location("drawing", ROOT / "benches" / "drawing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["drawing"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    del sys.modules["drawing"]
    return module


@given(heights=st.lists(st.floats(0, 1), max_size=12).map(sorted))
def test_names_are_a_gap_apart_and_in_order(drawing: ModuleType, heights: list[float]) -> None:
    moved = drawing.spread(heights, GAP)
    assert len(moved) == len(heights)
    assert [pair for pair in pairwise(moved) if pair[1] - pair[0] < GAP - 1e-9] == []
    assert sum(moved) == pytest.approx(sum(heights))


def test_names_that_have_room_are_where_their_lines_end(drawing: ModuleType) -> None:
    assert drawing.spread([0.1, 0.3, 0.9], GAP) == [0.1, 0.3, 0.9]


def test_names_that_have_no_room_move_equally(drawing: ModuleType) -> None:
    assert drawing.spread([0.2, 0.5, 0.52], GAP) == pytest.approx([0.2, 0.46, 0.56])
