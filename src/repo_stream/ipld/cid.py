"""CIDs: raw `bytes` in the inner loops, `Cid` for people.

The commit and all nodes have CIDs of one kind, here called *ordinary*: CIDv1, DAG-CBOR, SHA-256
(https://atproto.com/specs/repository#cid-formats). They are 36 bytes long and start with
`ORDINARY_PREFIX`, so the inner loops compare bytes and parse nothing. Nearly all records have such
CIDs, too, but they may have others. Those are parsed here (`read_cid`); `multiformats` is used for
their text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from typing import Final, NamedTuple

from repo_stream.arguments import check_kind
from repo_stream.ipld.errors import InvalidCid

__all__ = [
    "DAG_CBOR",
    "ORDINARY_LENGTH",
    "ORDINARY_PREFIX",
    "Cid",
    "can_verify",
    "digest_length",
    "ordinary",
    "parsed_cid",
    "read_cid",
    "verify",
]


DAG_CBOR = 0x71
DAG_PB = 0x70
SHA2_256 = 0x12

#: CIDv1, codec dag-cbor, hash function sha2-256, digest of 32 bytes.
ORDINARY_PREFIX = b"\x01\x71\x12\x20"
ORDINARY_LENGTH = 36
# The same for raw bytes, such as blobs.
_RAW_PREFIX: Final = b"\x01\x55\x12\x20"

_MAX_DIGEST_BYTES = 128
# More than a CID with such a digest has in base 2. Decoding takes quadratic time.
_MAX_TEXT_LENGTH = 2048
_V0_TEXT_LENGTH: Final = 46
# That of a CID with SHA-256 has 59 in base32; those of longer digests have more.
_CHARACTERS_IN_RECORDS: Final = range(_V0_TEXT_LENGTH, 129)


class Cid(bytes):
    """A CID: `bytes` in its binary form, with its parts and text as attributes.

    It compares, hashes and pickles like these bytes, so it can be looked up in a `dict` of raw CIDs
    and written to a file as it is. So it is not equal to its text, which has another hash: compare
    `str(cid)` with that. `Output.strong_ref` is the form in which records refer to one another.

    Example:
        >>> text = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"
        >>> cid = Cid.parse(text)
        >>> len(cid), cid.version, cid.codec, cid.is_ordinary
        (36, 1, 113, True)
        >>> cid == text, str(cid) == text
        (False, True)

    See https://github.com/multiformats/cid for the format.
    """

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Return the CID with a text, in any multibase.

        Raises:
            InvalidCid: if the text is not a CID.
            TypeError: if it is not a string.
        """
        check_kind("text", text, str, such_as="a string, such as bafyrei...")
        if len(text) <= _MAX_TEXT_LENGTH and (usual := _usual_raw(text)) is not None:
            return cls(usual)
        from multiformats import multibase  # noqa: PLC0415 - 75 ms that most programs never need

        if len(text) > _MAX_TEXT_LENGTH:
            raise InvalidCid(f"a text of {len(text)} characters is not a CID")
        # The text of a CIDv0 is always base58btc, and lacks the letter that says so.
        bare = len(text) == _V0_TEXT_LENGTH and text.startswith("Qm")
        try:
            raw = multibase.decode("z" + text if bare else text)
            whole = read_cid(raw, 0, len(raw)) == len(raw)
        except Exception as error:
            # multiformats raises what its parts raise: KeyError, ValueError, errors of its own.
            raise InvalidCid(f"{text!r} is not a CID: {error}") from error
        if not whole or bare != raw.startswith(b"\x12"):
            raise InvalidCid(f"{text!r} is not a CID")
        return cls(raw)

    @classmethod
    def of(cls, data: bytes) -> Cid:
        """Return the CID of a DAG-CBOR block."""
        return cls(ordinary(data))

    @cached_property
    def _parts(self) -> tuple[int, int, int, bytes]:
        if self.is_ordinary:
            return 1, DAG_CBOR, SHA2_256, self[4:]
        if read_cid(self, 0, len(self)) != len(self):
            raise InvalidCid(f"{bytes(self).hex()} is not a CID")
        if self[0] == SHA2_256:
            return 0, DAG_PB, SHA2_256, self[2:]
        codec, at = _varint(self, 1, len(self))
        function, at = _varint(self, at, len(self))
        length, at = _varint(self, at, len(self))
        return 1, codec, function, self[at : at + length]

    @property
    def is_ordinary(self) -> bool:
        """Whether it is a CIDv1 of DAG-CBOR with SHA-256, as that of every node has to be."""
        return len(self) == ORDINARY_LENGTH and self.startswith(ORDINARY_PREFIX)

    @property
    def version(self) -> int:
        """0 or 1."""
        return self._parts[0]

    @property
    def codec(self) -> int:
        """The multicodec of the content, such as 0x71 for dag-cbor or 0x55 for raw."""
        return self._parts[1]

    @property
    def hash_function(self) -> int:
        """The multihash code of the hash function, such as 0x12 for sha2-256."""
        return self._parts[2]

    @property
    def digest(self) -> bytes:
        """The hash itself; 32 bytes for an ordinary CID."""
        return self._parts[3]

    def __str__(self) -> str:
        """The text that people exchange: base32 for CIDv1, base58btc for CIDv0."""
        if len(self) == ORDINARY_LENGTH and self[0] == 1:  # the CIDs of blobs, too
            return _ordinary_text(self)
        from multiformats import multibase  # noqa: PLC0415 - 75 ms that most programs never need

        if self[:1] == b"\x12":
            return multibase.encode(bytes(self), "base58btc")[1:]
        return multibase.encode(bytes(self), "base32")

    def __repr__(self) -> str:
        return f"Cid({str(self)!r})"


