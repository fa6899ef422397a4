"""The protocol's own keys: legacy and present form, in DID documents and as `did:key`."""

from __future__ import annotations

import json

from cryptography.hazmat.primitives.asymmetric import ec
from multiformats import multibase

from repo_stream import did_key
from repo_stream.did_keys import did_key_of_multikey
from support import keys, shared

INTEROP = shared("interop")
DID = "did:plc:testrepotestrepotestrepo"


def read(name: str) -> list[dict[str, str]]:
    fixtures: list[dict[str, str]] = json.loads((INTEROP / name).read_text("utf-8"))
    assert fixtures
    return fixtures


def document(kind: str, text: str) -> dict[str, object]:
    method = {"id": "#atproto", "controller": DID, "type": kind, "publicKeyMultibase": text}
    return {"id": DID, "verificationMethod": [method]}


def test_both_forms_in_a_document_are_the_same_key() -> None:
    for fixture in read("signature-fixtures.json"):
        key = fixture["publicKeyDid"]
        legacy = document(fixture["didDocSuite"], fixture["publicKeyMultibase"])
        assert did_key(legacy) == key
        assert did_key(document("Multikey", key.removeprefix("did:key:"))) == key


def test_legacy_key_that_is_not_compressed_is_the_same_key() -> None:
    """As the directory in use writes it."""
    curves = {"ES256K": ec.SECP256K1(), "ES256": ec.SECP256R1()}
    for fixture in read("signature-fixtures.json"):
        point = multibase.decode(fixture["publicKeyMultibase"])
        curve = curves[fixture["algorithm"]]
        numbers = ec.EllipticCurvePublicKey.from_encoded_point(curve, point).public_numbers()
        whole = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        legacy = document(fixture["didDocSuite"], multibase.encode(whole, "base58btc"))
        assert did_key(legacy) == fixture["publicKeyDid"]


def test_public_keys_of_the_w3c_are_read() -> None:
    secrets = {
        fixture["publicDidKey"]: bytes.fromhex(fixture["privateKeyBytesHex"])
        for fixture in read("w3c_didkey_K256.json")
    }
    for key, secret in secrets.items():
        private = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1())
        assert key == keys.did_key(private)
        assert did_key_of_multikey(key.removeprefix("did:key:")) == key
    for fixture in read("w3c_didkey_P256.json"):
        key = fixture["publicDidKey"]
        secret = multibase.decode("z" + fixture["privateKeyBytesBase58"])
        private = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
        assert key == keys.did_key(private)
        assert did_key_of_multikey(key.removeprefix("did:key:")) == key
