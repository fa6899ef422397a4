"""What the nodes of a repo prove about its keys, whole repo or slice.

Every node on the way to a key is named by its hash in the node above, up to the commit that the
account has signed. So the nodes that lead to a key, or to where it would be, are a proof.
"""

from __future__ import annotations

from typing import NamedTuple

from repo_stream.cid import Cid

__all__ = ["Absent", "Present", "RangeProof"]


class Present(NamedTuple):
    """The repo has a record with this key. Its block need not be here.

    Attributes:
        rkey: the key.
        cid: the record's CID.
    """

    rkey: str
    cid: Cid


class Absent(NamedTuple):
    """The repo has no record with this key: two others are neighbours, with nothing in between.

    Attributes:
        rkey: the key that is not there.
        after: the key before the place where it would be; `None` at the beginning of the repo.
        before: the key after it; `None` at the end.
    """

    rkey: str
    after: str | None
    before: str | None


class RangeProof(NamedTuple):
    """The repo has these keys in a range, and no others.

    Where there are none, `after` and `before` are neighbours, with nothing in between. Else they
    are keys of the repo on both sides of the range, and others may lie between them and it.

    Attributes:
        keys: its keys in order, each with the CID of its record.
        after: the nearest key before the range that the proof names; `None` where it names none.
        before: the nearest key beyond it; `None` where it names none.
    """

    keys: list[tuple[str, Cid]]
    after: str | None
    before: str | None
