"""What the docstrings of `errors` and `limits` list is there, and nothing is left out of it."""

from __future__ import annotations

import dataclasses
import re

import repo_stream
from repo_stream import CarError, CommitError, DiskBuilder, Limits, NodeError, errors, limits
from repo_stream.network import errors as network_errors

ERRORS = errors.__doc__ or ""
CHECKS = limits.__doc__ or ""


def named(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_the_table_of_errors_has_no_error_that_does_not_exist() -> None:
    listed = re.findall(r"^ {4}[│ ]*[├└]─ (\w+)", ERRORS, re.MULTILINE)
    there = {*errors.__all__, *network_errors.__all__}
    assert sorted(listed) == sorted(there - {"RepoStreamError"})


def test_the_list_of_checks_has_every_error_of_a_file() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    leaves = {
        kind.__name__
        for kind in kinds
        if issubclass(kind, (CarError, CommitError, NodeError))
        and not any(other is not kind and issubclass(other, kind) for other in kinds)
    }
    assert leaves - named(CHECKS) == set()


def test_the_list_of_checks_has_no_name_that_does_not_exist() -> None:
    capitalised = {name for name in named(CHECKS) if name[0].isupper()}
    assert [name for name in sorted(capitalised) if not hasattr(repo_stream, name)] == []


def test_the_list_of_checks_has_every_limit_with_its_default() -> None:
    defaults = [f"`{field.name}={field.default}`" for field in dataclasses.fields(Limits)]
    defaults.append(f"`max_stored_mb={DiskBuilder().max_stored_mb}`")
    assert [default for default in defaults if default not in CHECKS] == []
