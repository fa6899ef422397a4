"""A scan: each source is opened in turn, and walked."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias, cast

from repo_stream import sync
from repo_stream.arguments import check_flag
from repo_stream.arrow.batching import Collector, OnProblem, walk, with_last
from repo_stream.arrow.problems import Problems
from repo_stream.arrow.sources import ArrowSources, Given, expand
from repo_stream.drivers.keywords import OpenKeywords
from repo_stream.errors import DiskError, MissingExtra, RepoStreamError
from repo_stream.ipld.cid import Cid
from repo_stream.network.opening import open_repo
from repo_stream.network.resolving import Network
from repo_stream.opening import Repo, open_car, told_builder
from repo_stream.process import Processor
from repo_stream.store.disk import DiskStore

__all__ = ["OnBadSource", "Scan", "ScanNetwork", "Walk"]

#: Finds the accounts of all scans; or returns a new `Network` for each scan.
ScanNetwork: TypeAlias = "sync.Network | Callable[[], Network]"
#: What to do about sources and records that cannot be read.
OnBadSource: TypeAlias = Literal["raise", "skip", "report"]
#: Walks an open repo, and yields batches.
Walk: TypeAlias = Callable[[Repo[Any], "OnProblem | None"], AsyncGenerator[Any]]

_HOW: Final = ("raise", "skip", "report")
# These say that the system is short of something, whatever the source.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


@dataclass(frozen=True)
class Scan:
    """What to scan, and how.

    Attributes:
        sources: the sources, in their order.
        on_error: what to do about those that cannot be read.
        network: makes the network that finds accounts, which is closed at the end of each scan; or
            one of the loop in which it is scanned, which is not closed.
        earlier_keys: see `open_repo`.
        keywords: all keywords of `open_car`.
    """

    sources: list[Given]
    on_error: OnBadSource
    network: Callable[[], Network] | Network | None
    earlier_keys: bool
    keywords: OpenKeywords

    @classmethod
    def of(
        cls,
        sources: ArrowSources,
        on_error: OnBadSource,
        network: ScanNetwork | None,
        earlier_keys: bool,
        keywords: OpenKeywords,
    ) -> Self:
        """Check the arguments, and find the files.

        Raises:
            FileNotFoundError, TypeError, ValueError: see `expand`, or if an argument is not valid.
        """
        if on_error not in _HOW:
            choices = ", ".join(map(repr, _HOW))
            raise ValueError(f"on_error must be one of {choices}, not {on_error!r}")
        checked = _checked_network(network)
        check_flag("earlier_keys", earlier_keys)
        if isinstance(keywords.get("spill"), DiskStore):
            raise TypeError(
                "spill must be a path, None or False, not a DiskStore: each scan runs in an event "
                "loop of its own"
            )
        collections = keywords.get("collections")
        if collections is not None and not isinstance(collections, str):
            keywords["collections"] = [*collections]  # to be read for each source
        told_builder(len, "raise", gaps=False, keywords=keywords)  # what is wrong is told now
        return cls(expand(sources), on_error, checked, earlier_keys, keywords)

    @property
    def title(self) -> str:
        """The name of the source, or how many there are."""
        return self.sources[0].name if len(self.sources) == 1 else f"{len(self.sources):,} sources"

    async def batches(
        self, processor: Processor[Any], walk: Walk, problems: Problems
    ) -> AsyncGenerator[Any]:
        """Open each source, and yield what `walk` makes of it.

        Args:
            processor: the block processor.
            walk: walks an open repo.
            problems: where to note what is left out.

        Raises:
            RepoStreamError, OSError: if a source cannot be read, and `on_error` is `"raise"`; with
                a note that names the source. If something else is to blame than the source, such
                as a full disk, it is raised in any case.
        """
        async with AsyncExitStack() as stack:
            network: Network | None = None
            if any(given.kind == "account" for given in self.sources):
                if isinstance(self.network, Network):
                    network = self.network
                else:
                    network = await stack.enter_async_context((self.network or Network)())
            for given in self.sources:
                one = self._batches_of(given, network, processor, walk, problems)
                async with aclosing(one):
                    async for batch in one:
                        yield batch

    def collected(
        self, processor: Processor[Any], collector: Collector, problems: Problems
    ) -> AsyncGenerator[Any]:
        """Collect the records of all sources, and yield them in batches.

        If a source cannot be read, what came before the error is yielded first.

        Args:
            processor: the block processor that the collector needs.
            collector: collects the records.
            problems: where to note what is left out.

        Raises:
            RepoStreamError, OSError: see `batches`.
        """
        found = self.batches(
            processor, lambda repo, on_problem: walk(repo, collector, on_problem), problems
        )
        return with_last(found, collector)

    async def _batches_of(
        self,
        given: Given,
        network: Network | None,
        processor: Processor[Any],
        walk: Walk,
        problems: Problems,
    ) -> AsyncGenerator[Any]:
        did: str | None = None

        def note(key: str, cid: Cid, error: Exception) -> None:
            problems.add(given.name, error, did=did, key=key, cid=cid)

        try:
            async with self.opened(given, network, processor) as repo:
                did = repo.commit.did
                async with aclosing(
                    walk(repo, None if self.on_error == "raise" else note)
                ) as found:
                    async for batch in found:
                        yield batch
        except (RepoStreamError, OSError) as error:
            if self.on_error == "raise" or not _is_of_source(error):
                error.add_note(f"in {given.name}")
                raise
            problems.add(given.name, error, did=did)

    def opened(
        self, given: Given, network: Network | None, processor: Processor[Any]
    ) -> AbstractAsyncContextManager[Repo[Any]]:
        """Open a source; a subclass may have others.

        Args:
            given: the source.
            network: finds accounts.
            processor: the block processor.
        """
        keywords: Any = {**self.keywords, "block_processor": processor}
        if self.on_error != "raise":
            keywords["on_error"] = "yield"
        if given.kind != "account":
            return open_car(given.source, **keywords)
        return open_repo(
            str(given.source), network=network, earlier_keys=self.earlier_keys, **keywords
        )


def _checked_network(network: ScanNetwork | None) -> Callable[[], Network] | Network | None:
    if isinstance(network, sync.Network):
        # It lives in the loop of the scans; its stub does not show that.
        real: Network = cast("Any", network).real
        return real
    if network is None or callable(network):
        return network
    raise TypeError(
        "network must be a repo_stream.sync.Network, or a function that returns a new Network: "
        f"`network=lambda: Network(...)`; not {network!r}"
    )


def _is_of_source(error: Exception) -> bool:
    """Return whether an error is that of the source, so that others can still be read."""
    if isinstance(error, (DiskError, MissingExtra)):
        return False
    return not (isinstance(error, OSError) and error.errno in _SHORTAGES)
