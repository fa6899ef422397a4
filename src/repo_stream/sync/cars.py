"""CARs without `async`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from repo_stream import joining, opening, ordering
from repo_stream.loop_thread import loop_thread
from repo_stream.mst.commit import Commit
from repo_stream.store.disk import DiskStore
from repo_stream.sync.faces import Looped, Opening, Walked, sibling, with_members
from repo_stream.sync.sources import as_source

__all__ = [
    "OrderedCar",
    "Repo",
    "check_spill",
    "join_cars",
    "load_commit",
    "open_car",
    "order_car",
    "records",
]

# Any: the types are in the stub of the package.


@with_members(opening.Repo)
class Repo(Walked):
    pass


@with_members(ordering.OrderedCar)
class OrderedCar(Looped):
    pass


@sibling(opening.open_car)
def open_car(source: object, **keywords: Any) -> Opening[Repo]:
    check_spill(keywords)
    return Opening(opening.open_car(_real(source), **keywords), Repo)


@sibling(opening.records)
def records(source: object, **keywords: Any) -> Generator[Any]:
    return _outputs_of(open_car(source, **keywords))


def _outputs_of(opened: Opening[Repo]) -> Generator[Any]:
    with opened as repo:
        yield from repo.outputs()


@sibling(opening.load_commit)
def load_commit(source: object, **keywords: Any) -> Commit:
    async def load() -> Commit:
        return await opening.load_commit(_real(source), **keywords)

    with loop_thread() as loop:
        return loop.call(load)


@sibling(ordering.order_car)
def order_car(source: object, **keywords: Any) -> Opening[OrderedCar]:
    check_spill(keywords)
    return Opening(ordering.order_car(_real(source), **keywords), OrderedCar)


@sibling(joining.join_cars)
def join_cars(base: object, *slices: object, **keywords: Any) -> Opening[OrderedCar]:
    check_spill(keywords)
    joined = joining.join_cars(_real(base), *map(_real, slices), **keywords)
    return Opening(joined, OrderedCar)


def _real(source: object) -> Any:
    """Return a source as the async sibling takes it; a CAR that is written here is one, too."""
    return source.real if isinstance(source, OrderedCar) else as_source(source)


def check_spill(keywords: dict[str, Any]) -> None:
    """Check that blocks do not go to a store of another event loop.

    Raises:
        TypeError: if they do.
    """
    if isinstance(keywords.get("spill"), DiskStore):
        raise TypeError(
            "spill must be a path, None or False here: a DiskStore belongs to the event loop that "
            "opened it"
        )
