"""Public keys as `did:key`, of the two curves of atproto: https://atproto.com/specs/cryptography.

A public key is a point of the curve, `x` and `y`. In a `did:key` it is *compressed*: 33 bytes, `x`
and whether `y` is odd, from which the equation of the curve gives `y`. Before it comes the
multicodec of the curve, and both are written in base58btc. In old DID documents it may be
uncompressed, 65 bytes, and without the multicodec.

Decoding takes quadratic time, so that texts are bounded first. To check whether a point is on its
curve takes a tenth of a millisecond, and needs no package.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from repo_stream.errors import UnsupportedKey

__all__ = [
    "K256",
    "P256",
    "Curve",
    "decode_base58",
    "did_key_of_multikey",
    "did_key_of_point",
    "parse",
]

_PREFIX: Final = "did:key:"
# A key has at most 57 characters, or 89 if it is not compressed.
_MAX_LENGTH: Final = 128
_BASE58: Final = re.compile("z[1-9A-HJ-NP-Za-km-z]*")


class Curve(NamedTuple):
    """A curve: its points are those with `y**2 == x**3 + a * x + b`, modulo a prime.

    Attributes:
        name: its name in atproto.
        codec: its multicodec, as a varint.
        prime: the modulus.
        a: the factor of `x`.
        b: the constant.
        order: how many points it has.
    """

    name: str
    codec: bytes
    prime: int
    a: int
    b: int
    order: int


K256: Final = Curve(
    "k256",
    b"\xe7\x01",
    prime=2**256 - 2**32 - 977,
    a=0,
    b=7,
    order=0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141,
)
P256: Final = Curve(
    "p256",
    b"\x80\x24",
    prime=2**256 - 2**224 + 2**192 + 2**96 - 1,
    a=-3,
    b=0x5AC635D8_AA3A93E7_B3EBBD55_769886BC_651D06B0_CC53B0F6_3BCE3C3E_27D2604B,
    order=0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
)
_CURVES: Final = {curve.codec: curve for curve in (K256, P256)}


def parse(did_key: object) -> tuple[Curve, bytes]:
    """Split a `did:key` into its curve and the compressed point, which may not be on the curve.

    Raises:
        UnsupportedKey: if it is anything else.
    """
    if not isinstance(did_key, str):
        raise UnsupportedKey(did_key=repr(did_key), reason="it is not a string")
    if len(did_key) > _MAX_LENGTH:
        shown = did_key[:_MAX_LENGTH] + "..."
        raise UnsupportedKey(did_key=shown, reason=f"it has {len(did_key)} characters")
    if not did_key.startswith(_PREFIX):
        reason = f'it does not start with "{_PREFIX}"'
        if did_key.startswith("did:"):
            reason += "; resolve the DID and pass the signing key from its document"
        raise UnsupportedKey(did_key=did_key, reason=reason)
    try:
        return _parse_multikey(did_key.removeprefix(_PREFIX))
    except ValueError as error:
        raise UnsupportedKey(did_key=did_key, reason=str(error)) from error


def did_key_of_multikey(text: str) -> str:
    """Return the `did:key` of a key as a `Multikey` has it, `z...`.

    Raises:
        ValueError: if it is anything else, or its point is not on the curve.
    """
    return did_key_of_point(*_parse_multikey(text))


def did_key_of_point(curve: Curve, point: bytes) -> str:
    """Return the `did:key` of a point, compressed or not.

    Raises:
        ValueError: if it is anything else, or not on the curve.
    """
    from multiformats import multibase  # noqa: PLC0415 - 75 ms that most programs never need

    compressed = curve.codec + _compressed(curve, point)
    return _PREFIX + multibase.encode(compressed, "base58btc")


def decode_base58(text: str) -> bytes:
    """Return the bytes of a key's text in base58btc, `z...`.

    Raises:
        ValueError: if it is anything else, or longer than keys are.
    """
    if not text.startswith("z"):
        raise ValueError('its key is not in base58btc ("z...")')
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"its key has {len(text)} characters")
    if not _BASE58.fullmatch(text):
        raise ValueError("its key is not base58btc")
    from multiformats import multibase  # noqa: PLC0415 - 75 ms that most programs never need

    return multibase.decode(text)


def _parse_multikey(text: str) -> tuple[Curve, bytes]:
    data = decode_base58(text)
    curve, point = _CURVES.get(data[:2]), data[2:]
    if curve is None:
        raise ValueError("it is not a key of k256 or p256")
    if len(point) != 33 or point[0] not in (2, 3):
        raise ValueError("it is not a compressed point of 33 bytes")
    return curve, point


def _compressed(curve: Curve, point: bytes) -> bytes:
    x = int.from_bytes(point[1:33], "big")
    square = (x**3 + curve.a * x + curve.b) % curve.prime
    match len(point), point[:1]:
        case (33, b"\2" | b"\3"):
            # Whether there is a y, by Euler's criterion.
            is_on_curve = pow(square, curve.prime // 2, curve.prime) == 1
            compressed = point
        case (65, b"\4"):
            y = int.from_bytes(point[33:], "big")
            is_on_curve = y < curve.prime and y * y % curve.prime == square
            compressed = bytes([2 + y % 2]) + point[1:33]
        case _:
            raise ValueError("it is not a point of 33 bytes, or of 65 bytes uncompressed")
    if x >= curve.prime or not is_on_curve:
        raise ValueError(f"its point is not on the curve {curve.name}")
    return compressed
