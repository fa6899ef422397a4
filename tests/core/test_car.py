"""`CarDecoder`: blocks of every kind, whole, byte by byte, and in pieces of several sizes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from repo_stream import (
    CarDecoder,
    CarHeader,
    CarTrailingData,
    Cid,
    CidMismatch,
    EmptySection,
    Limits,
    RepoStreamError,
    TruncatedCar,
)
from repo_stream.car.decoder import cut_ordinary
from repo_stream.car.encoder import section_size, write_header, write_section
from repo_stream.testing import car_header, cid_of, section, varint, write_car
from support import traced
from support.decoding import (
    AFTER,
    BEFORE,
    CHECKED,
    CID_V0,
    GOOD,
    NODE,
    ROOT,
    ROOT_DATA,
    UNCHECKED,
    VARIED,
    Block,
    block,
    cid_v1,
    decode,
    decode_well,
)
from support.forms import both_forms

form = both_forms("repo_stream.car.decoder", __name__)

KIB = 1024

# --- What is good -----------------------------------------------------------------------------


def test_blocks_come_in_the_order_of_the_file() -> None:
    blocks = [block("b"), block("a"), block("b"), block("c" * 5000)]
    outcome = decode(write_car([ROOT], blocks))
    assert outcome.header == CarHeader(roots=(Cid(ROOT),), version=1)
    assert outcome.blocks == blocks
    assert outcome.error is None


def test_cids_and_blocks_are_plain_bytes() -> None:
    decoder = CarDecoder()
    odd = Cid(cid_v1(0x55, 0x12, hashlib.sha256(NODE).digest()))
    blocks = decoder.feed(write_car([ROOT], [*BEFORE, (odd, NODE)]))
    assert {type(part) for pair in blocks for part in pair} == {bytes}


def test_counters_and_header_move_on_with_the_sections() -> None:
    decoder = CarDecoder()
    head = car_header([ROOT])
    assert (decoder.header, decoder.offset, decoder.blocks) == (None, 0, 0)
    assert decoder.feed(head[:-1]) == []
    assert (decoder.header, decoder.offset) == (None, 0)
    assert decoder.feed(head[-1:]) == []
    assert decoder.header == CarHeader(roots=(Cid(ROOT),))
    assert (decoder.offset, decoder.blocks) == (len(head), 0)
    first = section(*BEFORE[0])
    assert decoder.feed(first + b"\x90") == BEFORE[:1]
    assert (decoder.offset, decoder.blocks) == (len(head) + len(first), 1)


def test_a_header_alone_is_a_car() -> None:
    assert decode_well(car_header([ROOT])) == []


def test_a_block_may_be_empty() -> None:
    blocks = [(cid_of(b""), b""), BEFORE[0], (cid_of(b""), b"")]
    assert decode_well(write_car([ROOT], blocks)) == blocks
    assert decode_well(write_car([ROOT], blocks), verify_cids=False) == blocks


@pytest.mark.parametrize(
    "roots",
    [
        pytest.param([], id="none"),
        pytest.param([ROOT, *(cid_of(bytes([n])) for n in range(5))], id="further"),
        pytest.param([ROOT, ROOT], id="twice"),
        pytest.param([CID_V0, ROOT], id="cidv0"),
        pytest.param([cid_of(NODE, codec=0x55)], id="raw"),
        pytest.param([cid_v1(0x55, 0, b"abc")], id="identity"),
        pytest.param([cid_v1(0x55, 0, b"")], id="empty-identity"),
        pytest.param([cid_v1(0x0129, 0x13, bytes(64))], id="dag-json-sha512"),
        pytest.param([cid_v1(0x300000, 0x3FFFFF, bytes(7))], id="of-unknown-kinds"),
    ],
)
def test_roots_of_every_kind_are_read_in_order(roots: list[bytes]) -> None:
    outcome = decode(write_car(roots, BEFORE))
    assert outcome.error is None
    assert outcome.header == CarHeader(roots=tuple(map(Cid, roots)))
    assert outcome.header is not None
    assert {type(root) for root in outcome.header.roots} <= {Cid}


# --- CIDs of every kind -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKED)
def test_a_block_under_a_cid_of_any_kind_is_read(name: str) -> None:
    blocks = [*BEFORE, (CHECKED[name](NODE), NODE), block("after")]
    assert decode_well(write_car([ROOT], blocks)) == blocks
    assert decode_well(write_car([ROOT], blocks), verify_cids=False) == blocks


@pytest.mark.parametrize("name", UNCHECKED)
def test_a_block_whose_hash_cannot_be_computed_is_read(name: str) -> None:
    blocks = [*BEFORE, (UNCHECKED[name], NODE), block("after")]
    assert decode_well(write_car([ROOT], blocks)) == blocks
    assert decode_well(write_car([ROOT], blocks), verify_cids=False) == blocks


FORGERIES = {
    "first-bit": bytes([NODE[0] ^ 128]) + NODE[1:],
    "last-bit": NODE[:-1] + bytes([NODE[-1] ^ 1]),
    "shorter": NODE[:-1],
    "longer": NODE + b"\0",
    "empty": b"",
    "other": b"other",
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_block_that_does_not_have_its_cid_is_refused(name: str) -> None:
    cid = CHECKED[name](NODE)
    for forgery, forged in FORGERIES.items():
        data = GOOD + section(cid, forged) + AFTER
        outcome = decode(data)
        assert outcome.blocks == BEFORE, forgery
        assert isinstance(outcome.error, CidMismatch), forgery
        assert (outcome.error.cid, outcome.error.offset) == (cid, len(GOOD))
        assert type(outcome.error.cid) is Cid
        assert str(Cid(cid)) in str(outcome.error)

        assert decode_well(data, verify_cids=False) == [*BEFORE, (cid, forged), block("after")]


@pytest.mark.parametrize(
    "cid",
    [
        pytest.param(cid_v1(0x71, 0x12, hashlib.sha256(NODE).digest()[:20]), id="digest-cut"),
        pytest.param(cid_v1(0x71, 0x12, b""), id="no-digest"),
        pytest.param(cid_v1(0x71, 0x12, hashlib.sha256(NODE).digest() + b"\0"), id="digest-longer"),
        pytest.param(cid_v1(0x71, 0x13, hashlib.sha256(NODE).digest()), id="other-function"),
        pytest.param(
            cid_v1(0x71, 0x12, hashlib.sha256(NODE).digest()[::-1]), id="digest-backwards"
        ),
        pytest.param(cid_v1(0x55, 0x00, NODE[:-1]), id="identity-of-less"),
    ],
)
def test_a_cid_that_is_nearly_that_of_its_block_is_refused(cid: bytes) -> None:
    outcome = decode(GOOD + section(cid, NODE))
    assert outcome.blocks == BEFORE
    assert isinstance(outcome.error, CidMismatch)
    assert (outcome.error.cid, outcome.error.offset) == (cid, len(GOOD))


# --- Cut off ----------------------------------------------------------------------------------


def test_a_car_that_is_cut_off_is_refused_at_every_offset() -> None:
    # A header and a section with lengths of two bytes, and sections with lengths of one.
    blocks = [(ROOT, ROOT_DATA), block("x" * 120), (cid_of(b""), b"")]
    parts = [car_header([ROOT] * 4), *(section(cid, data) for cid, data in blocks)]
    assert [len(part) > 128 for part in parts] == [True, False, True, False]
    whole = b"".join(parts)
    start, done = 0, -1  # of the part that is cut, and how many blocks come before it
    for part in parts:
        prefix = 2 if len(part) > 128 else 1
        for have in range(len(part)):
            outcome = decode(whole[: start + have])
            assert outcome.blocks == blocks[: max(done, 0)]
            assert (outcome.header is None) == (done < 0)
            if have == 0 and start > 0:
                assert outcome.error is None
                continue
            error = outcome.error
            assert isinstance(error, TruncatedCar)
            need = len(part) if have >= prefix else None
            assert (error.offset, error.have, error.need) == (start, have, need)
            assert ("header" if start == 0 else "section") in str(error)
            assert "incomplete" in str(error)
        start += len(part)
        done += 1
    assert decode_well(whole) == blocks


def test_a_car_that_is_cut_off_within_a_length_of_three_bytes_is_refused() -> None:
    whole = section(*block("x" * 20_000))
    assert whole[2] < 128 <= whole[1]
    for have in (1, 2, 3, 4, 20_000):
        outcome = decode(GOOD + whole[:have])
        assert outcome.blocks == BEFORE
        assert isinstance(outcome.error, TruncatedCar)
        assert outcome.error.offset == len(GOOD)
        assert (outcome.error.have, outcome.error.need) == (have, len(whole) if have > 2 else None)


# --- Pieces -----------------------------------------------------------------------------------


def test_a_block_in_small_pieces_takes_no_more_memory_than_a_few_of_it() -> None:
    size = 60_000
    data = write_car([ROOT], [(cid_of(bytes(size)), bytes(size))])
    decoder = CarDecoder()
    # A list of its 30,000 pieces of two bytes would take fifteen of it.
    with traced() as peak:
        blocks = [
            found for at in range(0, len(data), 2) for found in decoder.feed(data[at : at + 2])
        ]
        assert peak() < 6 * size
    decoder.finish()
    assert [len(data) for _, data in blocks] == [size]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("size", [7, 10_000], ids=["small", "whole"])
def test_pieces_may_be_any_bytes(
    kind: Callable[[bytes], bytearray | memoryview], size: int
) -> None:
    decoder = CarDecoder()
    blocks: list[Block] = []
    for at in range(0, len(VARIED), size):
        blocks += decoder.feed(kind(VARIED[at : at + size]))
    decoder.finish()
    assert blocks == CarDecoder().feed(VARIED)
    assert {type(part) for block in blocks for part in block} == {bytes}


VIEWS: dict[str, Callable[[bytes], memoryview]] = {
    "every-second": lambda data: memoryview(b"".join([bytes((each, 0)) for each in data]))[::2],
    "backwards": lambda data: memoryview(data[::-1])[::-1],
    "signed": lambda data: memoryview(data).cast("b"),
    "integers": lambda data: memoryview(data).cast("Q"),
    "two-dimensions": lambda data: memoryview(data).cast("B", (2, len(data) // 2)),
    "a-column": lambda data: memoryview(data).cast("B", (len(data), 1)),
}


@pytest.mark.parametrize("kind", VIEWS.values(), ids=VIEWS)
def test_pieces_may_be_views_of_any_form(kind: Callable[[bytes], memoryview]) -> None:
    decoder = CarDecoder()
    size = len(VARIED) // 16 * 8
    # The second piece is joined to what the first left over.
    blocks = decoder.feed(kind(VARIED[:size])) + decoder.feed(kind(VARIED[size : 2 * size]))
    assert blocks == CarDecoder().feed(VARIED[: 2 * size])
    assert {type(part) for block in blocks for part in block} == {bytes}


def test_blocks_outlast_the_buffer_that_they_came_in() -> None:
    buffer = bytearray(VARIED)
    blocks = CarDecoder().feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert blocks == CarDecoder().feed(VARIED)


@pytest.mark.parametrize("piece", ["text", 5, None], ids=["text", "number", "none"])
def test_pieces_of_any_other_type_are_refused(piece: Any) -> None:
    with pytest.raises(TypeError):
        CarDecoder().feed(piece)


def test_empty_pieces_are_not_kept() -> None:
    decoder = CarDecoder()
    with traced() as peak:
        for _ in range(2_000):
            assert decoder.feed(b"") == []
        assert peak() < 4 * KIB
    assert decoder.feed(GOOD) == BEFORE


# --- Errors stay ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD + b"\0" + AFTER, id="section"),
        pytest.param(GOOD + section(ROOT, b"forged") + AFTER, id="mismatch"),
        pytest.param(b"\0" + GOOD, id="header"),
        pytest.param(GOOD + varint(1 << 40), id="limit"),
    ],
)
def test_an_error_is_raised_again_by_every_later_call(data: bytes) -> None:
    decoder = CarDecoder()
    before = decode(data).blocks
    if before:
        assert decoder.feed(data) == before
        data = b""
    with pytest.raises(RepoStreamError) as first:
        decoder.feed(data)
    for _ in range(2):
        for call in (
            lambda: decoder.feed(b""),
            lambda: decoder.feed(GOOD),
            lambda: decoder.feed(AFTER),
            decoder.finish,
        ):
            with pytest.raises(RepoStreamError) as again:
                call()
            assert again.value is first.value
    assert decoder.blocks == len(before)


def test_blocks_come_before_the_error_that_ends_them() -> None:
    decoder = CarDecoder()
    assert decoder.feed(GOOD + b"\0") == BEFORE
    with pytest.raises(EmptySection):
        decoder.finish()


def test_a_truncated_car_stays_truncated() -> None:
    decoder = CarDecoder()
    assert decoder.feed(GOOD[:-1]) == BEFORE[:1]
    with pytest.raises(TruncatedCar) as first:
        decoder.finish()
    with pytest.raises(TruncatedCar) as again:
        decoder.feed(GOOD[-1:])
    assert again.value is first.value


def test_bytes_after_the_end_are_refused() -> None:
    decoder = CarDecoder()
    assert decoder.feed(GOOD) == BEFORE
    decoder.finish()
    decoder.finish()
    assert decoder.feed(b"") == []
    for piece in (AFTER, b"", b"\0"):
        with pytest.raises(CarTrailingData) as raised:
            decoder.feed(piece)
        assert raised.value.offset == len(GOOD)
    with pytest.raises(CarTrailingData):
        decoder.finish()


# --- Whatever comes ---------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A CAR with some bytes changed, taken out or put in."""
    data = bytearray(VARIED)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        data[at : at + length] = draw(st.binary(max_size=length + 3))
    return bytes(data)


