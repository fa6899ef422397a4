"""Joining a kept CAR with the slices that a server has sent since: the newest repo, as one CAR."""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Unpack

from repo_stream.car.source import Source
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.destination import check_spill
from repo_stream.drivers.joined import JoinedReader
from repo_stream.drivers.keywords import OrderKeywords, Spill, takes
from repo_stream.drivers.stream import StreamDriver, piece_size, streamed
from repo_stream.errors import IncompleteJoin, MissingBlock
from repo_stream.limits import Limits
from repo_stream.mst.commit import Commit
from repo_stream.ordering import OrderedCar

__all__ = ["join_cars"]


@takes(OrderKeywords)
def join_cars(
    base: Source, *slices: Source, **keywords: Unpack[OrderKeywords]
) -> AbstractAsyncContextManager[OrderedCar]:
    """Join the CAR of a repo with slices of it: the newest repo, in streamable order.

    Keep a repo up to date without fetching all of it again: call `com.atproto.sync.getRepo` with
    `since`, the rev of the CAR that you have (`load_commit`), and join the answer. An answer that
    has nothing new (`NothingNew`) changes nothing.

    It also heals a download that was torn: if an account writes while a server sends its repo, the
    server may leave out blocks that it has deleted meanwhile, and the response ends as if it were
    complete. Then a walk raises `MissingBlock`. The slice since the rev of that CAR has all that
    replaced them. If that is torn as well, fetch it again, and join any number of slices.

    The newest of the commits, by rev, decides what the repo is, whatever the order of the slices,
    so an old slice does not undo anything. The tree is walked from this commit, and each block that
    it needs is taken from whichever file has it. So a slice need not have a commit if its root is
    that of another file, and may be the answer to `com.atproto.sync.getBlocks`, which has no root.
    The base may lack its commit, as a server may have deleted that, too; but its rev is not known
    then, so only you can tell whether the slices are newer. Blocks that the newest repo does not
    need are dropped. Everything is checked as by `order_car`, and the output is exactly what that
    makes of the server's complete CAR of the newest repo. The signature of the newest commit is not
    checked; see `Commit.verify_signature`.

    All sources are opened at the beginning. The slices are read before the base, but for its first
    piece. If the base is in streamable order, as the output is, only the blocks of the slices have
    to be kept in memory.

    Args:
        base: the CAR of the repo; see `Source`. It is not closed; only the file of a path is opened
            and closed here.
        *slices: what has changed since, in any order.
        **keywords: as of `order_car`, with their defaults

            - `mem_limit_mb=16`: how much memory the blocks may take before they go to disk, in MiB.
            - `spill=None`: where they go: the path of a database, which is emptied before and
              after; a `DiskStore`, which is empty again at the end and stays open; `None`, a
              temporary file; or `False`, nowhere.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on each input and on the output; `None` is `Limits()`.

    Returns:
        A context manager that returns the `OrderedCar`, which is also a source for `open_car`. Its
        `commit` is the newest, and it counts the blocks of all inputs. Entering it reads the inputs
        as far as their commits.

    Raises:
        CarError, CidMismatch, LimitExceeded: if one of the inputs cannot be read. The attribute
            `source` of the error names it, as a note does for all errors of an input.
        OtherAccount: if two of the inputs are of different accounts.
        ConflictingCommits: if the two newest commits have the same rev.
        CommitError: if a commit is not valid, or if that of a slice is in none of the inputs;
            `NothingNew` if that slice has no block at all.
        MemLimitExceeded, DiskError, OSError, TypeError: as by `order_car`.

        While it is read, `OrderedCar` raises `IncompleteJoin` if a block is in none of the inputs.

    Example:
        >>> async def updated(kept: Source, since: Source) -> bytes:
        ...     async with join_cars(kept, since) as car:
        ...         return b"".join([piece async for piece in car])
    """
    builder = DriverBuilder(
        mem_limit_mb=keywords["mem_limit_mb"],
        verify_cids=keywords["verify_cids"],
        limits=keywords["limits"],
    )
    check_spill(keywords["spill"])
    return _joined(builder, (base, *slices), keywords["spill"])


@asynccontextmanager
async def _joined(
    builder: DriverBuilder[bytes], sources: Sequence[Source], spill: Spill
) -> AsyncGenerator[OrderedCar]:
    reader = await JoinedReader.open(
        sources,
        limits=builder.limits,
        verify_cids=builder.verify_cids,
        piece_size=piece_size(builder.mem_limit_mb),
    )
    async with streamed(
        builder, reader, spill, drain=True, counting=True, kind=StreamDriver[bytes]
    ) as driver:
        yield _JoinedCar(driver.commit, driver, builder.limits, reader)


class _JoinedCar(OrderedCar):
    """An `OrderedCar` of several CARs: a missing block is an `IncompleteJoin`."""

    def __init__(
        self, commit: Commit, driver: StreamDriver[bytes], limits: Limits, reader: JoinedReader
    ) -> None:
        super().__init__(commit, driver, limits)
        self._reader = reader

    async def _take_more(self) -> bool:
        try:
            return await super()._take_more()
        except MissingBlock as error:
            if type(error) is not MissingBlock:
                raise
            commit = self._reader.base_commit
            self._error = IncompleteJoin(
                cid=error.cid,
                kind=error.kind,
                key=error.key,
                since=None if commit is None else commit.rev,
            )
            raise self._error from None
