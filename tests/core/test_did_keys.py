"""Public keys as `did:key`, compared with what `cryptography` makes of the same points."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st
from multiformats import multibase

from repo_stream import UnsupportedKey
from repo_stream.did_keys import (
    K256,
    P256,
    Curve,
    decode_base58,
    did_key_of_multikey,
    did_key_of_point,
    parse,
)
from support.keys import CODECS, ORDERS, did_key
from support.strategies import EXAMPLES

CURVES: dict[Curve, ec.EllipticCurve] = {K256: ec.SECP256K1(), P256: ec.SECP256R1()}
curves = st.sampled_from([K256, P256])


def point_of(private: ec.EllipticCurvePrivateKey, form: PublicFormat) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, form)


def test_curves_are_those_of_the_tests() -> None:
    assert {curve.codec for curve in CURVES} == set(CODECS.values())
    for curve, same in CURVES.items():
        assert curve.codec == CODECS[same.name]
        assert curve.order == ORDERS[same.name]


@EXAMPLES
@given(curves, st.integers(1, P256.order - 1))
def test_both_forms_of_a_point_are_the_same_key(curve: Curve, secret: int) -> None:
    private = ec.derive_private_key(secret, CURVES[curve])
    compressed = point_of(private, PublicFormat.CompressedPoint)
    key = did_key(private)
    assert did_key_of_point(curve, compressed) == key
    assert did_key_of_point(curve, point_of(private, PublicFormat.UncompressedPoint)) == key
    assert did_key_of_multikey(key.removeprefix("did:key:")) == key
    assert parse(key) == (curve, compressed)


def is_a_point(curve: Curve, point: bytes) -> bool:
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve], point)
    except ValueError:
        return False
    return True


numbers = st.binary(min_size=32, max_size=32) | st.integers(0, 8).flatmap(
    lambda small: st.sampled_from(
        [number.to_bytes(32, "big") for number in (small, P256.prime + small, K256.prime - small)]
    )
)


@EXAMPLES
@given(curves, st.sampled_from([b"\2", b"\3"]), numbers)
def test_compressed_point_is_one_that_cryptography_takes(
    curve: Curve, sign: bytes, x: bytes
) -> None:
    point = sign + x
    if is_a_point(curve, point):
        assert parse(did_key_of_point(curve, point)) == (curve, point)
    else:
        with pytest.raises(ValueError, match=f"its point is not on the curve {curve.name}"):
            did_key_of_point(curve, point)


@EXAMPLES
@given(curves, st.integers(1, P256.order - 1), st.integers(0, 519))
def test_uncompressed_point_of_which_a_bit_is_wrong_is_refused(
    curve: Curve, secret: int, bit: int
) -> None:
    private = ec.derive_private_key(secret, CURVES[curve])
    point = int.from_bytes(point_of(private, PublicFormat.UncompressedPoint), "big") ^ 1 << bit
    wrong = point.to_bytes(65, "big")
    assert not is_a_point(curve, wrong) or wrong[0] != 4
    with pytest.raises(ValueError, match=r"it is not a point of|its point is not on the curve"):
        did_key_of_point(curve, wrong)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="infinity"),
        pytest.param(b"\2" + bytes(31), id="short"),
        pytest.param(b"\2" + bytes(33), id="long"),
        pytest.param(b"\4" + bytes(32), id="half"),
        pytest.param(b"\4" + bytes(65), id="more than both"),
        pytest.param(b"\6" + bytes(64), id="hybrid"),
        pytest.param(b"\5" + bytes(32), id="unknown sign"),
        pytest.param(bytes(64), id="x and y alone"),
    ],
)
def test_what_has_not_the_form_of_a_point_is_refused(point: bytes) -> None:
    for curve in CURVES:
        with pytest.raises(ValueError, match="it is not a point of 33 bytes, or of 65 bytes"):
            did_key_of_point(curve, point)


@EXAMPLES
@given(st.binary(max_size=80))
def test_base58_is_read_as_it_is_written(data: bytes) -> None:
    assert decode_base58(multibase.encode(data, "base58btc")) == data


@EXAMPLES
@given(st.text(max_size=200))
def test_whatever_is_not_base58_is_a_value_error(text: str) -> None:
    for read in (decode_base58, did_key_of_multikey):
        for given_text in (text, f"z{text}"):
            try:
                read(given_text)
            except ValueError as error:
                assert str(error).isprintable()  # noqa: PT017 - it may be valid, too


def test_texts_that_are_longer_than_keys_are_are_not_decoded() -> None:
    """It takes quadratic time."""
    for text, reason in (("z" * 128, "not a key of k256"), ("z" * 129, "129 characters")):
        with pytest.raises(ValueError, match=reason):
            did_key_of_multikey(text)
        did_key = f"did:key:{text[8:]}"
        with pytest.raises(UnsupportedKey, match=reason) as caught:
            parse(did_key)
        assert caught.value.did_key.startswith(did_key[:128])
    with pytest.raises(UnsupportedKey, match="it has 10000000 characters"):
        parse("did:key:z".ljust(10_000_000, "z"))
