# Written by tests/support/sync_stub.py from the declarations of the async face; do not edit it.
# `T` is a decoded record without a processor.
# pyright: reportInvalidTypeVarUse=false
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, Literal, Self, Unpack, overload

import httpx
from typing_extensions import TypeVar

from repo_stream.car.damage import Damage
from repo_stream.drivers.base import Problem
from repo_stream.drivers.keywords import OpenKeywords, OrderKeywords
from repo_stream.drivers.order import BlockOrder
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.ipld.cid import Cid
from repo_stream.limits import Limits
from repo_stream.mst.commit import Commit
from repo_stream.mst.results import Absent, Gap, Output, Present, RangeProof, Taken, TreeNode
from repo_stream.network.account import Account
from repo_stream.network.resolvers import NameResolver
from repo_stream.network.web import Clock
from repo_stream.process import BlockProcessor
from repo_stream.sync.sources import Source as Source

# Any: a record's values are of any type of the data model.
T = TypeVar("T", default=dict[str, Any])

class RepoKeywords(OpenKeywords, total=False):
    """The keywords of `open_repo`, but for those that its overloads are about."""

    network: Network | None
    keep: str | os.PathLike[str] | None
    earlier_keys: bool
    retries: int

class Repo(Generic[T]):
    """An open repo, of which as much has been read as was needed so far; `open_car` makes it.

    It walks the repo: see `RepoDriver` for the ways to read records, and `StreamDriver` for what is
    known about the file so far. `commit` is the repo's commit. Its signature has not been checked.
    """
    @property
    def order(self) -> BlockOrder:
        """In which order the blocks have come so far."""
    @property
    def spilled(self) -> bool:
        """Whether the repo did not fit in memory and has gone to disk."""
    @property
    def in_place(self) -> bool:
        """Whether blocks are read again in the CAR's own file if they do not fit in memory.

        It must be the path of a regular file that is not compressed. From all other sources, blocks
        are copied.
        """
    @property
    def blocks_read(self) -> int:
        """How many blocks of the file have been read so far, counting every copy."""
    @property
    def blocks_unchecked(self) -> int:
        """How many of them could not be checked against their CIDs, and so were left out.

        The hash functions of their CIDs are not known here. If the tree names one of them, that is
        an `UncheckableBlock`.
        """
    @property
    def bytes_read(self) -> int:
        """How many bytes of the file have been read so far, up to the end of a block."""
    @property
    def fully_read(self) -> bool:
        """Whether the file has been read to its end."""
    @property
    def left_over(self) -> int | None:
        """How many blocks the walk did not need; `None` until the file has been read to its end.

        It is also `None` if the repo went to disk before the walk had ended.
        """
    def read_all(self) -> None:
        """Read the file to its end, check its blocks, and keep them, in memory or on disk.

        Raises:
            CarError, CidMismatch, LimitExceeded: if the file cannot be read.
            MemLimitExceeded, DiskError: if its blocks cannot be kept.
        """
    def close(self) -> None:
        """End the walk, and close what was opened for it. Afterwards it raises `StoreClosed`."""
    commit: Commit
    @property
    def problems(self) -> Sequence[Problem]:
        """The records that were skipped or yielded as errors so far: the first 1,000 of them.

        A record that the walk passes again, after a `seek` back, is counted again.
        """
    @property
    def problem_count(self) -> int:
        """How many records were skipped or yielded as errors so far."""
    @property
    def damage(self) -> Sequence[Damage]:
        """What is damaged in the CAR, as far as it has been read: the first 1,000.

        It is empty unless the driver goes past damage; see `DriverBuilder.with_gaps` and
        `DriverBuilder.with_on_error`. What has no `offset`, such as a node that breaks a rule, is
        listed once for each place that it has in the tree.
        """
    @property
    def damage_count(self) -> int:
        """How much damage was found in the CAR so far."""
    @property
    def damage_repaired(self) -> int:
        """How much of it was repaired, so that nothing is lost by it; see `Damage.repaired`."""
    def next_chunk(self, n: int = 256) -> list[tuple[str, T]] | None:
        """Return the next records, in key order, as pairs of key and value.

        Args:
            n: how many records to return. There are fewer only at the end, and before an error.

        Returns:
            Pairs `(key, value)`; `None` at the end, and in every call after it. If two keys name
            one record, they share one value, unless it is made during the walk.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            NodeError: if the tree breaks a rule; see its subclasses.
            MissingBlock: if a block that the tree names is not in the CAR.
            ProcessError: if the processor failed on a record.
            LimitExceeded: if a key or a node exceeds its limit.
            DiskError: if the store fails.
            CarChanged, OSError: if the repo is read again in its own file, and the file was changed
                meanwhile or cannot be read. Every call that needs blocks can raise them.
            CarError, CidMismatch, LimitExceeded, MemLimitExceeded, BlockReleased: if the repo is
                walked while its CAR is read, as by `open_car`, and the file cannot be read on, or
                its blocks do not fit in memory and may not spill to disk. Every call that reads on
                can raise them.
            anyio.BusyResourceError: if another thread is waiting for records of this driver.

            Records before an error are returned first, and every call that walks on raises it
            again.
        """
    def next_outputs(self, n: int = 256) -> list[Output[T]] | None:
        """Do the same as `next_chunk`, with the CID of each record."""
    def next_keys(self, n: int = 256) -> list[tuple[str, Cid]] | None:
        """Return the next keys, in order, each with the CID of its record; `None` at the end.

        No record is read, processed or needed. It starts where the last call of any kind ended, and
        the next call of any kind starts where it ends. With `DriverBuilder.with_gaps`, a missing
        subtree has the key `""` and the CID of its top node.

        Args:
            n: how many keys to return. There are fewer only at the end, and before an error.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
        """
    def next_columns(self, n: int = 256, *, records: bool = True) -> Taken[T] | None:
        """Do the same as `next_outputs` in columns, which suits code that makes tables.

        An object for each record would take longer than to read it.

        Args:
            n: how many records to return. There are fewer only at the end, and before an error.
            records: read the records; without them, do the same as `next_keys`.

        Returns:
            Three lists: `keys`, `cids`, which are plain `bytes`, and `values`, which is empty
            without records. `None` at the end.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            RepoStreamError: as `next_chunk` or `next_keys` do.
        """
    def next_items(self, n: int = 256) -> list[TreeNode | Output[T] | Gap] | None:
        """Return the next items of the tree: records, and the raw nodes, each before its subtree.

        With these items in this order after its commit, a repo can be written in another form. It
        starts where the last call of any kind ended, and the next call of any kind starts where it
        ends. Nodes are not repeated if another call went past them, or read them ahead on disk.

        Args:
            n: how many items to return. There are fewer only at the end, and before an error.

        Returns:
            `TreeNode`, `Output`, and with `DriverBuilder.with_gaps` also `Gap`; `None` at the end.

        Raises:
            TypeError, ValueError: if `n` is not a whole number, or less than 1.
            NodeError, MissingBlock, ProcessError, LimitExceeded, DiskError: as in `next_chunk`.
        """
    def seek(self, key: str | bytes) -> None:
        r"""Go on from a key, forward or back: the first key that is equal or greater comes next.

        This restarts a walk that has ended, and goes past an error, which is raised again if it is
        still in the way. Keys outside the builder's key ranges are still left out.

        Args:
            key: a key or the beginning of one, such as `app.bsky.feed.post/3k`, `app.bsky.feed.`
                or `""`, even if the repo has no such record. It can also be the `at://` URI of a
                record, a collection or the account. Bytes can be any UTF-8 at all.

        Raises:
            TypeError: if `key` is neither text nor bytes.
            ValueError: if `key` is text that no key begins with, such as an rkey without its
                collection, or bytes that are not UTF-8, or a URI of another account; see `get`.
            DiskError: if a call has raised it before; no `seek` goes past it.
            CarError, LimitExceeded, MemLimitExceeded, OSError: as in `next_chunk`, if the rest of
                the CAR has to be read for it.

        Example:
            >>> def after(driver: RepoDriver[bytes], key: str) -> list[tuple[str, bytes]]:
            ...     driver.seek(key.encode() + b"\0")
            ...     return driver.next_chunk() or []
        """
    def get(self, key: str | bytes) -> Output[T] | None:
        """Return one record, whatever the position of the walk and the builder's key ranges.

        Errors are raised, whatever `with_on_error` says.

        Args:
            key: the key of the record, `collection/rkey`, or its URI, `at://DID/collection/rkey`.
                Bytes can be any UTF-8 at all: some repos have keys that break the rules.

        Returns:
            The record, or `None` if the tree proves that the repo has none with that key; see
            `prove`.

        Raises:
            TypeError: if `key` is neither text nor bytes.
            ValueError: if `key` is text that is not a key, such as an rkey without its collection,
                or bytes that are not UTF-8; or if it is a URI that does not name the DID of this
                repo: that of another account, or one with a handle.
            NodeError, LimitExceeded: if a node on the way breaks a rule.
            IncompleteRange: if a node that the proof needs is not in the CAR, as in a slice.
            MissingBlock: if the record is not in the CAR.
            ProcessError: if the processor failed on the record.
            DiskError: if the store fails.
            CarError, LimitExceeded, MemLimitExceeded, OSError: as in `next_chunk`, if the rest of
                the CAR has to be read for it.
        """
    def prove(self, key: str | bytes) -> Present | Absent:
        """Return whether the repo has a record with a key, proven by the nodes that lead there.

        The records themselves are not needed. Together with the commit's signature
        (`Commit.verify_signature`), this proves what the account has published, whoever made the
        CAR.

        A key has a depth by its hash alone (`key_depth`), and a valid tree has it in a node of that
        depth or not at all. So the nodes from the root down to that depth are enough: if the last
        of them does not have the key, no node below it does. Some servers cut their proofs there.
        Nodes below are checked if they are in the CAR, and an error is raised if one of them breaks
        a rule. But a proof that ends above them does not say that they are valid: a repo whose
        author has put a key at a wrong depth is only found out by a reader who has the node.

        Args:
            key: a key, or the URI of a record; see `get`.

        Raises:
            TypeError, ValueError: if `key` is not a key, or a URI of another account; see `get`.
            IncompleteRange: if a node at the depth of the key or above is not in the CAR, as in a
                slice. The error has the CID of that node.
            NodeError, LimitExceeded: if a node on the way breaks a rule.
            DiskError, CarError, MemLimitExceeded, OSError: as in `get`.
        """
    def prove_range(self, start: str = "", stop: str | None = None) -> RangeProof:
        r"""List the keys from `start` to before `stop`, with the proof that there are no others.

        All of them are held in memory at once. The builder's key ranges do not matter. No node is
        needed for an empty range, and the proof of one names no key. For a range of one key, from
        `key` to before `key + "\0"`, the nodes that `prove` needs are enough. Any other range needs
        all nodes between its bounds.

        Args:
            start: the first key, or the beginning of one, or any other text, but no URI.
            stop: the first key beyond the range; `None` for the end of the repo.

        Raises:
            TypeError: if one of them is not text.
            ValueError: if `stop` is less than `start`, or if one of them is an `at://` URI.
            IncompleteRange, NodeError, LimitExceeded, DiskError, CarError, MemLimitExceeded,
                OSError: as in `prove`.
        """
    def collections(self, *, whole_repo: bool = False) -> list[str]:
        """List the collections that have records, in the order of their first keys.

        This looks up the first key of each collection and skips the rest. A key without a slash, or
        with nothing before it, which breaks the rules, is in no collection: the empty name `""`
        stands for all of those, as it does in `Output.collection`.

        Args:
            whole_repo: list all collections of the repo, not only those within the builder's key
                ranges.

        Raises:
            NodeError, MissingBlock, LimitExceeded, DiskError: as in `next_chunk`, for nodes alone.
            CarError, MemLimitExceeded, OSError: as in `get`.
            TypeError: if `whole_repo` is not a `bool`.
        """
    def __iter__(self) -> Self: ...
    def __next__(self) -> tuple[str, T]:
        """Return the next record as a pair of key and value."""
    def outputs(self) -> Iterator[Output[T]]:
        """Iterate over the records that are left, as `Output`.

        Raises:
            AlreadyWalked: if a loop over them begins when the walk is over.
        """

