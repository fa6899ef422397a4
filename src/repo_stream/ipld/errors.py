"""The base of every error, and the two that CIDs and CBOR raise."""

from __future__ import annotations

__all__ = ["InvalidCid", "InvalidDagCbor", "RepoStreamError"]


class RepoStreamError(Exception):
    """The base of every error that this library raises about a repo or a store.

    Misuse by the caller is reported with Python's own exceptions instead: `TypeError` and
    `ValueError` for arguments, `anyio.BusyResourceError` for two tasks in one driver or store.
    """

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by state: the constructors take keywords, which the default would not pass."""
        return (_restore, (type(self), self.args), self.__dict__)


def _restore(kind: type[RepoStreamError], args: tuple[object, ...]) -> RepoStreamError:
    return kind.__new__(kind, *args)


class InvalidCid(RepoStreamError, ValueError):
    """Bytes or a text that do not form a CID."""


class InvalidDagCbor(RepoStreamError, ValueError):
    """Bytes that are not canonical DAG-CBOR.

    See https://ipld.io/specs/codecs/dag-cbor/spec/ for what that is.
    """
