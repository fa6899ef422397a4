from repo_stream import (
    arrow as arrow,
    ray as ray,
    sync as sync,
)
from repo_stream.car.damage import (
    Damage as Damage,
)
from repo_stream.car.decoder import (
    CarDecoder as CarDecoder,
)
from repo_stream.car.header import (
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
    RepoDriver as RepoDriver,
)
from repo_stream.drivers.builder import (
    Driver as Driver,
    DriverBuilder as DriverBuilder,
    NeedDisk as NeedDisk,
)
from repo_stream.drivers.channel import (
    Channel as Channel,
)
from repo_stream.drivers.loaded import (
    DiskDriver as DiskDriver,
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
    AlreadyWalked as AlreadyWalked,
    BadCarHeader as BadCarHeader,
    BadCommit as BadCommit,
    BadCompression as BadCompression,
    BadNodeLink as BadNodeLink,
    BadRoot as BadRoot,
    BadSectionCid as BadSectionCid,
    BadSignature as BadSignature,
    BadVarint as BadVarint,
    BareRoot as BareRoot,
    BlockReleased as BlockReleased,
    CarChanged as CarChanged,
    CarError as CarError,
    CarTrailingData as CarTrailingData,
    ChildBelowLeaf as ChildBelowLeaf,
    CidMismatch as CidMismatch,
    CommitError as CommitError,
    ConflictingCommits as ConflictingCommits,
    DiskError as DiskError,
    DiskFull as DiskFull,
    DiskIOError as DiskIOError,
    EmptyNode as EmptyNode,
    EmptySection as EmptySection,
    ForeignFile as ForeignFile,
    IncompleteJoin as IncompleteJoin,
    IncompleteRange as IncompleteRange,
    InvalidCid as InvalidCid,
    InvalidDagCbor as InvalidDagCbor,
    InvalidKey as InvalidKey,
    KeyOutOfOrder as KeyOutOfOrder,
    KeyOutOfRange as KeyOutOfRange,
    LimitExceeded as LimitExceeded,
    MalformedNode as MalformedNode,
    MaxSizeExceeded as MaxSizeExceeded,
    MemLimitExceeded as MemLimitExceeded,
    MissingBlock as MissingBlock,
    MissingCommit as MissingCommit,
    MissingExtra as MissingExtra,
    MissingRoot as MissingRoot,
    NestedTooDeep as NestedTooDeep,
    NodeError as NodeError,
    NodePrefixNotMinimal as NodePrefixNotMinimal,
    NodePrefixTooLong as NodePrefixTooLong,
    NotACar as NotACar,
    NothingNew as NothingNew,
    OtherAccount as OtherAccount,
    ProcessError as ProcessError,
    RepoStreamError as RepoStreamError,
    StoreClosed as StoreClosed,
    StoreCorrupt as StoreCorrupt,
    StoreGone as StoreGone,
    StoreLocked as StoreLocked,
    StoreReadOnly as StoreReadOnly,
    StoreUnavailable as StoreUnavailable,
    TruncatedCar as TruncatedCar,
    UncheckableBlock as UncheckableBlock,
    UnsupportedCarVersion as UnsupportedCarVersion,
    UnsupportedKey as UnsupportedKey,
    WrongDepth as WrongDepth,
)
from repo_stream.ipld.blobs import (
    Blob as Blob,
)
from repo_stream.ipld.cid import (
    Cid as Cid,
)
from repo_stream.ipld.links import (
    Links as Links,
)
from repo_stream.joining import (
    join_cars as join_cars,
)
from repo_stream.limits import (
    Limits as Limits,
)
from repo_stream.mst.commit import (
    Commit as Commit,
)
from repo_stream.mst.results import (
    Absent as Absent,
    Gap as Gap,
    Output as Output,
    Present as Present,
    RangeProof as RangeProof,
    TreeNode as TreeNode,
)
from repo_stream.mst.rules import (
    key_depth as key_depth,
)
from repo_stream.network.account import (
    Account as Account,
)
from repo_stream.network.document import (
    did_key as did_key,
)
from repo_stream.network.errors import (
    AddressRefused as AddressRefused,
    AmbiguousHandle as AmbiguousHandle,
    BadDocument as BadDocument,
    BadName as BadName,
    DidNotFound as DidNotFound,
    DidTombstoned as DidTombstoned,
    DownloadBroken as DownloadBroken,
    HandleNotClaimed as HandleNotClaimed,
    HandleNotFound as HandleNotFound,
    NetworkError as NetworkError,
    NoServer as NoServer,
    NoSigningKey as NoSigningKey,
    OtherAccountServed as OtherAccountServed,
    RateLimited as RateLimited,
    RecordNotFound as RecordNotFound,
    RepoDeactivated as RepoDeactivated,
    RepoNotFound as RepoNotFound,
    RepoRefused as RepoRefused,
    RepoSuspended as RepoSuspended,
    RepoTakendown as RepoTakendown,
    ServerFailed as ServerFailed,
    ServerUnreachable as ServerUnreachable,
    TooManyRedirects as TooManyRedirects,
    TooSlow as TooSlow,
    TornExport as TornExport,
)
from repo_stream.network.opening import (
    get_record as get_record,
    open_repo as open_repo,
)
from repo_stream.network.repo import (
    AccountRepo as AccountRepo,
)
from repo_stream.network.resolvers import (
    NameResolver as NameResolver,
    SystemResolver as SystemResolver,
)
from repo_stream.network.resolving import (
    Network as Network,
)
from repo_stream.opening import (
    Repo as Repo,
    load_commit as load_commit,
    open_car as open_car,
    records as records,
)
from repo_stream.ordering import (
    OrderedCar as OrderedCar,
    order_car as order_car,
)
from repo_stream.process import (
    Processor as Processor,
    atproto_json as atproto_json,
    blob_faults as blob_faults,
    blobs as blobs,
    created_at as created_at,
    dag_json as dag_json,
    json_value as json_value,
    length as length,
    links as links,
    noop as noop,
    record as record,
)
from repo_stream.store.disk import (
    DiskBuilder as DiskBuilder,
    DiskStore as DiskStore,
)
from repo_stream.times import (
    tid_time as tid_time,
)

__version__: str
