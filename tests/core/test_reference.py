"""The list of checks in the docstring of `limits` leaves nothing out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import repo_stream
from repo_stream import DiskBuilder, Limits, RepoStreamError, limits
from repo_stream._face import public_names

CHECKS = limits.__doc__ or ""


def kinds(accept: Callable[[type[RepoStreamError]], bool]) -> set[str]:
    public = (getattr(repo_stream, name) for name in public_names("repo_stream"))
    return {
        kind.__name__
        for kind in public
        if isinstance(kind, type) and issubclass(kind, RepoStreamError) and accept(kind)
    }


def named(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_checks_name_no_error_that_is_not_there() -> None:
    capitalised = {name for name in named(CHECKS) if name[0].isupper()}
    assert capitalised - kinds(lambda _: True) == {"Limits", "CarDecoder", "DiskBuilder"}


def test_checks_list_every_limit_with_its_default() -> None:
    defaults = [f"`{field.name}={field.default}`" for field in dataclasses.fields(Limits)]
    defaults.append(f"`max_stored_mb={DiskBuilder().max_stored_mb}`")
    assert [default for default in defaults if default not in CHECKS] == []
