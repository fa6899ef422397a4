"""`CarDecoder`: its limits, and that lengths which are merely claimed take no memory."""

from __future__ import annotations

import pytest

from repo_stream import CarDecoder, EmptySection, LimitExceeded, Limits
from repo_stream.testing import car_header, cid_of, encode, section, varint, write_car
from support import traced
from support.decoding import (
    AFTER,
    BEFORE,
    GOOD,
    ROOT,
    Block,
    decode,
    decode_in_pieces,
    decode_well,
    framed,
)

KIB = 1024
MIB = 1024 * 1024

# The start of a header, up to its roots.
ROOTS = b"\xa1" + encode("roots")

# --- Limits -----------------------------------------------------------------------------------

LARGEST = max(len(cid) + len(data) for cid, data in BEFORE)


@pytest.mark.parametrize(
    ("name", "enough", "blocks"),
    [
        pytest.param("header_bytes", len(car_header([ROOT])) - 1, [], id="header_bytes"),
        pytest.param("block_bytes", LARGEST, BEFORE[:1], id="block_bytes"),
        pytest.param("car_bytes", len(GOOD), BEFORE[:1], id="car_bytes"),
        pytest.param("blocks", len(BEFORE), BEFORE[:1], id="blocks"),
    ],
)
def test_a_car_at_a_limit_is_read_and_one_over_it_is_refused(
    name: str, enough: int, blocks: list[Block]
) -> None:
    assert decode_well(GOOD, limits=Limits(**{name: enough})) == BEFORE

    outcome = decode(GOOD, limits=Limits(**{name: enough - 1}))
    assert outcome.blocks == blocks
    error = outcome.error
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.maximum, error.actual) == (name, enough - 1, enough)
    assert f"limits=Limits({name}=...)" in str(error)
    assert f"{name}={enough - 1}" in str(error)
    assert error.where in str(error)


def test_the_default_block_limit_is_2_mib() -> None:
    data = b"\xff" * (2 * MIB - 36)
    decoder = CarDecoder()
    [(_, back)] = decoder.feed(write_car([ROOT], [(cid_of(data), data)]))
    assert back == data
    with pytest.raises(LimitExceeded, match="block_bytes=2097152"):
        decoder.feed(varint(2 * MIB + 1))


def test_the_default_header_limit_is_64_kib() -> None:
    assert decode_well(car_header([ROOT] * 1597)) == []
    error = decode(car_header([ROOT] * 1598)).error
    assert isinstance(error, LimitExceeded)
    assert (error.maximum, error.actual) == (64 * KIB, 64 * KIB + 1)


def test_a_limit_of_zero_is_a_limit() -> None:
    for name in ("header_bytes", "block_bytes", "car_bytes", "blocks"):
        error = decode(GOOD, limits=Limits(**{name: 0})).error
        assert isinstance(error, LimitExceeded)
        assert error.limit == name


def test_an_earlier_error_comes_before_the_limit_of_the_car() -> None:
    data = GOOD + b"\0" + AFTER * 10
    outcome = decode(data, limits=Limits(car_bytes=len(GOOD) + 1))
    assert isinstance(outcome.error, EmptySection)
    assert outcome.blocks == BEFORE


@pytest.mark.parametrize(
    "claimed", [2 * MIB + 1, 1 << 32, (1 << 63) - 1], ids=["2-mib-and-1", "4-gib", "greatest"]
)
@pytest.mark.parametrize(
    ("before", "after", "limit"),
    [
        # Only a few bytes more tell that it is a header, and no other file.
        pytest.param(b"", b"\xa2\x65roots\x81", "header_bytes", id="header"),
        pytest.param(GOOD, b"", "block_bytes", id="section"),
    ],
)
def test_a_length_over_the_limit_is_refused_before_its_bytes_come(
    claimed: int, before: bytes, after: bytes, limit: str
) -> None:
    # At once, as soon as its last byte is there: nothing waits for what would follow.
    error = decode(before + varint(claimed) + after).error
    assert isinstance(error, LimitExceeded)
    assert error.actual == claimed
    assert error.limit == limit


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(varint(64 * KIB), id="header-within-the-limit"),
        pytest.param(varint((1 << 63) - 1), id="header"),
        pytest.param(GOOD + varint(2 * MIB), id="section-within-the-limit"),
        pytest.param(GOOD + varint((1 << 63) - 1), id="section"),
        pytest.param(framed(b"\xbb\0\0\0\1" + bytes(4)), id="map-in-header"),
        pytest.param(framed(ROOTS + b"\x9b\0\0\0\1" + bytes(4)), id="list-in-header"),
        pytest.param(framed(ROOTS + b"\x81\x5b\0\0\0\1" + bytes(4)), id="bytes-in-header"),
        pytest.param(framed(b"\xa1\x7b\0\0\0\1" + bytes(4)), id="text-in-header"),
        pytest.param(
            GOOD + section(b"\1\x55\0" + varint((1 << 62) - 1), b"a"), id="digest-in-section"
        ),
    ],
)
def test_a_claimed_length_takes_no_memory(data: bytes) -> None:
    decode(data)
    with traced() as peak:
        decode_in_pieces(data, 7, limits=None, verify_cids=True)
        assert peak() < 128 * KIB  # cbor2 reads strings in steps of 64 KiB
