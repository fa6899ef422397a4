"""Read AT Protocol repositories: verified records in key order, within a memory limit.

Start with `open_car`, or with `DriverBuilder` to decide for yourself what goes to disk.

A name is imported from its room when it is first used: whoever needs the errors, the CIDs or the
CAR decoder alone does not pay for the rest, and an import that is not used costs next to nothing.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing has it, and takes longer to import than all of this
if TYPE_CHECKING:
    from repo_stream.car import (
        CarDecoder,
        CarHeader,
    )
    from repo_stream.cid import (
        Cid,
    )
    from repo_stream.disk import (
        DiskBuilder,
        DiskStore,
    )
    from repo_stream.drive import (
        Driver,
        DriverBuilder,
        NeedDisk,
    )
    from repo_stream.drivers import (
        Channel,
        DiskDriver,
        MemDriver,
        OnError,
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
        BlockReleased,
        CarChanged,
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
        IncompleteRange,
        InvalidCid,
        InvalidDagCbor,
        InvalidKey,
        KeyOutOfOrder,
        KeyOutOfRange,
        LimitExceeded,
        MalformedNode,
        MaxSizeExceeded,
        MemLimitExceeded,
        MissingBlock,
        MissingCommit,
        MissingExtra,
        MissingRoot,
        NodeError,
        NodePrefixNotMinimal,
        NodePrefixTooLong,
        NotACar,
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
    from repo_stream.ordering import (
        OrderedCar,
        order_car,
    )
    from repo_stream.process import (
        Processor,
    )
    from repo_stream.proofs import (
        Absent,
        Present,
        RangeProof,
    )
    from repo_stream.reader import (
        CarReader,
    )
    from repo_stream.source import (
        Source,
    )
    from repo_stream.stream import (
        BlockOrder,
        StreamDriver,
    )
    from repo_stream.walk import (
        Gap,
        Output,
        TreeNode,
    )

__all__ = [
    "Absent",
    "BadCarHeader",
    "BadCommit",
    "BadNodeLink",
    "BadRoot",
    "BadSectionCid",
    "BadSignature",
    "BadVarint",
    "BareRoot",
    "BlockOrder",
    "BlockReleased",
    "CarChanged",
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
    "Gap",
    "IncompleteRange",
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
    "MemLimitExceeded",
    "MissingBlock",
    "MissingCommit",
    "MissingExtra",
    "MissingRoot",
    "NeedDisk",
    "NodeError",
    "NodePrefixNotMinimal",
    "NodePrefixTooLong",
    "NotACar",
    "OnError",
    "OrderedCar",
    "Output",
    "Present",
    "Problem",
    "ProcessError",
    "Processor",
    "RangeProof",
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
    "StreamDriver",
    "TreeNode",
    "TruncatedCar",
    "UnsupportedCarVersion",
    "UnsupportedKey",
    "WrongDepth",
    "key_depth",
    "load_commit",
    "open_car",
    "order_car",
]

_ROOMS = {
    "car": (
        "CarDecoder",
        "CarHeader",
    ),
    "cid": ("Cid",),
    "disk": (
        "DiskBuilder",
        "DiskStore",
    ),
    "drive": (
        "Driver",
        "DriverBuilder",
        "NeedDisk",
    ),
    "drivers": (
        "Channel",
        "DiskDriver",
        "MemDriver",
        "OnError",
        "Problem",
        "RepoDriver",
    ),
    "errors": (
        "BadCarHeader",
        "BadCommit",
        "BadNodeLink",
        "BadRoot",
        "BadSectionCid",
        "BadSignature",
        "BadVarint",
        "BareRoot",
        "BlockReleased",
        "CarChanged",
        "CarError",
        "CarTrailingData",
        "ChildBelowLeaf",
        "CidMismatch",
        "CommitError",
        "DiskError",
        "DiskFull",
        "DiskIOError",
        "EmptyNode",
        "EmptySection",
        "ForeignFile",
        "IncompleteRange",
        "InvalidCid",
        "InvalidDagCbor",
        "InvalidKey",
        "KeyOutOfOrder",
        "KeyOutOfRange",
        "LimitExceeded",
        "MalformedNode",
        "MaxSizeExceeded",
        "MemLimitExceeded",
        "MissingBlock",
        "MissingCommit",
        "MissingExtra",
        "MissingRoot",
        "NodeError",
        "NodePrefixNotMinimal",
        "NodePrefixTooLong",
        "NotACar",
        "ProcessError",
        "RepoStreamError",
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
    ),
    "limits": ("Limits",),
    "mst": (
        "Commit",
        "key_depth",
    ),
    "opening": (
        "Repo",
        "load_commit",
        "open_car",
    ),
    "ordering": (
        "OrderedCar",
        "order_car",
    ),
    "process": ("Processor",),
    "proofs": (
        "Absent",
        "Present",
        "RangeProof",
    ),
    "reader": ("CarReader",),
    "source": ("Source",),
    "stream": (
        "BlockOrder",
        "StreamDriver",
    ),
    "walk": (
        "Gap",
        "Output",
        "TreeNode",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a name's room when it is first used."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"repo_stream.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