class AccountRepo(Repo[T]):
    """The repo of an account, of which as much has been downloaded as was needed so far.

    `open_repo` makes it. It walks the repo as any `Repo` does. Its `commit` is of the account, and
    its signature has been checked.

    If the download breaks off, that is a `DownloadBroken`. If a block of a whole repo is missing,
    that is a `TornExport`, also in a proof, for which a `Repo` raises `IncompleteRange`.
    """
    @property
    def account(self) -> Account:
        """The account, as it was found when the download began."""
    @property
    def signed_by(self) -> str:
        """The key that signed the commit, as a `did:key`.

        It is that of the account, or with `earlier_keys`, one that the account had before.
        """
    @property
    def complete(self) -> bool:
        """Whether all was read, by a walk to its end or by `read_all`, and nothing was wrong."""
    def read_all(self) -> None:
        """Read the download to its end, check its blocks, and keep them, in memory or on disk.

        Raises:
            DownloadBroken, TooSlow: if it breaks off, or is given up.
            CarError, CidMismatch, LimitExceeded: if it cannot be read.
            MemLimitExceeded, DiskError: if its blocks cannot be kept.
        """

class OrderedCar:
    """A CAR in streamable order: an iterator over its pieces.

    `order_car` makes it, and `join_cars`, whose input is several CARs.

    If Ctrl-C interrupts a call, nothing is lost, and the next call returns the piece. If an error is
    raised, every further call raises it again. It is written once: a loop that begins after the end
    raises `AlreadyWalked`.

    Attributes:
        commit: the repo's commit. Its signature has not been checked.
        blocks_written: how many blocks are in the pieces so far and in the next one.
        bytes_written: how many bytes they have, with the header.
    """

    commit: Commit
    blocks_written: int
    bytes_written: int
    @property
    def blocks_read(self) -> int:
        """How many blocks of the input have been read so far, counting every copy."""
    @property
    def bytes_read(self) -> int:
        """How many bytes of the input have been read so far, up to the end of a block."""
    @property
    def fully_read(self) -> bool:
        """Whether the input has been read to its end."""
    @property
    def dropped(self) -> int | None:
        """How many blocks of the input were not used; `None` until it has been read to its end.

        They are blocks that the repo does not need, and copies. If several keys name a record, it
        is written for each of them. A copy in the input that does not come where such a key comes
        counts as dropped, although the record is written there.
        """
    @property
    def order(self) -> BlockOrder:
        """In which order the blocks of the input have come so far."""
    @property
    def in_place(self) -> bool:
        """Whether blocks are read again in the input's own file; see `StreamDriver.in_place`."""
    @property
    def spilled(self) -> bool:
        """Whether the repo did not fit in memory and has gone to disk."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes:
        """Return the next piece: 256 KiB and up to a block more, or what is left.

        The last piece is returned when the input has been read and checked to its end.

        Raises:
            CarError, CidMismatch, NodeError, MissingBlock, MemLimitExceeded, DiskError: if the
                input cannot be read.
            LimitExceeded: if the input or the output exceeds one of the limits.
        """

class Network:
    """Finds accounts, and keeps what it found for a time. `open_repo` and `get_record` use one.

    Use it in `with`, or call `close`. Several threads can use it at once.

    Args:
        client: the `httpx.AsyncClient` to send requests by, with its proxies and certificates. It
            is never closed here, and nothing of it is sent but its user agent. By default, one of
            its own, which connects to addresses that it has checked, and uses no proxy.
        directory: the URL of the PLC directory.
        resolver: looks up names in the DNS; by default the name servers of the system do. See
            `NameResolver` for its two methods. It looks up the addresses of servers only if there
            is no `client`.
        handle_server: the URL of a server that knows the handles below `.test`, which the DNS does
            not, by `com.atproto.identity.resolveHandle`. Only with `allow_private`.
        allow_private: allow http, all ports, addresses that are not public, and handles below
            `.test`. Strangers can then make this program send requests to your own network.
        patience: how long a request is tried again if a server is busy or failing, in seconds.
        keep_seconds: how long to keep what was found, in memory.
        keep_errors_seconds: how long to keep an error.
        keep_names: how many DIDs to keep, and how many handles: those that were asked for last. Of
            DIDs there are fewer if their documents take more than 4 KiB of memory on average.
        clock: the time, for tests.

    Attributes:
        directory: the URL of the PLC directory, without a slash at its end.
        allow_private: as it was passed.
        web: fetches documents and repos by the same client and rules.

    Raises:
        MissingExtra: if `httpx` is not installed.
        TypeError: if an argument is of a wrong type.
        ValueError: if a number is negative, or a URL is none.

    Example:
        >>> def server_of(who: str) -> str:
        ...     with Network() as network:
        ...         account = network.resolve(who)
        ...         return account.pds
    """

    directory: str
    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        *,
        directory: str = "https://plc.directory",
        resolver: NameResolver | None = None,
        handle_server: str | None = None,
        allow_private: bool = False,
        patience: float = 60.0,
        keep_seconds: float = 86400.0,
        keep_errors_seconds: float = 120.0,
        keep_names: int = 1000,
        clock: Clock | None = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def close(self) -> None:
        """Close the connections, but leave a caller's client alone."""
    def resolve(self, who: str, *, fresh: bool = False) -> Account:
        """Find an account.

        Redirects of documents and of the well-known files of handles are not followed. So a handle
        that has no TXT record, and whose host redirects to another, is not found.

        Args:
            who: its handle, its DID (a `did:plc` or a `did:web`), or an `at://` URI of the account
                or in its repo.
            fresh: look everything up again, also what is kept.

        Returns:
            The account. Its handle is checked both ways: the account claims it, and it leads to the
            account. If it does not, the account has no handle.

        Raises:
            BadName: if `who` is none of these.
            HandleNotFound: if the handle leads to no account.
            AmbiguousHandle: if the DNS has several DIDs for it.
            HandleNotClaimed: if it leads to an account that does not claim it.
            DidNotFound: if there is no such DID.
            DidTombstoned: if it was deleted for good.
            BadDocument: if its document is of another DID, or no DID document.
            NoServer: if its document names no server.
            NoSigningKey: if its document has no key that can sign a repo.
            NetworkError: any other, if a server does not answer as it should.
            MissingExtra: if `dnspython` is not installed.
            TypeError: if `who` is not a text.
        """
    def audit_log(self, did: str) -> list[object]:
        """Return all operations on a DID that the directory has, the oldest first.

        It is fetched each time. `earlier_keys=True` of `open_repo` uses it.

        Args:
            did: a `did:plc`, or a `did:web`, which has no such log.

        Returns:
            The operations, decoded from JSON, as https://web.plc.directory/api/redoc has them; none
            for a `did:web`.

        Raises:
            BadName: if it is not such a DID.
            DidNotFound: if the directory does not know it.
            NetworkError: any other, if the directory does not answer as it should.
            TypeError: if `did` is not a text.
        """

