"""Keys of tests, against the library's check of signatures and the protocol's own keys."""

from __future__ import annotations

import json
import sys
from typing import get_args

import pytest

from repo_stream import BadSignature, Cid, MissingExtra, did_key
from repo_stream.mst.signature import verify
from repo_stream.testing import SigningKey, cid_of
from repo_stream.testing.signing import Curve, base58
from support import shared

CURVES: tuple[Curve, ...] = get_args(Curve)
CID = Cid(cid_of(b""))
DID = "did:plc:testrepotestrepotestrepo"


@pytest.mark.parametrize("curve", CURVES)
def test_signature_holds_for_its_key_and_message_alone(curve: Curve) -> None:
    key = SigningKey.generate(curve)
    signature = key.sign(b"message")
    assert len(signature) == 64
    verify(key.did_key, b"message", signature, cid=CID)
    with pytest.raises(BadSignature, match="made with another key"):
        verify(key.did_key, b"another", signature, cid=CID)
    with pytest.raises(BadSignature, match="made with another key"):
        verify(SigningKey.generate(curve).did_key, b"message", signature, cid=CID)


@pytest.mark.parametrize("curve", CURVES)
def test_s_is_in_the_half_that_is_asked_for(curve: Curve) -> None:
    key = SigningKey.generate(curve)
    for _ in range(20):  # each would be in the other half by a chance of one in two
        verify(key.did_key, b"message", key.sign(b"message"), cid=CID)
        with pytest.raises(BadSignature, match="high-S"):
            verify(key.did_key, b"message", key.sign(b"message", high_s=True), cid=CID)


@pytest.mark.parametrize("curve", CURVES)
def test_key_is_found_in_a_document_in_both_forms(curve: Curve) -> None:
    key = SigningKey.generate(curve)
    for method in (key.method(DID), key.legacy_method(DID)):
        assert did_key({"id": DID, "verificationMethod": [method]}) == key.did_key


def test_did_keys_are_those_of_the_protocol() -> None:
    fixtures = json.loads((shared("interop") / "w3c_didkey_K256.json").read_text("utf-8"))
    assert fixtures
    for fixture in fixtures:
        key = SigningKey.generate("k256", secret=int(fixture["privateKeyBytesHex"], 16))
        assert key.did_key == fixture["publicDidKey"]


def test_key_of_a_secret_is_always_the_same_and_any_other_is_new() -> None:
    assert (
        SigningKey.generate("p256", secret=7).did_key
        == SigningKey.generate("p256", secret=7).did_key
    )
    assert SigningKey.generate("p256").did_key != SigningKey.generate("p256").did_key


def test_unknown_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="no such curve: 'ed25519'"):
        SigningKey.generate("ed25519")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - on purpose


def test_base58_keeps_zero_bytes_at_the_start() -> None:
    assert base58(b"\0\0\x01") == "112"
    assert base58(b"Hello World!") == "2NEpo7TZRRrLZSi2U"


def test_key_without_cryptography_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(MissingExtra, match=r"\[crypto\]"):
        SigningKey.generate()


def test_key_is_shown_by_its_public_half() -> None:
    key = SigningKey.generate()
    assert repr(key) == f"<SigningKey {key.did_key}>"
