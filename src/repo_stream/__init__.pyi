from repo_stream.car.decoder import (
    CarDecoder as CarDecoder,
)
from repo_stream.car.decoder import (
    CarHeader as CarHeader,
)
from repo_stream.car.reader import (
    CarReader as CarReader,
)
from repo_stream.car.source import (
    Source as Source,
)
from repo_stream.drivers.base import (
    Problem as Problem,
)
from repo_stream.drivers.base import (
    RepoDriver as RepoDriver,
)
from repo_stream.drivers.builder import (
    Driver as Driver,
)
from repo_stream.drivers.builder import (
    DriverBuilder as DriverBuilder,
)
from repo_stream.drivers.builder import (
    NeedDisk as NeedDisk,
)
from repo_stream.drivers.channel import (
    Channel as Channel,
)
from repo_stream.drivers.loaded import (
    DiskDriver as DiskDriver,
)
from repo_stream.drivers.loaded import (
    MemDriver as MemDriver,
)
from repo_stream.drivers.options import (
    OnError as OnError,
)
from repo_stream.drivers.order import (
    BlockOrder as BlockOrder,
)
from repo_stream.drivers.stream import (
    StreamDriver as StreamDriver,
)
from repo_stream.errors import (
    BadCarHeader as BadCarHeader,
)
from repo_stream.errors import (
    BadCommit as BadCommit,
)
from repo_stream.errors import (
    BadNodeLink as BadNodeLink,
)
from repo_stream.errors import (
    BadRoot as BadRoot,
)
from repo_stream.errors import (
    BadSectionCid as BadSectionCid,
)
from repo_stream.errors import (
    BadSignature as BadSignature,
)
from repo_stream.errors import (
    BadVarint as BadVarint,
)
from repo_stream.errors import (
    BareRoot as BareRoot,
)
from repo_stream.errors import (
    BlockReleased as BlockReleased,
)
from repo_stream.errors import (
    CarChanged as CarChanged,
)
from repo_stream.errors import (
    CarError as CarError,
)
from repo_stream.errors import (
    CarTrailingData as CarTrailingData,
)
from repo_stream.errors import (
    ChildBelowLeaf as ChildBelowLeaf,
)
from repo_stream.errors import (
    CidMismatch as CidMismatch,
)
from repo_stream.errors import (
    CommitError as CommitError,
)
from repo_stream.errors import (
    DiskError as DiskError,
)
from repo_stream.errors import (
    DiskFull as DiskFull,
)
from repo_stream.errors import (
    DiskIOError as DiskIOError,
)
from repo_stream.errors import (
    EmptyNode as EmptyNode,
)
from repo_stream.errors import (
    EmptySection as EmptySection,
)
from repo_stream.errors import (
    ForeignFile as ForeignFile,
)
from repo_stream.errors import (
    IncompleteRange as IncompleteRange,
)
from repo_stream.errors import (
    InvalidCid as InvalidCid,
)
from repo_stream.errors import (
    InvalidDagCbor as InvalidDagCbor,
)
from repo_stream.errors import (
    InvalidKey as InvalidKey,
)
from repo_stream.errors import (
    KeyOutOfOrder as KeyOutOfOrder,
)
from repo_stream.errors import (
    KeyOutOfRange as KeyOutOfRange,
)
from repo_stream.errors import (
    LimitExceeded as LimitExceeded,
)
from repo_stream.errors import (
    MalformedNode as MalformedNode,
)
from repo_stream.errors import (
    MaxSizeExceeded as MaxSizeExceeded,
)
from repo_stream.errors import (
    MemLimitExceeded as MemLimitExceeded,
)
from repo_stream.errors import (
    MissingBlock as MissingBlock,
)
from repo_stream.errors import (
    MissingCommit as MissingCommit,
)
from repo_stream.errors import (
    MissingExtra as MissingExtra,
)
from repo_stream.errors import (
    MissingRoot as MissingRoot,
)
from repo_stream.errors import (
    NodeError as NodeError,
)
from repo_stream.errors import (
    NodePrefixNotMinimal as NodePrefixNotMinimal,
)
from repo_stream.errors import (
    NodePrefixTooLong as NodePrefixTooLong,
)
from repo_stream.errors import (
    NotACar as NotACar,
)
from repo_stream.errors import (
    ProcessError as ProcessError,
)
from repo_stream.errors import (
    RepoStreamError as RepoStreamError,
)
from repo_stream.errors import (
    StoreClosed as StoreClosed,
)
from repo_stream.errors import (
    StoreCorrupt as StoreCorrupt,
)
from repo_stream.errors import (
    StoreGone as StoreGone,
)
from repo_stream.errors import (
    StoreLocked as StoreLocked,
)
from repo_stream.errors import (
    StoreReadOnly as StoreReadOnly,
)
from repo_stream.errors import (
    StoreUnavailable as StoreUnavailable,
)
from repo_stream.errors import (
    TruncatedCar as TruncatedCar,
)
from repo_stream.errors import (
    UnsupportedCarVersion as UnsupportedCarVersion,
)
from repo_stream.errors import (
    UnsupportedKey as UnsupportedKey,
)
from repo_stream.errors import (
    WrongDepth as WrongDepth,
)
from repo_stream.ipld.cid import (
    Cid as Cid,
)
from repo_stream.limits import (
    Limits as Limits,
)
from repo_stream.mst.commit import (
    Commit as Commit,
)
from repo_stream.mst.results import (
    Absent as Absent,
)
from repo_stream.mst.results import (
    Gap as Gap,
)
from repo_stream.mst.results import (
    Output as Output,
)
from repo_stream.mst.results import (
    Present as Present,
)
from repo_stream.mst.results import (
    RangeProof as RangeProof,
)
from repo_stream.mst.results import (
    TreeNode as TreeNode,
)
from repo_stream.mst.rules import (
    key_depth as key_depth,
)
from repo_stream.opening import (
    Repo as Repo,
)
from repo_stream.opening import (
    load_commit as load_commit,
)
from repo_stream.opening import (
    open_car as open_car,
)
from repo_stream.ordering import (
    OrderedCar as OrderedCar,
)
from repo_stream.ordering import (
    order_car as order_car,
)
from repo_stream.process import (
    Processor as Processor,
)
from repo_stream.store.disk import (
    DiskBuilder as DiskBuilder,
)
from repo_stream.store.disk import (
    DiskStore as DiskStore,
)

__version__: str
