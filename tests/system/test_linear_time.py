"""What takes time in proportion to its bytes: four times as many may take no more than nine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from time import process_time

import pytest

from repo_stream import CarDecoder, Cid, Limits
from repo_stream.mst.node import decode_node
from repo_stream.testing import Entry, cid_of, node, write_car
from support.decoding import BEFORE, ROOT

pytestmark = pytest.mark.alone


def times(one: Callable[[], object], other: Callable[[], object]) -> float:
    """How many times the processor time of `one` the `other` takes, each at its quickest."""
    quickest = [float("inf"), float("inf")]
    for _ in range(5):
        for place, work in enumerate((one, other)):
            began = process_time()
            work()
            quickest[place] = min(quickest[place], process_time() - began)
    return quickest[1] / quickest[0]


def fed_by_the_byte(car: bytes) -> Callable[[], None]:
    def feed() -> None:
        decoder = CarDecoder()
        for at in range(len(car)):
            decoder.feed(car[at : at + 1])
        decoder.finish()

    return feed


def fed_whole(car: bytes) -> Callable[[], None]:
    def feed() -> None:
        decoder = CarDecoder()
        decoder.feed(car)
        decoder.finish()

    return feed


def test_a_block_that_comes_byte_by_byte_takes_linear_time() -> None:
    def car(size: int) -> bytes:
        return write_car([ROOT], [(cid_of(bytes(size)), bytes(size))])

    # A copy of all that waits, with every byte, would make it sixteen.
    assert times(fed_by_the_byte(car(75_000)), fed_by_the_byte(car(300_000))) < 9


def test_many_blocks_that_come_byte_by_byte_take_linear_time() -> None:
    def car(copies: int) -> bytes:
        return write_car([ROOT], [BEFORE[0]] * copies)

    assert times(fed_by_the_byte(car(200)), fed_by_the_byte(car(800))) < 9


def test_blocks_whose_cids_are_not_ordinary_take_linear_time() -> None:
    def car(count: int) -> bytes:
        return write_car([ROOT], [(b"\x01\x55" + cid_of(b"")[2:], b"")] * count)

    # Were all that follows cut and hashed again after each, it would be sixteen.
    assert times(fed_whole(car(2_000)), fed_whole(car(8_000))) < 9


def test_long_prefixes_of_keys_cost_no_more_than_their_bytes() -> None:
    def of_prefixes(size: int) -> Callable[[], object]:
        keys = [b"k" * size + b"%05d" % n for n in range(8192)]
        rows: list[Entry] = [(0, keys[0], cid_of(b""), None)]
        for before, key in pairwise(keys):
            shared = next(at for at in range(size, len(key)) if before[at] != key[at])
            rows.append((shared, key[shared:], cid_of(b""), None))
        block = node(None, rows)
        assert decode_node(block, Cid.of(block), Limits())[1] == keys
        return lambda: decode_node(block, Cid.of(block), Limits())

    # Were every shared byte compared one by one, ten times as many would take eight times as long.
    assert times(of_prefixes(100), of_prefixes(1000)) < 4
