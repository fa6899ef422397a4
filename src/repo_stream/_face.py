"""The lazy face of a package: a name's module is imported when the name is first used.

A package states its public names once, in its stub `__init__.pyi`, which is also what type checkers
and editors read. It has imports such as `from repo_stream.limits import Limits as Limits`, and for
modules that are found as attributes, such as `from repo_stream import arrow as arrow`.
"""

import sys
from importlib import import_module

__all__ = ["directory_of", "named", "public_names"]

# The modules that names are imported from, by package and name.
_MODULES: dict[str, dict[str, str]] = {}


def named(package: str, name: str) -> object:
    """Return what a public name of a package stands for, as its `__getattr__`.

    Args:
        package: the full name of the package.
        name: the public name, or `__all__` for the list of them.

    Raises:
        AttributeError: if it is not a public name.
    """
    if name == "__all__":
        return public_names(package)
    if name.startswith("__") or name not in _modules(package):
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module = _modules(package)[name]
    if module == package:
        return import_module(f"{package}.{name}")  # which makes it an attribute as well
    value: object = getattr(import_module(module), name)
    setattr(sys.modules[package], name, value)  # so that it is found there from now on
    return value


def directory_of(package: str) -> list[str]:
    """Return all names in a package, as its `__dir__`."""
    return sorted({*vars(sys.modules[package]), *_modules(package)})


def public_names(package: str) -> list[str]:
    """Return the public names of a package."""
    return sorted(_modules(package))


def _modules(package: str) -> dict[str, str]:
    if package not in _MODULES:
        _MODULES[package] = _imports_of(_stub_of(package))
    return _MODULES[package]


def _stub_of(package: str) -> str:
    from importlib.resources import files  # noqa: PLC0415 - not for an import that is not used

    stub = files(package).joinpath("__init__.pyi")
    try:
        return stub.read_text("utf-8")
    except FileNotFoundError as error:
        raise ImportError(
            f"{stub}, which has the public names, is missing: take along all files of the package, "
            "as PyInstaller does with --collect-all repo_stream"
        ) from error


def _imports_of(stub: str) -> dict[str, str]:
    modules: dict[str, str] = {}
    for statement in f"\n{stub}".split("\nfrom ")[1:]:
        module, _, names = statement.partition(" import ")
        for each in names.strip("()\n ").split(","):
            if name := each.partition(" as ")[2].strip():
                modules[name] = module
    return modules
