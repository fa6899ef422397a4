"""Keys of accounts, and signatures as the protocol has them."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multiformats import multibase

# The multicodec of each curve as a varint, and the order of its group.
CODECS = {"secp256k1": b"\xe7\x01", "secp256r1": b"\x80\x24"}


ORDERS = {
    "secp256k1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}


def did_key_of(codec: bytes, point: bytes) -> str:
    return "did:key:" + multibase.encode(codec + point, "base58btc")


def did_key(
    private: ec.EllipticCurvePrivateKey, form: PublicFormat = PublicFormat.CompressedPoint
) -> str:
    point = private.public_key().public_bytes(Encoding.X962, form)
    return did_key_of(CODECS[private.curve.name], point)


def numbers_of(private: ec.EllipticCurvePrivateKey, message: bytes) -> tuple[int, int]:
    """Sign, and give r and the lower of the two s that hold."""
    r, s = decode_dss_signature(private.sign(message, ec.ECDSA(SHA256())))
    return r, min(s, ORDERS[private.curve.name] - s)


def compact(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def signer(private: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    return lambda message: compact(*numbers_of(private, message))