@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> AbstractContextManager[Repo[T]]:
    """Open a repo and walk it while its CAR is read; everything is closed at the end.

    The first record comes with the first piece of the file, if the order of its blocks allows that,
    and nothing is read before it is needed, so a slow loop slows down the download. An error in the
    file is raised where it is found, after the records before it. With `check_first` the whole file
    is checked before the first record.

    Args:
        source: see `Source`. It is not closed; only the file of a path is opened and closed here.
            Blocks that do not fit in memory are read again in such a file, so do not write to it
            meanwhile. If you pass an open file instead, they are copied; and so they are if the
            file is compressed with gzip or zstd, which is decompressed as it is read. zstd takes up
            to 8 MiB for that, beside the memory limit: 2 MiB if the file was compressed by default.
        block_processor: what to make of each record; see `DriverBuilder.with_block_processor`. The
            default, `record`, decodes it to a `dict`; `noop` leaves it as it is, as bytes.
        on_error: see `DriverBuilder.with_on_error`.
        gaps: go past missing blocks, as in a slice, and past damage, which is listed in
            `Repo.damage`; with `"all"`, also past nodes that break a rule. That gets everything out
            of a damaged file that can be reached; see `DriverBuilder.with_gaps`. A gap does not
            mean that the record under its key is an old one; an example there tells what is new.
        **keywords: with their defaults

            - `mem_limit_mb=16`: how much memory the repo may take before it goes to disk, in MiB.
            - `spill=None`: where blocks go that do not fit in memory: the path of a database, which
              is emptied before and after; `None`, a temporary file; or `False`, nowhere.
            - `collections=None`: see `DriverBuilder.with_collections`; `None` is all of them.
            - `key_range=None`: `(start, stop)`, see `DriverBuilder.with_key_range`.
            - `prefix=None`: see `DriverBuilder.with_prefix`.
            - `drain=True`: read the file to its end when the walk is over, and check the rest too.
            - `check_first=False`: read and check the whole file before the first record comes out.
              The tree is still checked as it is walked.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input; `None` is `Limits()`.

    Returns:
        A context manager that returns the `Repo`, to be used within it. Entering it reads the CAR
        as far as its commit, or to its end with `check_first`.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid; `NothingNew` if the file is the answer
            to `since` and nothing has changed.
        MemLimitExceeded: if the blocks before the commit exceed the limit, or with `check_first`
            those of the whole file, and `spill` is `False`.
        ProcessError: if results of the processor cannot be stored on disk.
        DiskError: if the store fails.
        OSError: if `source` is a path that cannot be opened or read, such as `FileNotFoundError`.
        TypeError: if `source` is not a supported source, if a keyword is of the wrong type, or if
            there is no such keyword.
        ValueError: if a name, a range or `on_error` is not valid.

    Example:
        >>> def texts(path: str) -> list[str]:
        ...     with open_car(path, collections=["app.bsky.feed.post"]) as repo:
        ...         return [post["text"] for key, post in repo]
    """