@given(data=damaged() | st.binary(max_size=100), verify_cids=st.booleans())
@example(data=VARIED, verify_cids=True)
@example(data=VARIED, verify_cids=False)
@settings(deadline=None, max_examples=150)
def test_pieces_make_no_difference_to_a_damaged_car(data: bytes, verify_cids: bool) -> None:
    limits = Limits(block_bytes=500, header_bytes=200, car_bytes=2000, blocks=30)
    outcome = decode(data, limits=limits, verify_cids=verify_cids)
    assert outcome.error is not None or outcome.offset == len(data)


def cut_plainly(
    data: bytes, at: int, most: int, longest: int, verify_cids: bool
) -> tuple[int, list[Block]]:
    """Do what `cut_ordinary` does, a section at a time."""
    blocks: list[Block] = []
    while len(blocks) < most:
        for size in (1, 2):
            head = data[at : at + size]
            length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(head))
            if head == varint(length):
                break
        else:
            return at, blocks
        body = data[at + size : at + size + length]
        cid, content = body[:36], body[36:]
        right = cid_of(content) == cid if verify_cids else cid.startswith(b"\x01\x71\x12\x20")
        if len(body) < length or length > longest or len(cid) < 36 or not right:
            return at, blocks
        blocks.append((cid, content))
        at += size + length
    return at, blocks


