"""Signatures as atproto makes them: ECDSA over SHA-256, on one of two curves.

The rules are those of https://atproto.com/specs/cryptography: keys as `did:key` with a compressed
point, signatures as the 64 bytes of `r` and `s`. `s` must be in the lower half of its range, as
otherwise there would be a second valid signature for each.

The arithmetic is done by `cryptography`, an extra that only this module needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from repo_stream.errors import BadSignature, MissingExtra, UnsupportedKey
from repo_stream.ipld.cid import Cid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["verify"]


_SIGNATURE_BYTES: Final = 64
_PREFIX: Final = "did:key:"
# A key of these curves has at most 57 characters; decoding takes quadratic time.
_MAX_DID_KEY_LENGTH: Final = 128
_POINT_BYTES: Final = 33
# The multicodec at the start of a did:key, as a varint, and the order of the curve that it names.
_K256_CODEC: Final = b"\xe7\x01"
_P256_CODEC: Final = b"\x80\x24"
_ORDERS: Final = {
    _K256_CODEC: 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141,
    _P256_CODEC: 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
}


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

    codec, point = _parse(did_key)
    public_key = _public_key(did_key, codec, point)
    if len(signature) != _SIGNATURE_BYTES:
        reason = f"it has {len(signature)} bytes instead of {_SIGNATURE_BYTES}, r and s"
        raise BadSignature(cid=cid, did_key=did_key, reason=reason)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if s > _ORDERS[codec] // 2:
        reason = "its s is in the upper half of the range (high-S), which atproto does not allow"
        raise BadSignature(cid=cid, did_key=did_key, reason=reason)
    try:
        public_key.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
    except InvalidSignature as error:
        reason = (
            "it was made with another key, or for other bytes; is this the account's current key?"
        )
        raise BadSignature(cid=cid, did_key=did_key, reason=reason) from error


def _parse(did_key: object) -> tuple[bytes, bytes]:
    """Split a `did:key` into the codec that names its curve, and the compressed point."""
    if not isinstance(did_key, str):
        raise UnsupportedKey(did_key=repr(did_key), reason="it is not a string")
    if len(did_key) > _MAX_DID_KEY_LENGTH:
        shown = did_key[:_MAX_DID_KEY_LENGTH] + "..."
        raise UnsupportedKey(did_key=shown, reason=f"it has {len(did_key)} characters")
    if not did_key.startswith(_PREFIX):
        reason = f'it does not start with "{_PREFIX}"'
        if did_key.startswith("did:"):
            reason += "; resolve the DID and pass the signing key from its document"
        raise UnsupportedKey(did_key=did_key, reason=reason)
    encoded = did_key.removeprefix(_PREFIX)
    if not encoded.startswith("z"):
        raise UnsupportedKey(did_key=did_key, reason='its key is not in base58btc ("z...")')
    from multiformats import multibase  # noqa: PLC0415 - 75 ms that most programs never need

    try:
        data = multibase.decode(encoded)
    except Exception as error:
        # multiformats raises what its parts raise: KeyError, ValueError, errors of its own.
        raise UnsupportedKey(did_key=did_key, reason=f"it is not base58btc: {error}") from error
    codec, point = data[:2], data[2:]
    if codec not in _ORDERS:
        raise UnsupportedKey(did_key=did_key, reason="it is not a key of k256 or p256")
    if len(point) != _POINT_BYTES or point[0] not in (2, 3):
        raise UnsupportedKey(did_key=did_key, reason="it is not a compressed point of 33 bytes")
    return codec, point


def _public_key(did_key: str, codec: bytes, point: bytes) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ec import (  # noqa: PLC0415 - an extra
        SECP256K1,
        SECP256R1,
        EllipticCurvePublicKey,
    )

    curve = SECP256K1() if codec == _K256_CODEC else SECP256R1()
    try:
        return EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError as error:
        reason = "its point is not on the curve"
        raise UnsupportedKey(did_key=did_key, reason=reason) from error
    except UnsupportedAlgorithm as error:  # pragma: no cover - an OpenSSL built without the curve
        reason = f"the OpenSSL in use does not know {curve.name}"
        raise UnsupportedKey(did_key=did_key, reason=reason) from error
