"""Sync siblings of async classes and functions, made from them.

A `Face` stands in front of an object that lives in the loop. A method that is awaited there is
called here by a hop to the loop (`loop_thread.Block`); a property is read at once, as nothing runs
in the loop for this object meanwhile. Loops over records take what needs no waiting without a hop.

    async, in the loop          here
    async def get(key)          get(key)
    property commit             property commit
    async for, __anext__        for, __next__
    async with open_car(...)    with open_car(...)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

from repo_stream.drivers.base import Loop, RepoDriver, loops_of
from repo_stream.errors import StoreClosed
from repo_stream.loop_thread import Block, loop_thread
from repo_stream.sync.turning import NAMES, turned, turned_annotation

__all__ = ["Face", "Looped", "Opening", "Walked", "like", "sibling", "with_members"]

C = TypeVar("C", bound="type[Face]")
F = TypeVar("F", bound="Face")
R = TypeVar("R")

_END: Final = object()

# Any: the types of all that is made here are in the stub of the package.


class Face:
    """What stands in front of an object that lives in the loop.

    Args:
        real: the object.
        block: the block that it was opened by.
    """

    def __init__(self, real: Any, block: Block[Any]) -> None:
        self._real = real
        self._block = block

    @property
    def real(self) -> Any:
        """The object in the loop."""
        return self._real

    def do(self, function: Callable[..., Awaitable[R]], *arguments: object) -> R:
        """Do something with the object in the loop.

        Raises:
            StoreClosed: if the block has been left.
        """
        if self._block.left:
            raise StoreClosed.of_repo()
        return self._block.call(function, *arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._real, name)

    def __repr__(self) -> str:
        return repr(self._real)


class Walked(Face):
    """What stands in front of a driver: loops over its records."""

    def __init__(self, real: RepoDriver[Any], block: Block[Any]) -> None:
        super().__init__(real, block)
        self._pairs, self._outputs = loops_of(real)
        self._next_ready = self._pairs.ready

    def __iter__(self) -> Self:
        self._pairs.begin()
        return self

    def __next__(self) -> tuple[str, Any]:
        """Return the next record as a pair of key and value."""
        while (pair := self._next_ready()) is None:
            self.fill(self._pairs)
        return pair

    def outputs(self) -> Iterator[Any]:
        """Iterate over the records that are left, as `Output`."""
        return _Outputs(self, self._outputs)

    def fill(self, loop: Loop[Any]) -> None:
        """Take more records; raise `StopIteration` if there are no more.

        As long as their blocks are there, that is done here: to do it in the loop takes the time of
        a hop, and records that one thread makes and another one drops take 1.2 of the time.

        Raises:
            StoreClosed: if the repo has been closed.
        """
        if self._block.left:
            raise StoreClosed.of_repo()
        if not loop.take() and not self.do(_filled, loop):
            raise StopIteration


async def _filled(loop: Loop[Any]) -> bool:
    try:
        await loop.fill()
    except StopAsyncIteration:
        return False
    return True


class _Outputs:
    """Iterates over outputs. Unlike a generator, it can go on after an error or Ctrl-C."""

    def __init__(self, walked: Walked, loop: Loop[Any]) -> None:
        self._walked = walked
        self._loop = loop
        self._next_ready = loop.ready

    def __iter__(self) -> Self:
        self._loop.begin()
        return self

    def __next__(self) -> Any:
        while (output := self._next_ready()) is None:
            self._walked.fill(self._loop)
        return output


class Looped(Face):
    """What stands in front of an async iterator."""

    def __iter__(self) -> Self:
        aiter(self._real)
        return self

    def __next__(self) -> Any:
        item = self.do(anext, self._real, _END)
        if item is _END:
            raise StopIteration
        return item


# --- Made from the async siblings ---------------------------------------------------------------


def with_members(real: type, *, hidden: frozenset[str] = frozenset()) -> Callable[[C], C]:
    """Give a `Face` the public methods and properties of the class that it stands for.

    Args:
        real: the class of the object in the loop.
        hidden: methods that are not for users.
    """

    def decorate(face: C) -> C:
        for name in dir(real):
            if not name.startswith("_") and name not in hidden:
                member = _member(face.__name__, inspect.getattr_static(real, name))
                if member is not None:
                    setattr(face, NAMES.get(name, name), member)
        face.__doc__ = turned(real.__doc__ or "")
        face.__module__ = "repo_stream.sync"
        return face

    return decorate


def _member(owner: str, member: object) -> object:
    if isinstance(member, property):
        return property(partial(_read, member), doc=turned(member.__doc__ or ""))
    if inspect.iscoroutinefunction(member):

        def method(self: Face, *args: object, **keywords: object) -> object:
            return self.do(partial(member, self.real, *args, **keywords))

        return like(member, method, owner=owner)
    if inspect.isfunction(member):  # `outputs`, which is there but for its docstring

        def outputs(self: Walked) -> Iterator[Any]:
            return Walked.outputs(self)

        return like(member, outputs, owner=owner)
    return None


def _read(member: property, face: Face) -> object:
    return cast("Callable[[object], object]", member.fget)(face.real)


def like(
    real: Callable[..., object], function: Callable[..., R], *, owner: str = ""
) -> Callable[..., R]:
    """Give a function the name, signature and docstring of its async sibling, turned.

    Args:
        real: the async sibling.
        function: what is called here.
        owner: the class that has it, if it is a method.
    """
    name = NAMES.get(real.__name__, real.__name__)
    signature = inspect.signature(real)
    returned = signature.return_annotation
    if isinstance(returned, str):
        returned = turned_annotation(returned)
        signature = signature.replace(return_annotation=returned)
    made = functools.wraps(real)(function)
    made.__doc__ = turned(real.__doc__ or "")
    made.__name__ = name
    made.__qualname__ = f"{owner}.{name}" if owner else name
    made.__module__ = "repo_stream.sync"
    made.__annotations__ = {**real.__annotations__, "return": returned}
    cast("Any", made).__signature__ = signature
    del cast("Any", made).__wrapped__
    return made


def sibling(real: Callable[..., object]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return a decorator for the sync sibling of an async function; see `like`."""
    return partial(like, real)


class Opening(AbstractContextManager[F], Generic[F]):
    """An async context manager as a plain one, which returns a `Face`.

    Args:
        manager: opens the object in the loop.
        face: what stands in front of it.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any], face: type[F]) -> None:
        self._manager = manager
        self._face = face
        self._block: Block[Any] | None = None

    def __enter__(self) -> F:
        with loop_thread() as loop:
            self._block = block = Block(loop, self._manager)
            block.__enter__()
        return self._face(block.value, block)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        block = self._block
        return block is not None and block.__exit__(kind, error, trace)
