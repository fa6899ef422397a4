"""Fetching blocks from a log as a walk needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from repo_stream.drivers.loading import Unstored
from repo_stream.errors import ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.limits import MIB
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.walker import Walker
from repo_stream.process import Processor
from repo_stream.store.repo_log import Fetched, RepoLog

__all__ = ["FETCH", "Fetcher"]

T = TypeVar("T")

#: Blocks to fetch at a time.
FETCH: Final = 1000

# Blocks that a walk has used are dropped each time that so many bytes were fetched. Finding them
# takes a tenth of the time of a walk if it is done for each query.
_PRUNE_BYTES: Final = MIB
# What a block counts beyond its bytes, as it is not known how much memory its result takes. So two
# queries are always enough.
_BLOCK_COST: Final = MIB // (2 * FETCH)


class Fetcher(Generic[T]):
    """Fetches the blocks of a repo from its log, for walks through the repo.

    Args:
        log: the log.
        processor: loads stored results.
        unstored: why results could not be stored, by the CIDs of their blocks.
    """

    def __init__(
        self,
        log: RepoLog,
        processor: Processor[T],
        unstored: Mapping[bytes, Unstored],
    ) -> None:
        self._log = log
        self._loads = processor.loads
        self._unstored = unstored
        self._unreadable: dict[bytes, Unstored] = {}
        # Blocks of the last query that the log does not have, so that a walk that goes past missing
        # records need not ask again for each.
        self._absent: set[bytes] = set()

    async def fetch(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        """Fetch the blocks that a walk needs next, and sometimes drop those that it has used.

        Args:
            walker: the walk.
            blocks: where to put the blocks.
            n: the most to fetch.
            records: whether records are needed, or nodes alone.

        Raises:
            MissingBlock: if the block that the walk stands before is not in the log.
            ProcessError: if its result could not be stored, or cannot be loaded.
            DiskError: if the store fails.
        """
        nearest = walker.nearest()
        if nearest not in self._absent and nearest not in self._unreadable:
            needed = walker.wanted(blocks, n, records=records)
            if blocks.fetched >= _PRUNE_BYTES:
                walker.prune(blocks)
            self._unreadable.clear()
            fetched = await self._log.fetch(needed)
            self._keep(blocks, fetched)
            self._absent = {*needed}.difference(fetched.all)
        if nearest not in blocks:
            missing = walker.missing()
            failure = self._unreadable.get(nearest) or self._unstored.get(nearest)
            if failure is None:
                raise missing
            message, cause = failure
            raise ProcessError(message, key=missing.key, cid=Cid(nearest)) from cause

    def _keep(self, blocks: Blocks[T], fetched: Fetched) -> None:
        blocks.fetched += sum(fetched.sizes)
        blocks.fetched += _BLOCK_COST * (len(fetched.raw) + len(fetched.processed))
        blocks.raw.update(fetched.raw)
        processed, loads = blocks.processed, self._loads
        for cid, data in fetched.processed.items():
            try:
                processed[cid] = loads(data)
            except Exception as error:  # noqa: BLE001 - it is raised if the walk reaches it
                message = f"its stored result cannot be read back: {error}"
                self._unreadable[cid] = Unstored(message, error)
