"""How much of a stranger's file is too much: the bounds, their defaults, and the reasons."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on untrusted input; whatever is over one raises `LimitExceeded` and names it.

    All of them are checked before memory is taken, so that a length that a file merely claims
    costs nothing. `None` turns a bound off, where the type allows it.

    Attributes:
        header_bytes: the CAR header. A header with its one root has 58 bytes; 64 KiB leave room
            for some 1,500 roots.
        block_bytes: one block, its CID included. 2 MiB is the bound of other CAR readers; records
            and nodes of real repos stay under 1 MiB.
        car_bytes: the whole CAR, off by default. Set it where accounts are strangers: it is what
            one repo can cost in transfer and hashing.
        blocks: blocks in the CAR, off by default. Blocks of a few bytes cost far more memory than
            they have bytes.
        mst_depth: the depth of the tree's root. Depth 40 takes a key with 80 leading zero bits,
            more than anybody can search for; a repo of a billion records has a depth of 15.
        node_entries: entries in one MST node. Four are usual; 8,192 take keys made to collide.
        key_bytes: one record key, checked before a shared prefix is expanded: a node of 1 MB can
            otherwise spell out 4 GiB of keys. Collection and record key together stay under 830.
        repeated_bytes: how far `order_car` may write more than it has read. It writes a record at
            each key that names it, and a million keys can name one record of 2 MiB.

    Example:
        >>> Limits(car_bytes=256 * 1024 * 1024).car_bytes
        268435456

    Raises:
        ValueError: where a bound is negative.
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
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, not {value}")
