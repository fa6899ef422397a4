"""Read AT Protocol repositories: verified records in key order, within a memory limit.

Start with `open_car`, or with `DriverBuilder` to decide for yourself what goes to disk.
"""

from typing import TYPE_CHECKING

from repo_stream.car import (
    CarDecoder,
    CarHeader,
)
from repo_stream.cid import (
    Cid,
)
from repo_stream.drive import (
    Channel,
    DiskDriver,
    Driver,
    DriverBuilder,
    MemDriver,
    NeedDisk,
    OnError,
    Output,
    Problem,
    RepoDriver,
)
from repo_stream.errors import (
    BadCarHeader,
    BadCommit,
    BadNodeLink,
    BadRoot,
    BadSectionCid,
    BadSignature,
    BadVarint,
    BareRoot,
    CarError,
    CarTrailingData,
    ChildBelowLeaf,
    CidMismatch,
    CommitError,
    DiskError,
    DiskFull,
    DiskIOError,
    EmptyNode,
    EmptySection,
    ForeignFile,
    InvalidCid,
    InvalidDagCbor,
    InvalidKey,
    KeyOutOfOrder,
    KeyOutOfRange,
    LimitExceeded,
    MalformedNode,
    MaxSizeExceeded,
    MissingBlock,
    MissingCommit,
    MissingExtra,
    MissingRoot,
    NodeError,
    NodePrefixNotMinimal,
    NodePrefixTooLong,
    ProcessError,
    RepoStreamError,
    StoreClosed,
    StoreCorrupt,
    StoreGone,
    StoreLocked,
    StoreReadOnly,
    StoreUnavailable,
    TruncatedCar,
    UnsupportedCarVersion,
    UnsupportedKey,
    WrongDepth,
)
from repo_stream.limits import (
    Limits,
)
from repo_stream.mst import (
    Commit,
    key_depth,
)
from repo_stream.opening import (
    Repo,
    load_commit,
    open_car,
)
from repo_stream.process import (
    Processor,
)
from repo_stream.reader import (
    CarReader,
)
from repo_stream.source import (
    Source,
)

if TYPE_CHECKING:
    from repo_stream.disk import DiskBuilder, DiskStore

__all__ = [
    "BadCarHeader",
    "BadCommit",
    "BadNodeLink",
    "BadRoot",
    "BadSectionCid",
    "BadSignature",
    "BadVarint",
    "BareRoot",
    "CarDecoder",
    "CarError",
    "CarHeader",
    "CarReader",
    "CarTrailingData",
    "Channel",
    "ChildBelowLeaf",
    "Cid",
    "CidMismatch",
    "Commit",
    "CommitError",
    "DiskBuilder",
    "DiskDriver",
    "DiskError",
    "DiskFull",
    "DiskIOError",
    "DiskStore",
    "Driver",
    "DriverBuilder",
    "EmptyNode",
    "EmptySection",
    "ForeignFile",
    "InvalidCid",
    "InvalidDagCbor",
    "InvalidKey",
    "KeyOutOfOrder",
    "KeyOutOfRange",
    "LimitExceeded",
    "Limits",
    "MalformedNode",
    "MaxSizeExceeded",
    "MemDriver",
    "MissingBlock",
    "MissingCommit",
    "MissingExtra",
    "MissingRoot",
    "NeedDisk",
    "NodeError",
    "NodePrefixNotMinimal",
    "NodePrefixTooLong",
    "OnError",
    "Output",
    "Problem",
    "ProcessError",
    "Processor",
    "Repo",
    "RepoDriver",
    "RepoStreamError",
    "Source",
    "StoreClosed",
    "StoreCorrupt",
    "StoreGone",
    "StoreLocked",
    "StoreReadOnly",
    "StoreUnavailable",
    "TruncatedCar",
    "UnsupportedCarVersion",
    "UnsupportedKey",
    "WrongDepth",
    "key_depth",
    "load_commit",
    "open_car",
]


def __getattr__(name: str) -> object:
    """Import the disk store when it is first used: SQLite and its loop take half of the time."""
    if name in {"DiskBuilder", "DiskStore"}:
        from repo_stream import disk  # noqa: PLC0415 - what this function is for

        return getattr(disk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