SECTIONS = len(write_car([ROOT, CID_V0], []))


@given(
    data=damaged() | st.binary(max_size=100),
    at=st.just(SECTIONS) | st.integers(0, len(VARIED)),
    most=st.integers(0, 4) | st.just(100),
    longest=st.sampled_from([35, 36, 100, 236, 237, 2000]),
    verify_cids=st.booleans(),
    known=st.integers(0, 2),
)
@example(data=VARIED, at=SECTIONS, most=100, longest=2000, verify_cids=True, known=0)
@example(data=VARIED, at=SECTIONS, most=100, longest=2000, verify_cids=False, known=2)
@settings(deadline=None, max_examples=300)
def test_the_fast_cutter_agrees_with_a_plain_one(  # noqa: PLR0917 - Hypothesis gives them by name
    data: bytes, at: int, most: int, longest: int, verify_cids: bool, known: int
) -> None:
    cids, blocks = [b"known"] * known, [b"before"] * known
    end = cut_ordinary(
        data, at, cids, blocks, most=known + most, longest=longest, verify=verify_cids
    )
    assert (cids[:known], blocks[:known]) == ([b"known"] * known, [b"before"] * known)
    cut = list(zip(cids[known:], blocks[known:], strict=True))
    assert (end, cut) == cut_plainly(data, at, most, longest, verify_cids)


