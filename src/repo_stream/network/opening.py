"""`open_repo`: the records of an account, by its name; `get_record`: one of them, by its URI."""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
# `T` is a decoded record without a processor.
# pyright: reportInvalidTypeVarUse=false
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

from repo_stream.arguments import check_flag, check_kind, check_whole
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.keywords import takes
from repo_stream.drivers.options import OnError, Options
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.mst.results import Gap, Output
from repo_stream.network.downloading import Plan, opened
from repo_stream.network.keeping import check_target
from repo_stream.network.keywords import REPO_DEFAULTS, RepoKeywords
from repo_stream.network.names import Who, parse_who
from repo_stream.network.repo import AccountRepo
from repo_stream.network.resolving import Network
from repo_stream.opening import told_builder
from repo_stream.process import BlockProcessor, record
from repo_stream.syntax import URI_FORM, is_tid

if TYPE_CHECKING:
    # `typing.TypeVar` has no defaults before Python 3.13. Type checkers bring this module along.
    from typing_extensions import TypeVar

    # Any: a record's values are of any type of the data model.
    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["get_record", "open_repo"]


@overload
def open_repo(
    who: str,
    *,
    since: None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[False] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[T]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[False] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[T | ProcessError | MissingBlock]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[T | Gap]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[T | ProcessError | MissingBlock | Gap]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str | None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["raise", "skip"] = "raise",
    gaps: Literal[True, "all"],
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[T | Gap]]: ...
@overload
def open_repo(
    who: str,
    *,
    since: str | None = None,
    block_processor: BlockProcessor[T] = ...,
    on_error: Literal["yield"],
    gaps: Literal[True, "all"],
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[T | ProcessError | MissingBlock | Gap]]: ...
@takes(RepoKeywords, **REPO_DEFAULTS)
def open_repo(
    who: str,
    *,
    since: str | None = None,
    block_processor: BlockProcessor[Any] = record,  # Any: the overloads say which results
    on_error: OnError = "raise",
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[Any]]:  # Any: see the overloads
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
        >>> async def print_posts(who: str) -> None:
        ...     async with open_repo(who, collections=["app.bsky.feed.post"]) as repo:
        ...         print(repo.account.did, repo.account.handle, repo.commit.rev)
        ...         async for key, record in repo:
        ...             print(key, record["text"])
    """
    network = keywords["network"]
    _check_network(network)
    check_flag("earlier_keys", keywords["earlier_keys"])
    check_whole("retries", keywords["retries"])
    asked = _asked("who", who, network)
    builder = told_builder(block_processor, on_error, gaps or since is not None, keywords)
    builder, key = _narrowed(builder, asked, who, keywords)
    _check_since(since, key)
    keep = keywords["keep"]
    plan = Plan(
        who=asked.name,
        key=key,
        options=builder if gaps or since is None else _SliceOptions.of(builder),
        spill=keywords["spill"],
        drain=keywords["drain"],
        check_first=keywords["check_first"],
        since=since,
        keep=None if keep is None else check_target(keep),
        earlier_keys=keywords["earlier_keys"],
        retries=keywords["retries"],
    )
    return _opened(plan, network)


@overload
async def get_record(
    uri: str, *, network: Network | None = None, earlier_keys: bool = False
) -> Output[dict[str, Any]] | None: ...  # Any: a record's values
@overload
async def get_record(
    uri: str,
    *,
    network: Network | None = None,
    block_processor: BlockProcessor[T],
    earlier_keys: bool = False,
) -> Output[T] | None: ...
async def get_record(
    uri: str,
    *,
    network: Network | None = None,
    block_processor: BlockProcessor[Any] = record,  # Any: the overloads say which results
    earlier_keys: bool = False,
) -> Output[Any] | None:  # Any: see the overloads
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
        >>> async def profile(who: str) -> dict[str, Any] | None:
        ...     output = await get_record(f"at://{who}/app.bsky.actor.profile/self")
        ...     return output.value if output else None
    """
    _check_network(network)
    asked = _asked("uri", uri, network)
    if asked.rkey is None:
        named = "an account" if asked.collection is None else "a collection"
        raise ValueError(f"{uri!r} names {named}, not a record; {URI_FORM}")
    async with open_repo(
        uri, network=network, block_processor=block_processor, earlier_keys=earlier_keys
    ) as repo:
        return await repo.get(f"{asked.collection}/{asked.rkey}")


# --- Arguments ------------------------------------------------------------------------------------


class _SliceOptions(Options[T]):
    """How a slice is read: with gaps, but what is damaged in it is an error."""

    @classmethod
    def of(cls, options: Options[T]) -> _SliceOptions[T]:
        """Return the same options for a slice."""
        return cls(**{each.name: getattr(options, each.name) for each in fields(Options)})

    @property
    def past_damage(self) -> Literal[False, "blocks"]:
        return False if self.on_error == "raise" else "blocks"


def _asked(name: str, text: str, network: Network | None) -> Who:
    check_kind(name, text, str, such_as="a handle, a DID or an at:// URI")
    return parse_who(text, allow_private=network is not None and network.allow_private)


def _check_network(network: object) -> None:
    if network is not None:
        check_kind("network", network, Network, such_as="a Network")


def _check_since(since: object, key: str | None) -> None:
    if since is None:
        return
    check_kind("since", since, str, such_as="a rev, as of repo.commit.rev")
    if not is_tid(cast("str", since)):
        raise ValueError(f"since must be a rev, such as repo.commit.rev, not {since!r}")
    if key is not None:
        raise ValueError(f"since is for repos, and this is the URI of one record: {key}")


def _narrowed(
    builder: DriverBuilder[T], asked: Who, who: str, keywords: RepoKeywords
) -> tuple[DriverBuilder[T], str | None]:
    """Return a builder that walks what a URI names, and the key if that is a record.

    Raises:
        ValueError: if a keyword says what to walk as well.
    """
    if asked.collection is None:
        return builder, None
    for name in ("collections", "key_range", "prefix"):
        if keywords[name] is not None:
            raise ValueError(
                f"both {who!r} and {name} say what to walk; leave {name} out, or pass the account "
                f"alone, {asked.name!r}"
            )
    if asked.rkey is None:
        return builder.with_collections(asked.collection), None
    key = f"{asked.collection}/{asked.rkey}"
    return builder.with_key_range(key, key + "\0"), key


@asynccontextmanager
async def _opened(plan: Plan[T], network: Network | None) -> AsyncGenerator[AccountRepo[T]]:
    async with AsyncExitStack() as stack:
        if network is None:
            network = await stack.enter_async_context(Network())
        yield await stack.enter_async_context(opened(plan, network))
