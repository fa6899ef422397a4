"""Writing a repo to its log: first what is in memory, and then the rest of the CAR as it is read.

If the source is the path of a file, that file is the log, and nothing is written.

Blocks are written as sections, and results that a processor has made as sections of the dumped
bytes. A few blocks or results are added at a time, and the log is written whenever there is enough
for a large write.

`load_to_disk` does all of it for a repo that is being loaded. `LogStart` writes what is in memory
while a walk goes on. It can be cancelled, and is resumed by the next call: what has to be written
is removed from its list when it has been added to the log, and nothing is awaited in between.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from repo_stream.car.damage import forget_traces
from repo_stream.car.decoder import Block
from repo_stream.drivers.loading import BATCH, Loading, Unstored
from repo_stream.drivers.piece import Piece, starts_of
from repo_stream.drivers.released import Marks, Released
from repo_stream.errors import ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.process import as_bytes
from repo_stream.store.repo_log import RepoLog

__all__ = ["LogStart", "load_to_disk", "read_to_log"]

T = TypeVar("T")

# Blocks to take out of memory at a time, to be written.
_WRITE_BLOCKS: Final = 1000

# How many results that cannot be stored are ignored, as their blocks may not be records at all. If
# there are more, it is the processor whose results cannot be stored.
_MOST_UNSTORED: Final = 100


async def load_to_disk(loading: Loading[T], log: RepoLog) -> None:
    """Move the blocks in memory to the log, and then read the rest of the file to it.

    Raises:
        ProcessError: if too many results cannot be stored.
        DiskError: if the store fails.
        RepoStreamError: if the file cannot be read.
    """
    store = loading.store
    if log.is_the_car:
        store.drop()
    while not store.empty:
        raw, results = store.drain(_WRITE_BLOCKS, log.write_size)
        log.add(raw)
        while results:
            await _dump_results(loading, log, results)
            await log.keep_up()
        await log.keep_up()
    if not log.is_the_car:
        log.follow()
    loading.log = log
    await log.index()
    await read_to_log(loading, log)


async def read_to_log(loading: Loading[T], log: RepoLog) -> None:
    """Read the rest of the file, which goes to the log."""
    while await loading.next_columns() is not None:
        await loading.turn.pause_if_over()
    await log.seal()


async def _dump_results(loading: Loading[T], log: RepoLog, results: list[tuple[bytes, T]]) -> None:
    """Add some results to the log, from the end of the list, and remove them from it.

    Those that cannot be stored are remembered in `Loading.unstored`.

    Raises:
        ProcessError: if they are too many.
    """
    dumps = loading.processor.dumps
    dumped: list[Block] = []
    taken, room = 0, log.write_size
    for cid, value in reversed(results[-BATCH:]):
        if room <= 0:
            break
        taken += 1
        try:
            data = as_bytes(dumps(value))
        except Exception as error:
            message = _cannot_store(value, error)
            if len(loading.unstored) == _MOST_UNSTORED and cid not in loading.unstored:
                raise ProcessError(message, key=None, cid=Cid(cid)) from error
            forget_traces(error)
            loading.unstored[cid] = Unstored(message, error)
        else:
            dumped.append((cid, data))
            room -= len(data)
    log.add(dumped, results=True)
    del results[-taken:]
    await loading.turn.pause_if_over()


def _cannot_store(value: object, error: Exception) -> str:
    return (
        f"the processor's result, a {type(value).__qualname__}, cannot be stored on disk: {error}; "
        "return plain values, or use Processor(..., dumps=..., loads=...)"
    )


class LogStart(Generic[T]):
    """Starts the log of a repo that is streamed.

    Args:
        loading: reads the CAR, and has the kept blocks.
        log: the log.
        released: released blocks. They are written and removed.
        piece: the blocks that were read last. Those that are left are written.
        passed: the sections that the walk has gone past without using them, to be added to.
        counted: the sections that the walk has used, to be added to; `None` if they are not
            counted.
    """

    def __init__(
        self,
        loading: Loading[T],
        log: RepoLog,
        *,
        released: Released,
        piece: Piece,
        passed: Marks,
        counted: Marks | None,
    ) -> None:
        self._loading = loading
        self._log = log
        self._released = released
        self._piece = piece
        self._passed = passed
        self._counted = counted
        #: Whether it has started to write, and is not finished.
        self.under_way: bool = False
        #: The error if too many results cannot be stored. It matters only if they have to leave
        #: the memory.
        self.unstorable: ProcessError | None = None
        # The kept blocks and results that are still to be written.
        self._cids: list[bytes] = []
        self._results: list[tuple[bytes, T]] = []

    async def run(self) -> None:
        """Write what is in memory to the log; from then on the log follows the CAR."""
        if not self.under_way:
            raw, processed = self._loading.store.blocks.raw, self._loading.store.blocks.processed
            self._cids = [*raw]
            self._results = [] if processed is raw else [*processed.items()]
            self.under_way = True
        await self._write_released()
        await self._write_blocks()
        await self._write_results()
        self._follow_car()
        self.under_way = False

    async def _write_released(self) -> None:
        log = self._log
        while self._released.blocks:
            some, passed = self._released.take(BATCH)
            for (cid, _), start in zip(some, starts_of(some, log.end), strict=True):
                if cid in passed:
                    self._passed.add(start)
                elif self._counted is not None:
                    self._counted.add(start)
            log.add(some)
            await self._keep_up()

    async def _write_blocks(self) -> None:
        raw, cids = self._loading.store.blocks.raw, self._cids
        while cids:
            some: list[Block] = []
            size = 0
            for cid in cids[: -BATCH - 1 : -1]:
                some.append((cid, raw[cid]))
                size += len(some[-1][1])
                if size >= self._log.write_size:
                    break
            self._log.add(some)
            del cids[-len(some) :]
            await self._keep_up()

    async def _write_results(self) -> None:
        while self._results and self.unstorable is None:
            try:
                await _dump_results(self._loading, self._log, self._results)
            except ProcessError as error:
                self.unstorable = error
            await self._log.keep_up()
        self._results = []

    async def _keep_up(self) -> None:
        await self._log.keep_up()
        await self._loading.turn.pause_if_over()

    def _follow_car(self) -> None:
        """Append what is left of the piece to the log, and from now on all that is read."""
        log, start = self._log, self._log.end
        log.add(self._piece.rest())
        log.follow()
        self._loading.log = log
        self._piece.move(start, log.offset)
