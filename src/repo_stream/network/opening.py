"""`open_repo`: the records of an account, by its name; `get_record`: one of them, by its URI."""

from __future__ import annotations

# `takes` fills in every keyword.
# pyright: reportTypedDictNotRequiredAccess=false
# `T` is `bytes` without a processor.
# pyright: reportInvalidTypeVarUse=false
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from repo_stream.arguments import check_flag, check_kind, check_whole
from repo_stream.drivers.builder import DriverBuilder
from repo_stream.drivers.keywords import takes
from repo_stream.drivers.options import OnError
from repo_stream.errors import MissingBlock, ProcessError
from repo_stream.mst.results import Gap, Output
from repo_stream.network.downloading import AccountRepo, Plan, opened
from repo_stream.network.keeping import check_target
from repo_stream.network.keywords import REPO_DEFAULTS, RepoKeywords
from repo_stream.network.names import Who, parse_who
from repo_stream.network.resolving import Network
from repo_stream.opening import told_builder
from repo_stream.process import BlockProcessor, noop
from repo_stream.syntax import is_tid

if TYPE_CHECKING:
    # `typing.TypeVar` has no defaults before Python 3.13. Type checkers bring this module along.
    from typing_extensions import TypeVar

    T = TypeVar("T", default=bytes)
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
    block_processor: BlockProcessor[Any] = noop,  # Any: the overloads say which results
    on_error: OnError = "raise",
    gaps: bool | Literal["all"] = False,
    **keywords: Unpack[RepoKeywords],
) -> AbstractAsyncContextManager[AccountRepo[Any]]:  # Any: see the overloads
    """Open the repo of an account, by its name: it is found, downloaded, checked, and walked."""
    network = keywords["network"]
    if network is not None:
        check_kind("network", network, Network, such_as="a Network")
    check_flag("earlier_keys", keywords["earlier_keys"])
    check_whole("retries", keywords["retries"])
    if since is not None:
        check_kind("since", since, str, such_as="a rev, as of repo.commit.rev")
        if not is_tid(since):
            raise ValueError(f"since must be a rev, such as that of repo.commit, not {since!r}")
    asked = parse_who(who, allow_private=network is not None and network.allow_private)
    builder = told_builder(block_processor, on_error, gaps or since is not None, keywords)
    plan = Plan(
        who=asked.name,
        builder=_narrowed(builder, asked, who, keywords),
        spill=keywords["spill"],
        drain=keywords["drain"],
        check_first=keywords["check_first"],
        since=since,
        keep=None if keywords["keep"] is None else check_target(keywords["keep"]),
        earlier_keys=keywords["earlier_keys"],
        retries=keywords["retries"],
    )
    return _opened(plan, network)


def _narrowed(
    builder: DriverBuilder[Any], asked: Who, who: str, keywords: RepoKeywords
) -> DriverBuilder[Any]:
    """Return a builder that walks only the collection or the record that a URI names, if any."""
    if asked.collection is None:
        return builder
    for name in ("collections", "key_range", "prefix"):
        if keywords[name] is not None:
            raise ValueError(
                f"{who!r} names what to walk, and so does {name}; leave out one of them, or pass "
                f"the account alone: {asked.name!r}"
            )
    if asked.rkey is None:
        return builder.with_collections(asked.collection)
    key = f"{asked.collection}/{asked.rkey}"
    return builder.with_key_range(key, key + "\0")


@asynccontextmanager
async def _opened(plan: Plan[Any], network: Network | None) -> AsyncGenerator[AccountRepo[Any]]:
    if network is not None:
        async with opened(plan, network) as repo:
            yield repo
        return
    async with Network() as own, opened(plan, own) as repo:
        yield repo


async def get_record(uri: str, *, network: Network | None = None) -> Output[bytes] | None:
    """Fetch one record of an account with its proof."""
    raise NotImplementedError