def parsed_cid(text: object) -> Cid | None:
    """Return the CID with the text in a record; `None` if it is not a text, or not a CID.

    In records, CIDs are in base32, or a CIDv0. Other forms are not read, for that takes 100 us,
    and a record can have twenty thousand of them.
    """
    if not isinstance(text, str) or len(text) not in _CHARACTERS_IN_RECORDS:
        return None
    raw = _usual_raw(text)
    return None if raw is None else Cid(raw)


def _spreads() -> Iterator[tuple[int, int, int]]:
    """Yield the steps that spread 64 groups of five bits in a number, until each fills a byte.

    In each step, runs of groups are halved, and the upper half of each run moves up by three bits
    for every group in the lower half. Each step is the mask of the upper halves, the mask of the
    lower halves, and by how many bits the upper halves move.
    """
    groups = 32
    while groups:
        half = (1 << 5 * groups) - 1
        lower = sum(half << 16 * groups * run for run in range(32 // groups))
        yield lower << 5 * groups, lower, 3 * groups
        groups //= 2


_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz234567"
_DIGITS: Final = bytes(_ALPHABET[byte % 32] for byte in range(256))
_TEXT_LENGTH: Final = -(-8 * ORDINARY_LENGTH // 5)
_U0, _L0, _S0, _U1, _L1, _S1, _U2, _L2, _S2, _U3, _L3, _S3, _U4, _L4, _S4, _U5, _L5, _S5 = chain(
    *_spreads()
)


def _ordinary_text(raw: bytes) -> str:
    """Return an ordinary CID in base32: five bits for each letter.

    A listing prints hundreds of thousands of them. All letters are made at once, in six steps on
    one number, which takes a tenth of the time of `base64.b32encode`, a loop in Python.
    """
    bits = int.from_bytes(raw) << 320 - 8 * ORDINARY_LENGTH
    bits = (bits & _U0) << _S0 | bits & _L0
    bits = (bits & _U1) << _S1 | bits & _L1
    bits = (bits & _U2) << _S2 | bits & _L2
    bits = (bits & _U3) << _S3 | bits & _L3
    bits = (bits & _U4) << _S4 | bits & _L4
    bits = (bits & _U5) << _S5 | bits & _L5
    return "b" + bits.to_bytes(64).translate(_DIGITS)[:_TEXT_LENGTH].decode()


# What `int` has for base 32 in the place of the alphabet, and what it refuses for all else.
_INT_DIGITS: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(byte)] if byte in _ALPHABET else ord("!")
    for byte in range(256)
)


_BASE_58: Final = {
    letter: at
    for at, letter in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
}


def _usual_raw(text: str) -> bytes | None:
    """Return the bytes of a CID with a text of the usual form: base32, or of a CIDv0.

    It takes a twentieth of the time that `multiformats` takes, and not its import of 75 ms.

    Returns:
        `None` if it has another text, or none.
    """
    if text.startswith("b"):
        raw = _from_base32(text[1:])
    elif len(text) == _V0_TEXT_LENGTH and text.startswith("Qm"):
        raw = _from_base58(text)
    else:
        return None
    if raw is None or raw.startswith(b"\x12") != (text[0] == "Q"):
        return None
    if len(raw) == ORDINARY_LENGTH and raw.startswith((ORDINARY_PREFIX, _RAW_PREFIX)):
        return raw
    try:
        return raw if read_cid(raw, 0, len(raw)) == len(raw) else None
    except InvalidCid:
        return None


def _from_base32(letters: str) -> bytes | None:
    try:
        bits = int(letters.encode("ascii").translate(_INT_DIGITS), 32)
    except ValueError:
        return None
    size, unused = divmod(5 * len(letters), 8)
    if unused > 4 or bits & (1 << unused) - 1:
        return None
    return (bits >> unused).to_bytes(size)


def _from_base58(letters: str) -> bytes | None:
    """Return the 34 bytes of a CIDv0, without the zeros that other texts may start with."""
    number = 0
    try:
        for letter in letters:
            number = 58 * number + _BASE_58[letter]
    except KeyError:
        return None
    return number.to_bytes(34)


def ordinary(data: bytes) -> bytes:
    """Return the CID of a DAG-CBOR block as 36 raw bytes."""
    return ORDINARY_PREFIX + hashlib.sha256(data).digest()


def read_cid(buffer: bytes, start: int, end: int) -> int:
    """Find the end of a binary CID.

    Args:
        buffer: the bytes that contain it.
        start: the index of its first byte.
        end: the index before which it has to end.

    Returns:
        The index after its last byte.

    Raises:
        InvalidCid: if there is no CID at `start`, or it does not end before `end`.
    """
    if buffer[start : min(start + 2, end)] == b"\x12\x20":  # CIDv0 is a bare SHA-256 multihash
        at, length = start + 2, 32
    else:
        version, at = _varint(buffer, start, end)
        if version != 1:
            raise InvalidCid(f"CID version {version} is not known")
        _codec, at = _varint(buffer, at, end)
        _function, at = _varint(buffer, at, end)
        length, at = _varint(buffer, at, end)
        if length > _MAX_DIGEST_BYTES:
            raise InvalidCid(f"its digest has {length} bytes, more than {_MAX_DIGEST_BYTES}")
    if at + length > end:
        raise InvalidCid("the CID is cut off")
    return at + length


def _varint(buffer: bytes, start: int, end: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(buffer[start : min(start + 9, end)]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count > 0:
                raise InvalidCid("a varint in the CID is not minimal")
            return value, start + count + 1
    raise InvalidCid("a varint in the CID does not end")


class _Hash(NamedTuple):
    """A hash function, and how many bytes its digest has; `None` if it has any number of them."""

    digest: Callable[[bytes], bytes]
    length: int | None


def _identity(data: bytes) -> bytes:
    return data


def _hashlib(name: str, length: int) -> _Hash:
    def digest(data: bytes) -> bytes:
        return hashlib.new(name, data).digest()

    return _Hash(digest, length)


def _blake2b(length: int) -> _Hash:
    def digest(data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=length).digest()

    return _Hash(digest, length)


def _blake2s(length: int) -> _Hash:
    def digest(data: bytes) -> bytes:
        return hashlib.blake2s(data, digest_size=length).digest()

    return _Hash(digest, length)


# The hash functions that the standard library has, by their multihash codes
# (https://github.com/multiformats/multicodec/blob/master/table.csv). Missing are those that can be
# forged: SHA-1, MD5, and digests of less than 20 bytes.
_HASHES: Final[dict[int, _Hash]] = {
    0x00: _Hash(_identity, None),
    SHA2_256: _hashlib("sha256", 32),
    0x13: _hashlib("sha512", 64),
    0x14: _hashlib("sha3_512", 64),
    0x15: _hashlib("sha3_384", 48),
    0x16: _hashlib("sha3_256", 32),
    0x17: _hashlib("sha3_224", 28),
    0x20: _hashlib("sha384", 48),
    0x1013: _hashlib("sha224", 28),
    **{0xB200 + length: _blake2b(length) for length in range(20, 65)},
    **{0xB240 + length: _blake2s(length) for length in range(20, 33)},
}


def digest_length(function: int) -> int | None:
    """Return how many bytes a digest has, by the multihash code of its function.

    It is `None` if that is not known here, or if a digest may have any length.
    """
    known = _HASHES.get(function)
    return None if known is None else known.length


def can_verify(cid: Cid) -> bool:
    """Return whether `verify` can tell if a block has this CID: its hash function is known here."""
    return cid.is_ordinary or cid.hash_function in _HASHES


def verify(cid: Cid, data: bytes) -> bool | None:
    """Check the hash of a block against its CID.

    Returns:
        Whether they match, which a digest that was cut never does; `None` if the hash function is
        unknown here. A `CarReader` returns such blocks unchecked. A walk does not use them: see
        `UncheckableBlock`.
    """
    known = _HASHES.get(cid.hash_function)
    return None if known is None else known.digest(data) == cid.digest
