"""Accounts without `async`."""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import Any, Self

from repo_stream.arguments import check_kind
from repo_stream.loop_thread import Block, LoopThread, loop_thread
from repo_stream.network import opening, repo, resolving
from repo_stream.sync.cars import Repo, check_spill
from repo_stream.sync.faces import Face, Opening, sibling, with_members

__all__ = ["AccountRepo", "Network", "get_record", "open_repo"]

# Any: the types are in the stub of the package.


@with_members(
    repo.AccountRepo, hidden=frozenset({"check_file", "check_whole", "comes_from", "fetch_first"})
)
class AccountRepo(Repo):
    pass


@with_members(resolving.Network, hidden=frozenset({"aclose"}))
class Network(Face):
    __signature__: inspect.Signature = inspect.signature(resolving.Network)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        real = resolving.Network(*args, **keywords)
        with loop_thread() as loop:
            self._loop: LoopThread = loop
            block: Block[Any] = Block(loop, real)
            block.__enter__()
        super().__init__(real, block)

    def do(self, function: Any, *arguments: object) -> Any:
        """Do something in a task of its own, so that several threads can do so at once.

        Raises:
            RuntimeError: if it has been closed.
        """
        if self._block.left:
            raise RuntimeError("this Network has been closed")
        return self._loop.call(function, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, but leave a caller's client alone."""
        self._block.__exit__(None, None, None)


@sibling(opening.open_repo)
def open_repo(who: str, **keywords: Any) -> Opening[AccountRepo]:
    check_spill(keywords)
    return Opening(opening.open_repo(who, **_with_real_network(keywords)), AccountRepo)


@sibling(opening.get_record)
def get_record(uri: str, **keywords: Any) -> Any:
    async def get() -> Any:
        return await opening.get_record(uri, **_with_real_network(keywords))

    with loop_thread() as loop:
        return loop.call(get)


def _with_real_network(keywords: dict[str, Any]) -> dict[str, Any]:
    network = keywords.get("network")
    if network is None:
        return keywords
    check_kind("network", network, Network, such_as="a repo_stream.sync.Network")
    return {**keywords, "network": network.real}
