"""The base of all errors, and the errors of CIDs and DAG-CBOR. All others are in `errors`."""

from __future__ import annotations

__all__ = ["InvalidCid", "InvalidDagCbor", "NestedTooDeep", "RepoStreamError"]


class RepoStreamError(Exception):
    """The base of all errors of a repo or a store.

    Wrong use of the library is reported with Python's own exceptions instead: `TypeError` and
    `ValueError` for arguments, `anyio.BusyResourceError` if two tasks use one driver or store at
    the same time.

    Attributes:
        source: which of several sources the error is in: the path of a file, or words such as
            `"slice 2"`; `None` if there is only one source, or if it is in none of them. See
            `join_cars`.
    """

    source: str | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by state: by default, a constructor with keywords would be called without them."""
        return (_restore, (type(self), self.args), self.__dict__)


def _restore(kind: type[RepoStreamError], args: tuple[object, ...]) -> RepoStreamError:
    return kind.__new__(kind, *args)


class InvalidCid(RepoStreamError, ValueError):
    """Bytes or text that are not a CID."""


class InvalidDagCbor(RepoStreamError, ValueError):
    """Bytes that are not canonical DAG-CBOR; see https://ipld.io/specs/codecs/dag-cbor/spec/."""


class NestedTooDeep(RepoStreamError, ValueError):
    """Bytes with lists or maps nested deeper than is read. They may be DAG-CBOR all the same.

    Attributes:
        maximum: how many levels are read, always 128.
    """

    def __init__(self, *, maximum: int) -> None:
        super().__init__(f"nested deeper than {maximum} levels, the most that are read")
        self.maximum = maximum