@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> AbstractContextManager[Repo[T | ProcessError | MissingBlock]]: ...
@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> AbstractContextManager[Repo[T | Gap]]: ...
@overload
def open_car(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> AbstractContextManager[Repo[T | ProcessError | MissingBlock | Gap]]: ...
@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> Generator[Output[T]]:
    """Iterate over the records of a repo, as `Output`: open it, read it, and close it at the end.

    This is `open_car` and its `outputs` in one. The file is opened when the first record is asked
    for, and closed when the loop ends. To leave such a loop early closes it as well, as soon as
    nothing refers to it. What is left out by `on_error="skip"` cannot be told here; use
    `open_car` and `Repo.problems`.

    Args:
        source: see `open_car`, as for all other arguments.
        block_processor: what to make of each record; `record` by default.
        on_error: see `DriverBuilder.with_on_error`.
        gaps: go past missing blocks and damage.
        **keywords: as of `open_car`, such as `mem_limit_mb=16` in MiB, or `collections=None`.

    Returns:
        A generator.

    Raises:
        TypeError, ValueError: as by `open_car`, at once. All else is raised by the loop.

    Example:
        >>> def print_likes(path: str) -> None:
        ...     for like in records(path, collections=["app.bsky.feed.like"]):
        ...         print(like.rkey, like.value["subject"]["uri"])
    """

@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = False,
    **keywords: Unpack[OpenKeywords],
) -> Generator[Output[T | ProcessError | MissingBlock]]: ...
@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> Generator[Output[T | Gap]]: ...
@overload
def records(
    source: Source,
    *,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[True, "all"],
    **keywords: Unpack[OpenKeywords],
) -> Generator[Output[T | ProcessError | MissingBlock | Gap]]: ...
def load_commit(
    source: Source, *, verify_cids: bool = True, limits: Limits | None = None
) -> Commit:
    """Read a CAR as far as its commit, to decide by `did` and `rev` whether to read the rest.

    Most files start with the commit, so one piece is enough: 4 KiB, or the first piece of a source
    that decides itself how long pieces are. If it comes later, pieces grow to 256 KiB. Its
    signature is not checked; see `Commit.verify_signature`.

    Args:
        source: see `Source`. What has been read of a stream is gone: open another one to read the
            repo.
        verify_cids: check the commit, and every block before it, against its CID.
        limits: limits on the input; `None` is `Limits()`.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid; `NothingNew` if the file is the answer
            to `since` and nothing has changed.
        OSError: if `source` is a path that cannot be opened or read.
        TypeError: if `source` is not a supported source.

    Example:
        >>> def is_news(source: Source, known_rev: str) -> bool:
        ...     return (load_commit(source)).rev > known_rev
    """

