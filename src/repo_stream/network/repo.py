"""`AccountRepo`: a repo that is walked while it is downloaded from the server of its account.

It differs from any other `Repo` in what errors say: that the download broke off, or that the server
tore it. And it can look ahead, so that both come out before the first record if they can.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.fetch import FETCH
from repo_stream.drivers.incoming import Incoming
from repo_stream.drivers.keywords import Spill
from repo_stream.drivers.options import Options
from repo_stream.drivers.spilling import Kept
from repo_stream.drivers.stream import StreamDriver, streamed
from repo_stream.errors import (
    LimitExceeded,
    MissingBlock,
    NodeError,
    ProcessError,
    TruncatedCar,
    UncheckableBlock,
)
from repo_stream.mst.blocks import Blocks
from repo_stream.mst.commit import Commit
from repo_stream.mst.ranges import KeyRanges
from repo_stream.mst.results import Gap, Output, Taken, TreeNode
from repo_stream.mst.walker import Walker
from repo_stream.network.account import Account
from repo_stream.network.errors import DownloadBroken, TornExport
from repo_stream.opening import Repo
from repo_stream.process import length

if TYPE_CHECKING:
    # `typing.TypeVar` has no defaults before Python 3.13. Type checkers bring this module along.
    from typing_extensions import TypeVar

    # Any: a record's values are of any type of the data model.
    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["AccountRepo", "Origin"]

# Items to take at a time until the first record is there, and how many are enough without one:
# nodes come first, one for each level of the tree.
_ITEMS: Final = 16
_ENOUGH_ITEMS: Final = 64
# Records to check at a time.
_RECORDS: Final = 512


class Origin(NamedTuple):
    """Where a repo comes from.

    Attributes:
        account: its account.
        signed_by: the key that signed its commit, as a `did:key`.
        url: the URL of the download.
        whole: whether all blocks should be there, so that it is torn if one is missing.
        key: the key of the only record, if there is only one with its proof.
    """

    account: Account
    signed_by: str
    url: str
    whole: bool
    key: str | None


class AccountRepo(Repo[T]):
    """The repo of an account, of which as much has been downloaded as was needed so far.

    `open_repo` makes it. It walks the repo as any `Repo` does. Its `commit` is of the account, and
    its signature has been checked.

    If the download breaks off, that is a `DownloadBroken`. If a block of a whole repo is missing,
    that is a `TornExport`, also in a proof, for which a `Repo` raises `IncompleteRange`.
    """

    def __init__(
        self,
        options: Options[T],
        commit: Commit,
        incoming: Incoming[T],
        kept: Kept[T],
        *,
        drain: bool,
    ) -> None:
        super().__init__(options, commit, incoming, kept, drain=drain)
        self._origin: Origin | None = None
        #: How many records the walk has taken, to return them before an error.
        self.taken: int = 0
        self._read_all = False
        # Whether the walk so far has read each record that it came to, from the first one on.
        self._reads_each = options.key_ranges.everything
        # The first of the items that wait when the first record has come, and where they begin.
        self._first: TreeNode | Output[T] | Gap | None = None
        self._first_from = b""

    def __repr__(self) -> str:
        if self._origin is None:
            return super().__repr__()
        where = "on disk" if self.spilled else "in memory"
        who = self.account.handle or self.account.did
        return f"<AccountRepo {who} at {self.commit.rev}, {where}>"

    @property
    def account(self) -> Account:
        """The account, as it was found when the download began."""
        return self._known.account

    @property
    def signed_by(self) -> str:
        """The key that signed the commit, as a `did:key`.

        It is that of the account, or with `earlier_keys`, one that the account had before.
        """
        return self._known.signed_by

    @property
    def _known(self) -> Origin:
        if self._origin is None:
            raise RuntimeError("the commit has not been checked yet")
        return self._origin

    @property
    def complete(self) -> bool:
        """Whether all was read, by a walk to its end or by `read_all`, and nothing was wrong."""
        walked = self._walker.done and not self._ready and not self._ready.items
        return (walked or self._read_all) and self.fully_read and self._error is None

    def comes_from(self, origin: Origin) -> None:
        """Note where the repo comes from, once its commit has been checked."""
        self._origin = origin

    async def read_all(self) -> None:
        """Read the download to its end, check its blocks, and keep them, in memory or on disk.

        Raises:
            DownloadBroken, TooSlow: if it breaks off, or is given up.
            CarError, CidMismatch, LimitExceeded: if it cannot be read.
            MemLimitExceeded, DiskError: if its blocks cannot be kept.
        """
        await super().read_all()
        self._read_all = True

    # --- Before the first record ----------------------------------------------------------------

    async def fetch_first(self) -> None:
        """Read on until the first record is there, to be returned by whatever call comes first.

        If the walk fails before that, it is an error that other calls raise.

        Raises:
            DownloadBroken, TornExport: if the download should be repaired.
        """
        with self._guard:
            while not (first := self._has_first) and len(self._ready.items) < _ENOUGH_ITEMS:
                if not await self._advance(_ITEMS, items=True):
                    break
                await self._turn.pause_if_over()
            self._first = next(iter(self._ready.items), None)
            self._walker.hands_out_nodes = False  # most calls want records alone, which is faster
            if not first and isinstance(self._error, (DownloadBroken, TornExport)):
                self._raise_if_failed()

    @property
    def _has_first(self) -> bool:
        return any(not isinstance(each, TreeNode) for each in self._ready.items)

    async def check_whole(self, ranges: KeyRanges) -> None:
        """Check that no block is missing that a walk needs. All has to have been read.

        Other faults are left to the walk.

        Args:
            ranges: the keys that it walks.

        Raises:
            TornExport: if one is missing.
        """
        with self._guard:
            await self._gather()
            # Any: of whatever results, which are not used.
            walker: Walker[Any] = Walker(self._root, bytes, self._options.limits, ranges)
            blocks = self._own_blocks()
            try:
                while not walker.done:
                    await self._check_some(walker, blocks)
                    await self._turn.pause_if_over()
            except (NodeError, LimitExceeded, ProcessError):
                return

    async def _check_some(self, walker: Walker[T], blocks: Blocks[T]) -> None:
        try:
            taken = walker.take(blocks, _RECORDS)
            if not taken.keys and not walker.done:
                await self._supply_next(walker, blocks, FETCH)
        except (ProcessError, UncheckableBlock) as error:
            if error.key is None:  # the tree has it as a node
                raise
            walker.skip_record()

    async def check_file(self, path: Path, spill: Spill) -> None:
        """Check that a copy of the whole download lacks no block, unless the walk has shown that.

        The copy is read again in its place, so this takes little memory, whatever the walk needed.
        Other faults are no reason not to keep it.

        Args:
            path: the copy.
            spill: where the places of its blocks go if they do not fit in memory.

        Raises:
            TornExport: if it lacks one.
        """
        if self._walker.done and self._reads_each and not self.problem_count:
            return
        told = self._options
        options = DriverBuilder(
            block_processor=length,
            mem_limit_mb=told.mem_limit_mb,
            limits=told.limits,
            verify_cids=False,  # that was done when they came
        )
        async with streamed(options, path, spill, drain=False, kind=StreamDriver[int]) as driver:
            try:
                while await driver.next_columns(_RECORDS) is not None:
                    pass
            except MissingBlock as error:
                raise self._torn(error) from None
            except (NodeError, LimitExceeded):
                return

    # --- What is counted ------------------------------------------------------------------------

    def _take(self, n: int) -> Taken[T]:
        taken = super()._take(n)
        self.taken += len(taken.keys)
        return taken

    def _take_items(self, n: int) -> list[TreeNode | Output[T]]:
        items = super()._take_items(n)
        self.taken += sum(isinstance(each, Output) for each in items)
        return items

    def _take_keys(self, n: int) -> tuple[list[str], list[bytes]]:
        self._reads_each = False
        keys, cids = super()._take_keys(n)
        self.taken += len(keys)
        return keys, cids

    # --- What errors say ------------------------------------------------------------------------

    async def _supply_next(
        self, walker: Walker[T], blocks: Blocks[T], n: int, *, records: bool = True
    ) -> None:
        try:
            with self._breaking_off():
                await super()._supply_next(walker, blocks, n, records=records)
        except MissingBlock as error:
            if type(error) is not MissingBlock or self._origin is None:
                raise
            if self._is_unneeded(walker, self._origin.key):
                walker.gap()
                return
            if not self._origin.whole:
                raise
            raise self._torn(error) from error.__cause__

    def _torn(self, missing: MissingBlock) -> TornExport:
        """Return the error that says that the server left out a block."""
        return TornExport(
            cid=missing.cid,
            kind=missing.kind,
            key=missing.key,
            did=self.commit.did,
            rev=self.commit.rev,
            records=self.taken,
        )

    def _is_unneeded(self, walker: Walker[T], key: str | None) -> bool:
        """Return whether a proof of a key can do without the node that a walk stands before.

        Other walks look for other keys, about which the depth of this one says nothing.
        """
        return key is not None and walker is self._walker and walker.is_too_low_for(key.encode())

    async def _end(self) -> None:
        with self._breaking_off():
            await super()._end()

    async def _gather(self) -> None:
        with self._breaking_off():
            await super()._gather()

    @contextmanager
    def _breaking_off(self) -> Generator[None]:
        """Raise the error of a download if its body ends too early, but as if that were its end."""
        try:
            yield
        except TruncatedCar as error:
            if self._origin is None:
                raise
            raise DownloadBroken(
                url=self._origin.url,
                received=self.bytes_read,
                records=self.taken,
                reason="it ended in the middle of a block",
            ) from error

    # --- Going elsewhere ------------------------------------------------------------------------

    async def _go_to(self, key: bytes) -> None:
        self._reads_each = False
        items = self._ready.items
        if not self._is_untouched or key < self._first_from:
            await super()._go_to(key)
            return
        # Nodes are kept, as they come before what is left, and would not come again.
        left = [each for each in items if isinstance(each, TreeNode) or _is_from(key, each)]
        if all(isinstance(each, TreeNode) for each in left):
            await super()._go_to(key)
        self._ready.items = left
        self._first, self._first_from = next(iter(left), None), key

    @property
    def _is_untouched(self) -> bool:
        """Whether what `fetch_first` took is still there, so that nothing has been returned yet."""
        items = self._ready.items
        if self._error is not None or not items or items[0] is not self._first:
            return False
        return not any(isinstance(each, Gap) for each in items)  # it may have no key to compare


def _is_from(key: bytes, item: TreeNode | Output[Any] | Gap) -> bool:
    return isinstance(item, Output) and item.key.encode() >= key
