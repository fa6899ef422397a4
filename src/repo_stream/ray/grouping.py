"""How sources are shared out among read tasks: by their size, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

__all__ = ["bytes_of", "groups_of"]

# What a source takes whose size is not known, such as the repo of an account: half of all repos
#: have less than a tenth of it, and a few have a hundred times as much.
_ASSUMED_BYTES: Final = 1024 * 1024

# What the opening of a source costs, as if it had so many bytes more.
_OPENING_BYTES: Final = 32 * 1024


class _Sized(Protocol):
    @property
    def size(self) -> int | None: ...


S = TypeVar("S", bound=_Sized)


def groups_of(sources: Sequence[S], number: int) -> list[list[S]]:
    """Share sources out among about `number` groups of about the same size, in their order.

    A source that is larger than its share is a group of its own. So there are less than twice as
    many groups as asked for, and none is empty.

    Args:
        sources: each has a `size` in bytes, or `None` if that is not known.
        number: how many groups to aim at.
    """
    costs = [bytes_of(source) + _OPENING_BYTES for source in sources]
    share = sum(costs) / max(number, 1)
    groups: list[list[S]] = []
    room = 0.0
    for source, cost in zip(sources, costs, strict=True):
        if not groups or cost > room:
            groups.append([])
            room = share
        groups[-1].append(source)
        room -= cost
    return groups


def bytes_of(source: _Sized) -> int:
    """Return about how large a source is."""
    return _ASSUMED_BYTES if source.size is None else source.size