@overload
def open_repo(
    who: str,
    *,
    since: None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[False] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractContextManager[AccountRepo[T]]:
    """Open the repo of an account: it is found by its name, downloaded, checked, and walked.

    The account's document names its server, which sends the repo, and its key. Before the first
    record comes out, the commit is checked: it is that of the account, and signed by its key. As
    all blocks are checked against their CIDs, all records are the account's then. Otherwise this is
    like `open_car`: the repo is walked while it is downloaded, and no faster than your loop.

    What can be repaired is repaired before the first record comes out: a download that breaks off
    begins anew, and an account that has just moved is looked up again. Later there is an error,
    `DownloadBroken`. If an account writes while its server sends its repo, blocks can be missing
    (`TornExport`). With `check_first` that is found before the first record and repaired as well,
    by `join_cars` with what has changed; unless there are `gaps`, which go past what is missing.

    Args:
        who: a handle, such as `alice.example.com`; a `did:plc` or `did:web`; or an `at://` URI. If
            that has a collection, only that is walked, though the whole repo is downloaded. If it
            has a record, only that and its proof are downloaded; see `get_record`.
        since: a rev, as of `repo.commit.rev`: download only what has changed since. The rest is
            missing, so this turns `gaps` on: the values of records and subtrees that have not
            changed are a `Gap`. Damage is an error all the same, unless you turn them on yourself.
        block_processor: see `open_car`.
        on_error: see `open_car`.
        gaps: see `open_car`.
        **keywords: with their defaults; those of `open_car` first

            - `mem_limit_mb=16`: how much memory the repo may take before it goes to disk, in MiB.
            - `spill=None`: where blocks go that do not fit in memory.
            - `collections=None`: see `DriverBuilder.with_collections`; `None` is all of them.
            - `key_range=None`: `(start, stop)`, see `DriverBuilder.with_key_range`.
            - `prefix=None`: see `DriverBuilder.with_prefix`.
            - `drain=True`: read the download to its end when the walk is over.
            - `check_first=False`: download and check everything before the first record comes out,
              also that no block is missing that the walk needs, or with `keep`, none at all. For
              that, a temporary file has a copy of the download.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input; `None` is `Limits()`.
            - `network=None`: the `Network` that finds the account, which is not closed; `None` is a
              new one. Use one for several accounts: it keeps connections, and what it found.
            - `keep=None`: the path of a file in which to keep the CAR, exactly as it came, or if it
              had to be repaired, as `join_cars` writes it. The file appears when the block ends,
              if the download is complete: after a walk to the end, `check_first` or `read_all`. If
              a loop is left before, or if there is an error, nothing is kept, and a file that was
              there stays as it was. Unless all records were walked, the file is read once more
              then: if the server left out a block, that is a `TornExport`, and nothing is kept.
              With `check_first` it is repaired instead; with `gaps` it is kept as it is.
              This also reads the download to its end, as `drain` does.
            - `earlier_keys=False`: accept a signature by a key that the account had before, too. If
              an account has moved, its repo is signed by the earlier key until it writes.
              `repo.signed_by` is the key.
            - `retries=2`: how often a download is begun anew or completed, in all.

    Returns:
        A context manager that returns the `AccountRepo`, to be used within it: a `Repo` that also
        has the `account` and the key that signed the commit, `signed_by`. Entering it finds the
        account, and downloads as far as the first record, or everything with `check_first`.

    Raises:
        BadName: if `who` is none of that.
        NetworkError: if the account is not found (see `Network.resolve`), or if its server does not
            send its repo: `RepoNotFound`, `RepoTakendown`, `RepoSuspended`, `RepoDeactivated`,
            `RateLimited`, `ServerFailed`, `ServerUnreachable`, `TooSlow`, `DownloadBroken`,
            `AddressRefused`, `TooManyRedirects`.
        OtherAccountServed: if it sends the repo of another account.
        BadSignature: if none of the keys signed the commit.
        NothingNew: if nothing has changed `since`.
        RecordNotFound, IncompleteRange, NodeError: if `who` is the URI of a record: see
            `get_record`.
        TornExport: if blocks are missing, and that could not be repaired. If the CAR is kept, it
            may also be raised when the block ends; see `keep`.
        MissingExtra: if `httpx`, `dnspython` or `cryptography` is not installed.
        OSError: if the file to keep the CAR in cannot be written.
        ValueError: if a name is not valid, or if a URI and a keyword both say what to walk.
        CarError, CidMismatch, CommitError, LimitExceeded, MemLimitExceeded, DiskError, TypeError:
            as by `open_car`.

    Example:
        >>> def print_posts(who: str) -> None:
        ...     with open_repo(who, collections=["app.bsky.feed.post"]) as repo:
        ...         print(repo.account.did, repo.account.handle, repo.commit.rev)
        ...         for key, record in repo:
        ...             print(key, record["text"])
    """

@overload
def open_repo(
    who: str,
    *,
    since: None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractContextManager[AccountRepo[T | ProcessError | MissingBlock]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractContextManager[AccountRepo[T | Gap]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractContextManager[AccountRepo[T | ProcessError | MissingBlock | Gap]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str | None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[True, "all"],
    **keywords: Unpack[RepoKeywords],
) -> AbstractContextManager[AccountRepo[T | Gap]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str | None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[True, "all"],
    **keywords: Unpack[RepoKeywords],
) -> AbstractContextManager[AccountRepo[T | ProcessError | MissingBlock | Gap]]: ...
@overload
def get_record(
    uri: str, *, network: Network | None = None, earlier_keys: bool = False
) -> Output[dict[str, Any]] | None:
    """Fetch one record of an account, with the proof that it is in the account's repo.

    The server sends the signed commit, the nodes of the tree from there to the record, and the
    record. They are checked as `open_repo` checks a repo. Nothing else is downloaded: if a server
    does not have `com.atproto.sync.getRecord`, use `get` of `open_repo`.

    Args:
        uri: `at://ACCOUNT/COLLECTION/RKEY`, with a handle or a DID.
        network: see `open_repo`.
        block_processor: what to make of the record; see `open_car`.
        earlier_keys: see `open_repo`.

    Returns:
        The record, its key and its CID; `None` if the proof says that there is no such record.

    Raises:
        BadName: if `uri` is not a valid URI.
        ValueError: if it is not the URI of a record.
        RecordNotFound: if the server says that there is no such record, without a proof.
        IncompleteRange: if what it sends proves neither that there is one nor that there is none.
        MissingBlock: if it does not send the record itself.
        ProcessError: if the processor failed on the record.
        NetworkError, CarError, CommitError, NodeError: as by `open_repo`.

    Example:
        >>> def profile(who: str) -> dict[str, Any] | None:
        ...     output = get_record(f"at://{who}/app.bsky.actor.profile/self")
        ...     return output.value if output else None
    """

@overload
def get_record(
    uri: str,
    *,
    network: Network | None = None,
    block_processor: BlockProcessor[T],
    earlier_keys: bool = False,
) -> Output[T] | None: ...
def order_car(
    source: Source, **keywords: Unpack[OrderKeywords]
) -> AbstractContextManager[OrderedCar]:
    """Write a CAR again in streamable order, so that it can be read in little memory.

    The atproto specification defines the order: a header with one root; the commit; then each node
    before what is below it, in key order, and each record where its key comes. Blocks are not
    changed. Blocks that the repo does not need are left out. The output depends on the repo alone,
    and not on the order of the input, its copies or the memory limit. If the input is in this order
    already, no block has to be kept. Else blocks that come early are kept in memory, and if they
    exceed `mem_limit_mb`, the repo goes to disk.

    If several keys name a record, it is written for each of them. So a reader can drop every block
    when it has used it, and neither side has to remember which records there have been, which would
    take memory that grows with the repo. But the file can grow, and its author can make it grow on
    purpose: `Limits.repeated_bytes` limits that. `Limits.car_bytes` and `Limits.blocks` apply to
    the output as well, so a reader with these limits can read both.

    Args:
        source: see `Source`. It is not closed; only the file of a path is opened and closed here.
        **keywords: with their defaults

            - `mem_limit_mb=16`: how much memory the blocks may take before they go to disk, in MiB.
            - `spill=None`: where they go: the path of a database, which is emptied before and
              after; `None`, a
              temporary file; or `False`, nowhere.
            - `verify_cids=True`: check every block against its CID.
            - `limits=None`: limits on the input and the output; `None` is `Limits()`.

    Returns:
        A context manager that returns the `OrderedCar`. Entering it reads the input as far as its
        commit.

    Raises:
        CarError, CidMismatch, LimitExceeded: if the file cannot be read.
        CommitError: if its commit is missing or not valid; see `NothingNew`.
        MemLimitExceeded: if the blocks before the commit exceed the limit, and `spill` is `False`.
        DiskError: if the store fails.
        OSError: if `source` is a path that cannot be opened or read.
        TypeError: if `source` is not a supported source, if `spill` is of the wrong type, or if
            there is no such keyword.

    Example:
        >>> def ordered(source: Source) -> bytes:
        ...     with order_car(source) as car:
        ...         return b"".join([piece for piece in car])
        >>> from repo_stream.testing import build_repo
        >>> repo = build_repo({"app.bsky.feed.post/3k2": {"text": "hi"}})
        >>> ordered(repo.to_car(order="shuffled")) == repo.to_car(order="stream")
        True
    """

def join_cars(
    base: Source, *slices: Source, **keywords: Unpack[OrderKeywords]
) -> AbstractContextManager[OrderedCar]:
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
              after; `None`, a
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
        >>> def updated(kept: Source, since: Source) -> bytes:
        ...     with join_cars(kept, since) as car:
        ...         return b"".join([piece for piece in car])
    """
