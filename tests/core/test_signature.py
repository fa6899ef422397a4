"""Signatures of commits, by keys that are made here."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import PublicFormat
from multiformats import multibase

from repo_stream import BadSignature, Cid, Commit, CommitError, MissingExtra, UnsupportedKey
from repo_stream.mst import signature
from repo_stream.testing import build_repo
from support.keys import ORDERS, compact, did_key, did_key_of, numbers_of, signer

RECORDS = {"app.bsky.feed.post/3k2akpa2gis2y": {"text": "signed"}}
NO_COMMIT = Cid.of(b"no commit at all")

CURVES = [pytest.param(ec.SECP256K1(), id="k256"), pytest.param(ec.SECP256R1(), id="p256")]


def made_commit(private: ec.EllipticCurvePrivateKey) -> Commit:
    repo = build_repo(RECORDS, sign=signer(private))
    return Commit.decode(repo.commit, Cid(repo.commit_cid))


# --- Signatures -------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_is_over_the_commit_without_it(curve: ec.EllipticCurve) -> None:
    signed: list[bytes] = []

    def sign(message: bytes) -> bytes:
        signed.append(message)
        return signer(private)(message)

    private = ec.generate_private_key(curve)
    repo = build_repo(RECORDS, sign=sign)
    commit = Commit.decode(repo.commit, Cid(repo.commit_cid))
    assert commit.unsigned_bytes() == signed[0]
    commit.verify_signature(did_key(private))


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_by_another_key_is_refused(curve: ec.EllipticCurve) -> None:
    commit = made_commit(ec.generate_private_key(curve))
    others = [ec.generate_private_key(other) for other in (ec.SECP256K1(), ec.SECP256R1())]
    for other in map(did_key, others):
        with pytest.raises(BadSignature, match="made with another key") as caught:
            commit.verify_signature(other)
        assert caught.value.cid == commit.cid
        assert caught.value.did_key == other
        assert other in str(caught.value)
        assert isinstance(caught.value, CommitError)


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_with_a_bit_changed_is_refused(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    commit = made_commit(private)
    key = did_key(private)
    whole = int.from_bytes(commit.sig, "big")
    for bit in range(0, 512, 5):  # of every byte, and every bit of some
        flipped = (whole ^ 1 << bit).to_bytes(64, "big")
        with pytest.raises(BadSignature):
            replace(commit, sig=flipped).verify_signature(key)
    commit.verify_signature(key)


@pytest.mark.parametrize("curve", CURVES)
def test_a_message_with_a_byte_changed_is_refused(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    message = b"what was signed"
    made = signer(private)(message)
    signature.verify(did_key(private), message, made, cid=NO_COMMIT)
    for at in range(len(message)):
        forged = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        with pytest.raises(BadSignature):
            signature.verify(did_key(private), forged, made, cid=NO_COMMIT)


@pytest.mark.parametrize("curve", CURVES)
def test_signatures_in_other_forms_are_refused(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    message = b"what was signed"
    order = ORDERS[curve.name]
    r, s = numbers_of(private, message)
    der = private.sign(message, ec.ECDSA(SHA256()))
    refused = {
        "high s": compact(r, order - s),
        "DER": der,
        "DER cut to 64 bytes": der[:64],
        "nothing": b"",
        "a byte short": compact(r, s)[:-1],
        "a byte long": compact(r, s) + b"\0",
        "s and r": compact(s, r),
        "no r": compact(0, s),
        "no s": compact(r, 0),
        "nothing but zeros": bytes(64),
        "r beyond the order": compact((r + order) % (1 << 256), s),
        "r is the order": compact(order, s),
        "s is the order": compact(r, order),
        "all ones": b"\xff" * 64,
    }
    for name, form in refused.items():
        with pytest.raises(BadSignature) as caught:
            signature.verify(did_key(private), message, form, cid=NO_COMMIT)
        assert caught.value.reason, name
    signature.verify(did_key(private), message, compact(r, s), cid=NO_COMMIT)


def test_s_may_be_up_to_half_of_the_order() -> None:
    """The greatest s allowed is half of the order, rounded down: one more is refused as high."""
    for curve in (ec.SECP256K1(), ec.SECP256R1()):
        key = did_key(ec.generate_private_key(curve))
        half = ORDERS[curve.name] // 2
        with pytest.raises(BadSignature, match="another key"):
            signature.verify(key, b"", compact(1, half), cid=NO_COMMIT)
        with pytest.raises(BadSignature, match="upper half"):
            signature.verify(key, b"", compact(1, half + 1), cid=NO_COMMIT)


# --- What is not a key --------------------------------------------------------------------------

# The point of a private key of one, the generator itself, on each curve.
K256 = ec.derive_private_key(1, ec.SECP256K1())
P256 = ec.derive_private_key(1, ec.SECP256R1())
X_OF_K256 = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
TEXT = did_key(K256)
MULTIBASE = TEXT.removeprefix("did:key:")


@pytest.mark.parametrize(
    ("not_a_key", "reason"),
    [
        pytest.param("", "does not start", id="empty"),
        pytest.param("did:key:", "base58btc", id="no-key"),
        pytest.param("did:key:z", "key of k256 or p256", id="empty-key"),
        pytest.param("did:plc:ewvi7nxzyoun6zhxrhs64oiz", "resolve the DID", id="did-plc"),
        pytest.param("did:web:example.com", "resolve the DID", id="did-web"),
        pytest.param(MULTIBASE, "does not start", id="bare-multibase"),
        pytest.param("DID:KEY:" + MULTIBASE, "does not start", id="upper-case"),
        pytest.param(" " + TEXT, "does not start", id="blank-before"),
        pytest.param(TEXT + "\n", "base58btc", id="line-end-after"),
        pytest.param(f"{TEXT}#{MULTIBASE}", "base58btc", id="with-fragment"),
        pytest.param(TEXT[:-1], "key of k256 or p256", id="a-character-short"),
        pytest.param(TEXT + "z", "key of k256 or p256", id="a-character-long"),
        pytest.param("did:key:" + MULTIBASE[1:], "base58btc", id="no-multibase-prefix"),
        pytest.param(
            "did:key:" + multibase.encode(multibase.decode(MULTIBASE), "base32"),
            "base58btc",
            id="base32",
        ),
        pytest.param("did:key:z0OIl", "not base58btc", id="not-the-alphabet"),
        pytest.param("did:key:zé\ud800", "not base58btc", id="not-ASCII"),
        pytest.param("did:key:z" + "1" * 56, "key of k256 or p256", id="zeros"),
        pytest.param(
            "did:key:z" + "2" * 1_000_000, "1000009 characters", id="a-million-characters"
        ),
        pytest.param("did:plc:" + "2" * 1_000_000, "1000008 characters", id="a-million-others"),
        pytest.param(
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
            "key of k256 or p256",
            id="ed25519",
        ),
        pytest.param(did_key_of(b"", b"\2" + X_OF_K256), "key of k256 or p256", id="no-codec"),
        pytest.param(
            did_key_of(b"\x00\x24", b"\2" + X_OF_K256), "key of k256 or p256", id="wrong-codec"
        ),
        pytest.param(
            did_key_of(b"\x12\x00", b"\2" + X_OF_K256),
            "key of k256 or p256",
            id="codec-not-a-varint",
        ),
        pytest.param(
            did_key_of(b"\xe7\x81\x00", b"\2" + X_OF_K256),
            "key of k256 or p256",
            id="codec-not-minimal",
        ),
        pytest.param(did_key_of(b"\xe7\x01", b""), "compressed", id="no-point"),
        pytest.param(did_key_of(b"\xe7\x01", b"\0"), "compressed", id="point-at-infinity"),
        pytest.param(did_key_of(b"\xe7\x01", X_OF_K256), "compressed", id="bare-x"),
        pytest.param(did_key_of(b"\xe7\x01", b"\5" + X_OF_K256), "compressed", id="sign-of-5"),
        pytest.param(did_key_of(b"\xe7\x01", b"\4" + X_OF_K256), "compressed", id="half-a-point"),
        pytest.param(
            did_key(K256, PublicFormat.UncompressedPoint), "compressed", id="k256-uncompressed"
        ),
        pytest.param(
            did_key(P256, PublicFormat.UncompressedPoint), "compressed", id="p256-uncompressed"
        ),
        pytest.param(did_key_of(b"\xe7\x01", b"\2" + bytes(31) + b"\5"), "curve", id="k256-x=5"),
        pytest.param(did_key_of(b"\x80\x24", b"\2" + bytes(31) + b"\1"), "curve", id="p256-x=1"),
        pytest.param(did_key_of(b"\xe7\x01", b"\2" + b"\xff" * 32), "curve", id="x-over-the-field"),
        pytest.param(None, "not a string", id="None"),
        pytest.param(TEXT.encode(), "not a string", id="bytes"),
        pytest.param(7, "not a string", id="number"),
    ],
)
def test_what_is_no_did_key_is_refused(not_a_key: object, reason: str) -> None:
    commit = made_commit(K256)
    with pytest.raises(UnsupportedKey, match=reason) as caught:
        commit.verify_signature(cast("str", not_a_key))
    assert isinstance(caught.value, CommitError)
    assert len(str(caught.value)) < 400
    commit.verify_signature(TEXT)


# --- Without the extra --------------------------------------------------------------------------


def test_the_extra_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = made_commit(K256)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"atproto-repo-stream\[crypto\]") as caught:
        commit.verify_signature(TEXT)
    assert caught.value.extra == "crypto"
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ImportError)
