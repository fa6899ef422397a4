"""`CarDecoder`, whole and in pieces of several sizes, and small CARs to feed it with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from repo_stream import CarDecoder, CarHeader, Limits, RepoStreamError
from repo_stream.testing import cid_of, encode, section, varint, write_car

Block = tuple[bytes, bytes]

PIECE_SIZES = (None, 1, 2, 3, 7, 1000)


@dataclass(frozen=True)
class Outcome:
    """All that can be seen of a decoder at the end."""

    header: CarHeader | None
    blocks: list[Block]
    offset: int
    error: RepoStreamError | None

    def facts(self) -> tuple[object, ...]:
        error = self.error
        seen = None if error is None else (type(error), str(error), vars(error))
        return self.header, self.blocks, self.offset, seen


def decode_in_pieces(
    data: bytes, size: int | None, *, limits: Limits | None, verify_cids: bool
) -> Outcome:
    decoder = CarDecoder(limits=limits, verify_cids=verify_cids)
    blocks: list[Block] = []
    error: RepoStreamError | None = None
    size = size or max(len(data), 1)
    try:
        for at in range(0, len(data), size):
            blocks += decoder.feed(data[at : at + size])
            blocks += decoder.feed(b"")
        decoder.finish()
    except RepoStreamError as raised:
        error = raised
    assert decoder.blocks == len(blocks)
    return Outcome(decoder.header, blocks, decoder.offset, error)


def decode(data: bytes, *, limits: Limits | None = None, verify_cids: bool = True) -> Outcome:
    """Decode in pieces of every size, which must make no difference at all."""
    outcomes = [
        decode_in_pieces(data, size, limits=limits, verify_cids=verify_cids) for size in PIECE_SIZES
    ]
    for size, outcome in zip(PIECE_SIZES, outcomes, strict=True):
        assert outcome.facts() == outcomes[0].facts(), f"pieces of {size} bytes"
    return outcomes[0]


def decode_well(data: bytes, **options: Any) -> list[Block]:
    """Decode what has no fault."""
    outcome = decode(data, **options)
    assert outcome.error is None
    assert outcome.offset == len(data)
    return outcome.blocks


def block(text: str) -> Block:
    data = encode({"text": text})
    return cid_of(data), data


def cid_v1(codec: int, function: int, digest: bytes) -> bytes:
    return b"\x01" + varint(codec) + varint(function) + varint(len(digest)) + digest


def framed(header: bytes) -> bytes:
    return varint(len(header)) + header


ROOT, ROOT_DATA = block("root")
BEFORE = [(ROOT, ROOT_DATA), block("x" * 200)]
GOOD = write_car([ROOT], BEFORE)
AFTER = section(*block("after"))

NODE = b"some block of no special kind"


CID_V0 = b"\x12\x20" + hashlib.sha256(NODE).digest()


# What can be checked: a CID for given data.
CHECKED: dict[str, Callable[[bytes], bytes]] = {
    "dag-cbor": cid_of,
    "raw": lambda data: cid_of(data, codec=0x55),
    "cidv0": lambda data: b"\x12\x20" + hashlib.sha256(data).digest(),
    "identity": lambda data: cid_v1(0x55, 0x00, data),
    "sha2-512": lambda data: cid_v1(0x71, 0x13, hashlib.sha512(data).digest()),
    "sha2-384": lambda data: cid_v1(0x71, 0x20, hashlib.sha384(data).digest()),
    "sha3-256": lambda data: cid_v1(0x71, 0x16, hashlib.sha3_256(data).digest()),
    "sha3-512": lambda data: cid_v1(0x71, 0x14, hashlib.sha3_512(data).digest()),
    "blake2b-256": lambda data: cid_v1(
        0x71, 0xB220, hashlib.blake2b(data, digest_size=32).digest()
    ),
    "two-byte-codec": lambda data: cid_of(data, codec=0x0129),
    "unknown-codec": lambda data: cid_of(data, codec=0x300000),
}
# What cannot, because the hash function is not one that can be computed.
UNCHECKED = {
    "sha1": cid_v1(0x71, 0x11, bytes(20)),
    "md5": cid_v1(0x55, 0xD5, bytes(16)),
    "blake3": cid_v1(0x71, 0x1E, bytes(32)),
    "blake2b-8": cid_v1(0x71, 0xB201, bytes(1)),
    "unknown-function": cid_v1(0x71, 0x3FFFFF, bytes(128)),
    "unknown-empty": cid_v1(0x71, 0x3FFFFF, b""),
}


# A CAR with two roots and a block under a CID of each kind.
VARIED = write_car(
    [ROOT, CID_V0],
    [
        *BEFORE,
        *((make(NODE), NODE) for make in CHECKED.values()),
        *((cid, NODE) for cid in UNCHECKED.values()),
        (cid_of(b""), b""),
    ],
)
