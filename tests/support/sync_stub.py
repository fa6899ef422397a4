"""Writes the stub of `repo_stream.sync` from the declarations of the async face.

    python tests/support/sync_stub.py

Classes and functions are parsed in the modules that declare them: overloads, signatures and
docstrings are taken over, what is awaited is not, and a class has all that its bases declare.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import repo_stream.sync
from repo_stream import joining, opening, ordering
from repo_stream.network import opening as account_opening, repo, resolving
from repo_stream.sync.turning import NAMES, turned, turned_annotation

STUB = Path(repo_stream.sync.__file__).with_name("__init__.pyi")

# Members that are found by the parser, but not here: those that `with_members` hides, and what
# belongs to the loop.
HIDDEN = {"check_file", "check_whole", "comes_from", "fetch_first", "taken", "web"}

HEAD = '''\
# Written by tests/support/sync_stub.py from the declarations of the async face; do not edit it.
# `T` is a decoded record without a processor.
# pyright: reportInvalidTypeVarUse=false
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, Literal, Self, Unpack, overload

import httpx
from typing_extensions import TypeVar

from repo_stream.car.damage import Damage
from repo_stream.drivers.base import Problem
from repo_stream.drivers.keywords import OpenKeywords, OrderKeywords
from repo_stream.drivers.order import BlockOrder
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.limits import Limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Absent, Gap, Output, Present, RangeProof, Taken, TreeNode
from repo_stream.network.account import Account
from repo_stream.network.resolvers import NameResolver
from repo_stream.network.web import Clock
from repo_stream.process import BlockProcessor
from repo_stream.sync.sources import Source as Source

# Any: a record's values are of any type of the data model.
T = TypeVar("T", default=dict[str, Any])

class RepoKeywords(OpenKeywords, total=False):
    """The keywords of `open_repo`, but for those that its overloads are about."""

    network: Network | None
    keep: str | os.PathLike[str] | None
    earlier_keys: bool
    retries: int

'''


def stub() -> str:
    """The text of the stub."""
    parts = [
        HEAD,
        *class_stub("Repo", opening.Repo, "Generic[T]"),
        *class_stub("AccountRepo", repo.AccountRepo, "Repo[T]", below=opening.Repo),
        *class_stub("OrderedCar", ordering.OrderedCar, ""),
        *class_stub("Network", resolving.Network, ""),
        *function_stub(opening, "open_car"),
        *function_stub(opening, "records"),
        *function_stub(opening, "load_commit"),
        *function_stub(account_opening, "open_repo"),
        *function_stub(account_opening, "get_record"),
        *function_stub(ordering, "order_car"),
        *function_stub(joining, "join_cars"),
    ]
    return formatted("\n".join(parts))


def formatted(text: str) -> str:
    # The settings are those of the checkout, wherever the package is installed.
    name = Path(__file__).parents[2] / "src/repo_stream/sync/__init__.pyi"
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(name), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


# --- Functions ------------------------------------------------------------------------------------


def function_stub(module: ModuleType, name: str) -> Iterator[str]:
    """The overloads of a function, with the docstring of its body."""
    found = [node for node in functions(ast.parse(inspect.getsource(module))) if node.name == name]
    overloads = [node for node in found if is_overload(node)]
    documentation = docstring(found[-1], 1)
    for node in overloads or found:
        if overloads:
            yield "@overload"
        yield f"{head(node, vars(module))}\n{documentation}"
        documentation = "    ..."  # once is enough


FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module | ast.ClassDef) -> list[FunctionNode]:
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def is_overload(node: FunctionNode) -> bool:
    return any(ast.unparse(each) == "overload" for each in node.decorator_list)


def head(node: FunctionNode, names: dict[str, object]) -> str:
    """The line of `def`, with the values of defaults that have a name in the module."""
    name = NAMES.get(node.name, node.name)
    for defaults in (node.args.defaults, node.args.kw_defaults):
        for at, default in enumerate(defaults):
            if isinstance(default, ast.Name):
                value = names[default.id]
                defaults[at] = ast.Constant(... if callable(value) else value)  # type: ignore[arg-type] # a number
    returned = ast.unparse(node.returns) if node.returns else "None"
    arguments = ast.unparse(node.args)
    return f"def {name}({arguments}) -> {turned_annotation(returned)}:"


def docstring(node: FunctionNode | ast.ClassDef, depth: int) -> str:
    text = ast.get_docstring(node, clean=False)
    if text is None:
        return f"{'    ' * depth}..."
    raw = "r" if "\\" in text else ""
    return f'{"    " * depth}{raw}"""{turned(text)}"""'


# --- Classes --------------------------------------------------------------------------------------


def class_stub(name: str, real: type, bases: str, below: type = object) -> Iterator[str]:
    """A class with the members of all its bases but those `below`, the nearest ones first."""
    kinds = [kind for kind in real.__mro__ if kind not in below.__mro__ and is_ours(kind)]
    trees = {kind: class_node(kind) for kind in kinds}
    yield f"class {name}{f'({bases})' if bases else ''}:"
    yield docstring(trees[kinds[0]], 1)
    members: dict[str, str] = {}
    for kind in kinds:
        for attribute, text in attributes(trees[kind]):
            members.setdefault(attribute, text)
        for node in functions(trees[kind]):
            found = member(node, vars(sys.modules[kind.__module__]))
            if found is not None:
                members.setdefault(NAMES.get(node.name, node.name), found)
    yield from members.values()


def is_ours(kind: type) -> bool:
    return kind.__module__.startswith("repo_stream")


def class_node(kind: type) -> ast.ClassDef:
    node = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def attributes(tree: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The public attributes that a constructor sets."""
    for function in functions(tree):
        if function.name == "__init__":
            for node in ast.walk(function):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                    name = node.target.attr
                    if not name.startswith("_") and name not in HIDDEN:
                        yield name, f"    {name}: {ast.unparse(node.annotation)}"


# What is not taken over as it is.
SPECIAL: dict[str, Callable[[FunctionNode], str]] = {
    "__aiter__": lambda _: "    def __iter__(self) -> Self: ...",
    "__anext__": lambda node: (
        f"    def __next__(self) -> {ast.unparse(node.returns or ast.Constant(None))}:\n"
        f"{docstring(node, 2)}"
    ),
    "__aenter__": lambda _: "    def __enter__(self) -> Self: ...",
    "__aexit__": lambda node: f"    def __exit__({ast.unparse(node.args)}) -> None: ...",
}


def member(node: FunctionNode, names: dict[str, object]) -> str | None:
    if node.name in SPECIAL:
        return SPECIAL[node.name](node)
    if node.name in HIDDEN or (node.name.startswith("_") and not is_constructor(node)):
        return None
    decorators = "".join(f"    @{ast.unparse(each)}\n" for each in node.decorator_list)
    return f"{decorators}    {head(node, names)}\n{docstring(node, 2)}"


def is_constructor(node: FunctionNode) -> bool:
    """Whether it is the constructor of a class that users make."""
    return node.name == "__init__" and "client" in {each.arg for each in node.args.args}


if __name__ == "__main__":
    STUB.write_text(stub(), "utf-8")
