"""Keys that sign commits, as an account's server has them, for tests.

They share no code with what checks signatures. The arithmetic is done by `cryptography`, an extra,
which is imported when a key is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["Curve", "SigningKey", "base58"]


Curve: TypeAlias = Literal["k256", "p256"]
"""A curve that atproto signs with: `"k256"` is secp256k1, `"p256"` is NIST P-256."""

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_CODECS: Final = {"k256": b"\xe7\x01", "p256": b"\x80\x24"}
_LEGACY_TYPES: Final = {
    "k256": "EcdsaSecp256k1VerificationKey2019",
    "p256": "EcdsaSecp256r1VerificationKey2019",
}
_ORDERS: Final = {
    "k256": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}


class SigningKey:
    """A private key that signs commits. `SigningKey.generate` makes one.

    Example:
        >>> import anyio
        >>> from repo_stream import load_commit
        >>> from repo_stream.testing import SigningKey, build_car
        >>> key = SigningKey.generate("p256")
        >>> commit = anyio.run(load_commit, build_car({}, sign=key.sign))
        >>> commit.verify_signature(key.did_key)  # or BadSignature

    Attributes:
        curve: the curve, `"k256"` or `"p256"`.
    """

    def __init__(self, curve: Curve, private: EllipticCurvePrivateKey) -> None:
        self.curve: Curve = curve
        self._private = private

    @classmethod
    def generate(cls, curve: Curve = "k256", *, secret: int | None = None) -> Self:
        """Return a new key.

        Args:
            curve: its curve.
            secret: the secret number, from 1 on, for a key that is the same each time. A random one
                by default.

        Returns:
            The key.

        Raises:
            ValueError: if there is no such curve, or the number is too large.
            MissingExtra: if `cryptography` is not installed.
        """
        if curve not in _CODECS:
            raise ValueError(f"no such curve: {curve!r}")
        try:
            from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - an extra
        except ImportError as error:
            from repo_stream import MissingExtra  # noqa: PLC0415 - to say what is missing

            raise MissingExtra(
                extra="crypto", package="cryptography", feature="signing commits"
            ) from error
        kind = ec.SECP256K1() if curve == "k256" else ec.SECP256R1()
        private = (
            ec.generate_private_key(kind) if secret is None else ec.derive_private_key(secret, kind)
        )
        return cls(curve, private)

    def __repr__(self) -> str:
        return f"<SigningKey {self.did_key}>"

    @property
    def multibase(self) -> str:
        """The public key as a `Multikey` has it: `z`, and base58 of codec and compressed point."""
        return "z" + base58(_CODECS[self.curve] + self._point(compressed=True))

    @property
    def did_key(self) -> str:
        """The public key as a `did:key`, as `Commit.verify_signature` takes it."""
        return f"did:key:{self.multibase}"

    def sign(self, message: bytes, *, high_s: bool = False) -> bytes:
        """Return the signature of a message, as in a commit.

        It can be passed on as the `sign` of `build_car`, `build_repo`, `made_car` and `commit`.

        Args:
            message: the bytes to sign, which are hashed here.
            high_s: put `s` in the upper half of its range, which atproto does not allow.

        Returns:
            The 64 bytes of `r` and `s`.
        """
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415 - an extra
            decode_dss_signature,
        )
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - an extra

        r, s = decode_dss_signature(self._private.sign(message, ECDSA(SHA256())))
        order = _ORDERS[self.curve]
        if (s > order // 2) != high_s:
            s = order - s
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def method(self, did: str) -> dict[str, str]:
        """Return the entry of a DID document for this key, of the type `Multikey`.

        Args:
            did: the account.
        """
        return {
            "id": f"{did}#atproto",
            "type": "Multikey",
            "controller": did,
            "publicKeyMultibase": self.multibase,
        }

    def legacy_method(self, did: str) -> dict[str, str]:
        """Return the entry of a DID document for this key, as older directories write it.

        Its type names the curve, and the key is base58 of the uncompressed point, without a codec.

        Args:
            did: the account.
        """
        return {
            "id": "#atproto",
            "type": _LEGACY_TYPES[self.curve],
            "controller": did,
            "publicKeyMultibase": "z" + base58(self._point(compressed=False)),
        }

    def _point(self, *, compressed: bool) -> bytes:
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - an extra
            Encoding,
            PublicFormat,
        )

        form = PublicFormat.CompressedPoint if compressed else PublicFormat.UncompressedPoint
        return self._private.public_key().public_bytes(Encoding.X962, form)


def base58(data: bytes) -> str:
    """Encode bytes in base58btc, without the `z` that multibase puts before it."""
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text
