"""The places of a log's blocks, in both forms, against the log itself."""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import cast

import pytest
from hypothesis import given, settings, strategies as st

from repo_stream.car.decoder import read_length
from repo_stream.car.encoder import write_section
from repo_stream.store.buckets import (
    BUCKETS,
    Buckets,
    are_alike,
    bucket_of,
    candidates,
    has_room_for,
)
from repo_stream.store.places import Places, add_places, locate
from support.forms import both_forms

Block = tuple[bytes, bytes]


def cid(n: int) -> bytes:
    return b"\x01\x71\x12\x20" + sha256(b"%d" % n).digest()


def file_of(blocks: list[Block], before: bytes = b"") -> bytes:
    return before + b"".join(part for block in blocks for part in write_section(*block))


form = both_forms("repo_stream.store.places", __name__)


def noted(blocks: list[Block], at: int = 0, batch: int = 100) -> tuple[Places, int]:
    places = Places()
    for start in range(0, len(blocks), batch):
        some = blocks[start : start + batch]
        at = places.add([cid for cid, _ in some], [data for _, data in some], at)
    return places, at


def there(file: bytes, start: int) -> bytes:
    """What is in the section that starts there."""
    length, body = read_length(file, start, start)
    return file[body : body + length]


cids = st.one_of(st.integers(0, 5).map(cid), st.binary(min_size=4, max_size=80))
blocks_of_any_kind = st.lists(st.tuples(cids, st.binary(max_size=300)), max_size=60)


@settings(deadline=None)
@given(blocks_of_any_kind, st.binary(max_size=70), st.integers(1, 20))
def test_every_block_is_found_where_it_came_last(
    blocks: list[Block], before: bytes, batch: int
) -> None:
    file = file_of(blocks, before)
    places, end = noted(blocks, len(before), batch)
    assert end == len(file)
    for key, data in dict(blocks).items():
        (place,) = locate(places.buckets, [key])
        assert there(file, place) == key + data
        every = [there(file, each) for each in candidates(places.buckets, key)]
        assert every[0] == key + data
        assert {*every} <= {key + other for name, other in blocks if name == key}


@pytest.mark.parametrize("length", [0x7F, 0x80, 0x3FFF, 0x4000, 0x1F_FFFF, 0x20_0000], ids=hex)
def test_sections_are_found_around_each_step_of_a_varint(length: int) -> None:
    blocks = [(cid(n), bytes([n]) * (length - 36)) for n in range(3)]
    file = file_of(blocks)
    places, end = noted(blocks)
    assert end == len(file)
    found = locate(places.buckets, [key for key, _ in blocks])
    assert [there(file, place) for place in found] == [key + data for key, data in blocks]


def test_a_block_that_is_not_in_the_file_has_no_place() -> None:
    places, _ = noted([(cid(n), b"data") for n in range(3_000)])
    found = locate(places.buckets, [cid(n) for n in range(10_000, 20_000)])
    # One in some millions agrees with another in all the bits that are kept.
    assert sum(start != -1 for start in found) < 5
    assert not [*candidates(places.buckets, cid(-1))]


def test_places_can_be_taken_out_in_parts() -> None:
    blocks = [(cid(n % 700), b"%d" % n) for n in range(2000)]
    file = file_of(blocks)
    places = Places()
    empty = places.size
    kept: dict[int, bytes] = {}
    at = 0
    for start in range(0, len(blocks), 300):
        some = blocks[start : start + 300]
        at = places.add([key for key, _ in some], [data for _, data in some], at)
        assert places.size > empty
        assert places.place_bytes == 8 * len(some)
        for number, entries in places.take():
            kept[number] = kept.get(number, b"") + entries
        assert (places.size, places.place_bytes) == (empty, 0)
    buckets: Buckets = dict.fromkeys(map(bucket_of, dict(blocks)), b"") | kept
    for key, data in dict(blocks).items():
        (place,) = locate(buckets, [key])
        assert there(file, place) == key + data


def test_what_is_not_a_bucket_is_refused() -> None:
    for wrong in (None, 5):
        buckets = cast("list[bytearray]", [wrong] * BUCKETS)
        with pytest.raises((TypeError, AttributeError)):
            add_places(buckets, [cid(1)], [b"data"], 0)
        with pytest.raises((TypeError, AttributeError)):
            locate(buckets, [cid(1)])


def test_the_size_of_places_is_what_they_take_in_memory() -> None:
    places, _ = noted([(cid(n), bytes(300)) for n in range(20_000)])
    buckets = places.buckets
    taken = sys.getsizeof(buckets) + sum(map(sys.getsizeof, buckets))
    assert places.size == pytest.approx(taken, rel=0.1)


def test_blocks_that_come_again_and_again_have_few_places() -> None:
    cids = [cid(n) for n in range(30)]
    places, end = noted([(each, b"") for each in cids] * 100, batch=10)
    assert places.place_bytes <= 8 * 16 * len(cids)
    every = range(end, 0, -37 * len(cids))
    for number, each in enumerate(cids):
        latest = [end - 37 * (len(cids) - number) for end in every]
        kept = [*candidates(places.buckets, each)]
        assert kept == latest[: len(kept)]
        assert len(kept) >= 4
        assert locate(places.buckets, [each]) == latest[:1]
    counted = places.place_bytes
    assert sum(len(bucket) for _, bucket in places.take()) == counted


def test_a_block_that_comes_together_many_times_has_one_place() -> None:
    places, _ = noted([(cid(1), b"data")] * 1000, batch=500)
    assert places.place_bytes == 8 * 2


def test_blocks_whose_places_are_far_apart_keep_them() -> None:
    """Copies are looked for among the latest alone, so that it takes little time."""
    bucket = bytearray()
    cids, at = [cid(n) for n in range(100)], 0
    for _ in range(6):
        for each in cids:
            at, added = add_places([bucket] * BUCKETS, [each], [b""], at)
            assert added == 1
    assert len(bucket) == 8 * 6 * 100


def test_cids_are_alike_if_they_agree_in_all_bits_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashes = {b"this": 0}
    monkeypatch.setattr("repo_stream.store.buckets.hash", hashes.__getitem__, raising=False)
    for bit in range(64):
        hashes[b"that"] = 1 << bit if bit < 63 else -(1 << 63)
        kept = bit < 14 or bit >= 40  # the bucket, and what a place has
        assert are_alike(b"this", b"that") == (not kept), bit
    hashes[b"that"] = 0
    assert are_alike(b"this", b"that")


@pytest.mark.parametrize("end", [b"\0" * 28, bytes(range(28))], ids=["zeros", "others"])
def test_cids_that_end_alike_are_spread_over_the_buckets(end: bytes) -> None:
    alike = [(b"\x01\x71\x12\x20" + n.to_bytes(4) + end, b"data") for n in range(20_000)]
    places, _ = noted(alike)
    assert max([len(entries) for _number, entries in places.take()]) < 8 * 40


def test_there_is_room_in_files_up_to_a_tebibyte() -> None:
    last = (1 << 40) - 1
    assert has_room_for(last)
    assert not has_room_for(last + 1)
    places = Places()
    places.add([cid(1)], [b"data"], last)
    assert locate(places.buckets, [cid(1)]) == [last]
