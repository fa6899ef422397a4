"""What can stand in the place of a CAR: a file, the name of an account, or a URL.

A file of that name wins, and `./` before a name makes plain that a file is meant. Names of accounts
are handles, DIDs and `at://` URIs. `repo.car` has the form of a handle, but hardly ever is one: a
name that ends as those of CAR files do is that of a file, unless it comes after `at://`.

What reads files needs no network: `repo_stream.Network` and the like are looked up when they are
used, which is when they are imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import repo_stream
from repo_stream.syntax import AT_SCHEME, AtUri, is_handle, parse_at_uri

if TYPE_CHECKING:
    from repo_stream import Network

__all__ = ["Kind", "is_account", "kind_of", "network_of", "new_network", "uri_in"]

#: What a CAR on the command line is.
Kind: TypeAlias = Literal["file", "account", "url"]

_URLS: Final = ("https://", "http://")
_NAMES: Final = ("did:", AT_SCHEME)
_FILES: Final = (".car", ".gz", ".zst")


def kind_of(car: str) -> Kind:
    """Return what a CAR on the command line is; `-` is a file."""
    if os.path.lexists(car):
        return "file"
    if car.startswith(_URLS):
        return "url"
    if car.startswith(_NAMES):
        return "account"
    is_name = is_handle(car.removeprefix("@")) and not car.lower().endswith(_FILES)
    return "account" if is_name else "file"


def is_account(car: str) -> bool:
    """Return whether a CAR on the command line is the name of an account."""
    return kind_of(car) == "account"


def uri_in(car: str) -> AtUri | None:
    """Return the parts of a CAR that is an `at://` URI; `None` if it is anything else.

    A slash at its end is left out.

    Raises:
        ValueError: if it is such a URI and names more than an account, but is not valid.
    """
    if not (car.startswith(AT_SCHEME) and is_account(car)):
        return None
    uri = car.removesuffix("/")
    try:
        return parse_at_uri(uri)
    except ValueError:
        if "/" in uri.removeprefix(AT_SCHEME):
            raise
        return None  # `Network.resolve` takes more than that, and says what is wrong with the rest


@asynccontextmanager
async def network_of(options: argparse.Namespace) -> AsyncGenerator[Network]:
    """Open the network that the command line describes.

    Raises:
        MissingExtra: if what it needs is not installed.
    """
    network = new_network(
        directory=options.plc,
        handle_server=options.handle_server,
        allow_private=options.allow_private,
        patience=options.patience,
    )
    async with network:
        yield network


def new_network(**told: Any) -> Network:  # noqa: ANN401 - as `Network` takes them
    """Return a network. Tests have one of their own."""
    return repo_stream.Network(**told)
