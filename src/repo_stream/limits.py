"""What is checked in a CAR, which anyone may have made, and `Limits`, which bounds its cost.

Each check is followed by the errors that it raises, and by its limit, if it has one, with the
default. Limits are fields of `Limits`, unless the list says otherwise.

The CAR file (https://ipld.io/specs/transport/car/carv1/):

- If the file of a path is compressed, it can be decompressed: `BadCompression`. All limits are for
  what is decompressed.
- The file is a CARv1 with a canonical header: `NotACar`, `UnsupportedCarVersion`, `BadCarHeader`;
  and the header is not too long: `LimitExceeded`, `header_bytes=65536`.
- The header names a root that can be a commit: `MissingRoot`, `BadRoot`.
- Length prefixes are minimal, and sections contain a CID: `BadVarint`, `EmptySection`,
  `BadSectionCid`.
- The file ends where a section ends, and nothing follows it: `TruncatedCar`, `CarTrailingData`.
- Every block has the hash that its CID claims: `CidMismatch`; and a record's hash can be checked:
  `UncheckableBlock`. `verify_cids=False` turns this off.
- No block is too large: `LimitExceeded`, `block_bytes=2097152`.
- The file is not too large, in bytes and in blocks: `LimitExceeded`, `car_bytes=None`,
  `blocks=None`. Both are off by default.
- A file that is read again has not changed: `CarChanged`.

The commit (https://atproto.com/specs/repository#commit-objects):

- It is in the file, of version 3, complete and canonical: `MissingCommit`, `NothingNew`,
  `BadCommit`. It has 8,192 bytes at most, always.
- It is of the account, whose key signed it: `OtherAccountServed`, `BadSignature`, `UnsupportedKey`.
  `open_repo` and `get_record` check that before anything else. Everywhere else it is checked only
  if you call `Commit.verify_signature`: a repo is consistent, but anyone could have made it.
- CARs that are joined are of one account, and one commit is the newest: `OtherAccount`,
  `ConflictingCommits`.

The tree (https://atproto.com/specs/repository#mst-structure):

- Nodes are canonical DAG-CBOR with exactly their fields: `MalformedNode`, `BadNodeLink`.
- A node does not have too many entries: `LimitExceeded`, `node_entries=8192`.
- Shared prefixes exist and are minimal: `NodePrefixTooLong`, `NodePrefixNotMinimal`.
- Keys are UTF-8 and not empty: `InvalidKey`; and not too long: `LimitExceeded`, `key_bytes=1024`.
- Keys are in order, in a node and across nodes: `KeyOutOfOrder`, `KeyOutOfRange`.
- Keys are at the depth that their hash demands: `WrongDepth`, `ChildBelowLeaf`; and the tree is not
  too deep: `LimitExceeded`, `mst_depth=40`.
- No node is needlessly empty: `EmptyNode`, `BareRoot`.
- Every block that the tree names is in the file: `MissingBlock`; in what a server sent:
  `TornExport`; or in one of those that are joined: `IncompleteJoin`.

Records (https://atproto.com/specs/data-model), by `record` and all processors that use it:

- They are maps in canonical DAG-CBOR, without floats, with integers of 64 bits and links with whole
  digests: `InvalidDagCbor`.
- Values are not nested deeper than 128 levels, always: `NestedTooDeep`.

What is written:

- A store does not take too much of the disk: `MaxSizeExceeded`, `max_stored_mb=10240` of
  `DiskBuilder`.
- `order_car` and `join_cars` write little more than they read: `LimitExceeded`,
  `repeated_bytes=67108864`.

Not checked: whether records follow their lexicons, and whether the two parts of a key have the
characters that the specification allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from repo_stream.arguments import check_kind, check_whole

__all__ = ["DEFAULT_LIMITS", "KIB", "MIB", "Limits", "check_limits"]


KIB = 1024
MIB = 1024 * 1024

_MAY_BE_OFF: Final = ("car_bytes", "blocks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on untrusted input. Anything larger is a `LimitExceeded`, which names the limit.

    All limits are checked before memory is taken, so a length that a file merely claims costs
    nothing. `None` turns a limit off, if its type allows that. One limit is fixed: lists and maps
    in a block are nested 128 levels deep at most (`NestedTooDeep`).

    Attributes:
        header_bytes: bytes of the CAR header. A header with its one root has 58 bytes; 64 KiB have
            room for some 1,500 roots.
        block_bytes: bytes of one block, its CID included. Other CAR readers allow 2 MiB, too;
            records and nodes of real repos are smaller than 1 MiB. A record that was made to
            cost much takes up to 75 times its bytes in memory once it is decoded, and up to a
            second for each MiB to decode, two without the extra `[fast]`. No other task runs
            meanwhile. If that is too much, lower this limit.
        car_bytes: bytes of the whole CAR, off by default. Set it if accounts are strangers: it
            limits what one repo can cost in transfer and hashing.
        blocks: blocks in the CAR, off by default. Blocks of a few bytes each take far more memory
            than they have bytes.
        mst_depth: the depth of the tree's root. A depth of 40 needs a key whose hash starts with 80
            zero bits, more than anyone can search for; a repo of a billion records has a depth of
            15.
        node_entries: entries in one MST node. Four are usual; 8,192 need keys that were made to
            collide.
        key_bytes: bytes of one key, checked before a shared prefix is expanded: otherwise a node of
            1 MB could spell out 4 GiB of keys. A valid collection and rkey together have fewer than
            830.
        repeated_bytes: how many bytes more `order_car` and `join_cars` may write than they have
            read. They write a record at each key that names it, and a million keys can name one
            record of 2 MiB. It does not limit walks, which may process the record for each of
            those keys. To limit that, lower `block_bytes`, use `next_keys`, which needs no records,
            or have your processor count bytes and raise an error.

    Raises:
        TypeError: if a limit is not a whole number, or `None` although it cannot be turned off.
        ValueError: if a limit is negative.

    Example:
        >>> Limits(car_bytes=256 * 1024 * 1024).car_bytes
        268435456
    """

    header_bytes: int = 64 * KIB
    block_bytes: int = 2 * MIB
    car_bytes: int | None = None
    blocks: int | None = None
    mst_depth: int = 40
    node_entries: int = 8192
    key_bytes: int = 1024
    repeated_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_OFF:
                check_whole(name, value)


#: The limits if a caller sets none. They are made once, as a small repo is read in 0.1 ms.
DEFAULT_LIMITS: Final = Limits()


def check_limits(limits: object) -> None:
    """Check that an argument is a `Limits`.

    Raises:
        TypeError: if it is anything else.
    """
    check_kind("limits", limits, Limits, such_as="a Limits, such as Limits(car_bytes=2**30)")
