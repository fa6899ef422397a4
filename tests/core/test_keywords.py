"""The keywords of `open_car` and its siblings: declared once, and documented as they are."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repo_stream import DriverBuilder, Limits, join_cars, open_car, open_repo, order_car
from repo_stream.drivers import keywords
from repo_stream.drivers.keywords import (
    DEFAULTS,
    BuilderKeywords,
    OpenKeywords,
    OrderKeywords,
    StreamKeywords,
)
from repo_stream.network import keywords as network_keywords
from repo_stream.network.keywords import REPO_DEFAULTS, RepoKeywords

EVERY: dict[str, object] = {**DEFAULTS, **REPO_DEFAULTS}
MODULES = (keywords, network_keywords)
TAKEN = [
    pytest.param(open_car, OpenKeywords, id="open_car"),
    pytest.param(open_repo, RepoKeywords, id="open_repo"),
    pytest.param(order_car, OrderKeywords, id="order_car"),
    pytest.param(join_cars, OrderKeywords, id="join_cars"),
    pytest.param(DriverBuilder, BuilderKeywords, id="DriverBuilder"),
    pytest.param(DriverBuilder[bytes].stream_car, StreamKeywords, id="stream_car"),
]
Taking = Callable[..., Any]


@pytest.mark.parametrize(("function", "kind"), TAKEN)
def test_signature_has_each_keyword_with_its_default(function: Taking, kind: type) -> None:
    parameters = inspect.signature(function).parameters
    assert kind.__annotations__.keys() <= parameters.keys()
    assert not [each for each in parameters.values() if each.kind is each.VAR_KEYWORD]
    for name, annotation in kind.__annotations__.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == EVERY[name]
        assert parameters[name].annotation == annotation


@pytest.mark.parametrize(("function", "kind"), TAKEN)
def test_docstring_states_each_keyword_with_its_default(function: Taking, kind: type) -> None:
    stated = dict(re.findall(r"^ +- `(\w+)=(.+?)`: ", function.__doc__ or "", re.MULTILINE))
    assert stated == {name: repr(EVERY[name]) for name in kind.__annotations__}


def test_hover_of_each_keyword_states_its_default() -> None:
    """The text below a key of a `TypedDict` is what an editor shows."""
    found: dict[str, str] = {}
    statements = [
        each
        for module in MODULES
        for each in ast.parse(Path(str(module.__file__)).read_text("utf-8")).body
    ]
    for each in statements:
        if isinstance(each, ast.ClassDef):
            for key, text in zip(each.body, each.body[1:], strict=False):
                if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name):
                    assert key.target.id not in found, "declared once"
                    assert isinstance(text, ast.Expr)
                    found[key.target.id] = str(ast.literal_eval(text.value))
    assert found.keys() == EVERY.keys()
    assert {name: re.findall(r"Default: `(\w+)`", text) for name, text in found.items()} == {
        name: [repr(default)] for name, default in EVERY.items()
    }


# Given positionally: the source, if there is one.
WITH_WRONG_KEYWORD = [
    pytest.param(open_car, ["repo.car"], "open_car", id="open_car"),
    pytest.param(open_repo, ["alice.example.com"], "open_repo", id="open_repo"),
    pytest.param(order_car, ["repo.car"], "order_car", id="order_car"),
    pytest.param(DriverBuilder, [], "DriverBuilder.__init__", id="DriverBuilder"),
    pytest.param(
        DriverBuilder().stream_car, ["repo.car"], "DriverBuilder.stream_car", id="stream_car"
    ),
]


@pytest.mark.parametrize(("function", "given", "name"), WITH_WRONG_KEYWORD)
def test_unknown_keyword_is_a_type_error_that_names_it(
    function: Taking, given: list[str], name: str
) -> None:
    message = re.escape(f"{name}() got an unexpected keyword argument 'mem_limit'")
    with pytest.raises(TypeError, match=f"^{message}$"):
        function(*given, mem_limit=3)


def test_keywords_that_are_not_given_have_their_defaults() -> None:
    assert DriverBuilder() == DriverBuilder(mem_limit_mb=16, verify_cids=True, limits=Limits())
    assert DriverBuilder(verify_cids=False) == DriverBuilder().with_cid_verification(
        verify_cids=False
    )
