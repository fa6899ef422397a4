"""Signatures as atproto makes them: ECDSA over SHA-256, on one of two curves.

The rules are those of https://atproto.com/specs/cryptography: keys as `did:key` with a compressed
point, signatures as the 64 bytes of `r` and `s`. `s` must be in the lower half of its range, as
otherwise there would be a second valid signature for each.

The arithmetic is done by `cryptography`, an extra that only this module needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from repo_stream import did_keys
from repo_stream.did_keys import Curve
from repo_stream.errors import BadSignature, MissingExtra, UnsupportedKey
from repo_stream.ipld.cid import Cid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["verify"]


_SIGNATURE_BYTES: Final = 64


def verify(did_key: str, message: bytes, signature: bytes, *, cid: Cid) -> None:
    """Check that a signature of a message was made with a key.

    Args:
        did_key: the public key, a `did:key` of k256 or p256.
        message: the bytes that were signed, not hashed yet.
        signature: the 64 bytes of `r` and `s`.
        cid: the commit that was signed, for errors.

    Raises:
        BadSignature: if it was made with another key, or is not in the form that atproto demands.
        UnsupportedKey: if `did_key` is anything else.
        MissingExtra: if `cryptography` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415 - an extra
            encode_dss_signature,
        )
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtra(
            extra="crypto", package="cryptography", feature="checking a signature"
        ) from error

    curve, point = did_keys.parse(did_key)
    public_key = _public_key(did_key, curve, point)
    if len(signature) != _SIGNATURE_BYTES:
        reason = f"it has {len(signature)} bytes instead of {_SIGNATURE_BYTES}, r and s"
        raise BadSignature(cid=cid, did_key=did_key, reason=reason)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if s > curve.order // 2:
        reason = "its s is in the upper half of the range (high-S), which atproto does not allow"
        raise BadSignature(cid=cid, did_key=did_key, reason=reason)
    try:
        public_key.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
    except InvalidSignature as error:
        reason = (
            "it was made with another key, or for other bytes; is this the account's current key?"
        )
        raise BadSignature(cid=cid, did_key=did_key, reason=reason) from error


def _public_key(did_key: str, curve: Curve, point: bytes) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ec import (  # noqa: PLC0415 - an extra
        SECP256K1,
        SECP256R1,
        EllipticCurvePublicKey,
    )

    algorithm = SECP256K1() if curve is did_keys.K256 else SECP256R1()
    try:
        return EllipticCurvePublicKey.from_encoded_point(algorithm, point)
    except ValueError as error:
        reason = "its point is not on the curve"
        raise UnsupportedKey(did_key=did_key, reason=reason) from error
    except UnsupportedAlgorithm as error:  # pragma: no cover - an OpenSSL built without the curve
        reason = f"the OpenSSL in use does not know {algorithm.name}"
        raise UnsupportedKey(did_key=did_key, reason=reason) from error