# Sections of the least length, and around those that take another byte.
LENGTHS = [36, 0x7F, 0x80, 0x81, 0xFF, 0x100, 0x3FFF]
OF_LENGTHS = [(cid_of(data), data) for data in (bytes(length - 36) for length in LENGTHS)]


@pytest.mark.parametrize("verify_cids", [True, False], ids=["verified", "not-verified"])
def test_the_fast_cutter_takes_every_ordinary_section(verify_cids: bool) -> None:
    data = b"".join(section(*block) for block in OF_LENGTHS)
    cids: list[bytes] = []
    blocks: list[bytes] = []
    end = cut_ordinary(data, 0, cids, blocks, most=9, longest=0x3FFF, verify=verify_cids)
    assert end == len(data)
    assert list(zip(cids, blocks, strict=True)) == OF_LENGTHS


@pytest.mark.parametrize("beyond", [0, 1, 100, sys.maxsize])
def test_the_fast_cutter_takes_nothing_from_beyond_the_end(beyond: int) -> None:
    data = section(*OF_LENGTHS[0])
    at = min(len(data) + beyond, sys.maxsize)
    assert cut_ordinary(data, at, [], [], most=9, longest=0x3FFF, verify=True) == at


def test_a_mismatch_after_ordinary_sections_has_its_offset() -> None:
    for before in OF_LENGTHS:
        good = write_car([ROOT], [before, BEFORE[0]])
        outcome = decode(good + section(ROOT, b"forged"))
        assert outcome.blocks == [before, BEFORE[0]]
        assert isinstance(outcome.error, CidMismatch)
        assert outcome.offset == outcome.error.offset == len(good)


