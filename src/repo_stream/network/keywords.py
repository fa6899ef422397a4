"""The keywords of `open_repo` that do not change the type of its results; see `drivers.keywords`.

Annotations are evaluated here, so that the signature of `open_repo` shows types, not their names.
"""

import os
from typing import Final

from repo_stream.drivers.keywords import OpenKeywords
from repo_stream.network.resolving import Network

__all__ = ["REPO_DEFAULTS", "RepoKeywords"]


class RepoKeywords(OpenKeywords, total=False):
    """The keywords of `open_repo`, but for those that its overloads are about."""

    network: Network | None
    """What finds the account; it is not closed. Default: `None`, a new one."""
    keep: str | os.PathLike[str] | None
    """The path of a file in which to keep the CAR as it came. Default: `None`, nowhere."""
    earlier_keys: bool
    """Accept a signature by a key that the account had before, too. Default: `False`."""
    retries: int
    """How often a download begins anew, or is completed, if it is broken. Default: `2`."""


#: The defaults of the keywords that `open_repo` has and `open_car` has not.
REPO_DEFAULTS: Final[dict[str, object]] = {
    "network": None,
    "keep": None,
    "earlier_keys": False,
    "retries": 2,
}