# --- Options and writing ----------------------------------------------------------------------


def test_bytes_that_wait_are_those_after_the_last_whole_section() -> None:
    car = write_car([ROOT], [*BEFORE, *OF_LENGTHS])
    for size in (1, 7, 100, len(car)):
        decoder = CarDecoder()
        assert decoder.waiting == b""
        for at in range(0, len(car), size):
            fed = car[: at + size]
            decoder.feed(car[at : at + size])
            assert decoder.waiting == fed[decoder.offset :]
        assert (decoder.waiting, decoder.offset) == (b"", len(car))


def test_nothing_waits_after_an_error() -> None:
    decoder = CarDecoder()
    decoder.feed(write_car([ROOT], BEFORE) + section(ROOT, b"forged") + section(*BEFORE[0]))
    assert decoder.waiting == b""
    with pytest.raises(CidMismatch):
        decoder.feed(AFTER)
    assert decoder.waiting == b""


def test_written_headers_and_sections_are_those_of_the_builder() -> None:
    for roots in ([ROOT], [], [ROOT, CID_V0] * 300):
        assert write_header([*map(Cid, roots)]) == car_header(roots)
    for length in (0x7F, 0x80, 0x81, 0x3FFF, 0x4000, 0x4001, 0x1F_FFFF, 0x20_0000):
        data = bytes(length - len(ROOT))
        assert b"".join(write_section(ROOT, data)) == section(ROOT, data)
        assert section_size(ROOT, data) == len(section(ROOT, data))
    for cid, data in (*OF_LENGTHS, (ROOT, b""), (CID_V0, b"pb")):
        assert section_size(cid, data) == len(section(cid, data))
