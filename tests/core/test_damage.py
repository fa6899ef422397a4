"""CARs that are damaged: what comes out past the damage is right, and the rest is listed."""

from __future__ import annotations

from random import Random

import pytest

from repo_stream import (
    BadCarHeader,
    BadSectionCid,
    CarDecoder,
    CidMismatch,
    EmptySection,
    LimitExceeded,
    Limits,
    NotACar,
    RepoStreamError,
    TruncatedCar,
)
from repo_stream.car import damage as repairs, salvage
from repo_stream.car.decoder import Block
from repo_stream.car.encoder import write_header, write_section
from repo_stream.ipld.cid import Cid, ordinary
from repo_stream.testing import Order
from support.damage import DAMAGED, flipped, hit_at, sections_of
from support.forms import both_forms

form = both_forms("repo_stream.car.decoder", __name__)

CAR = DAMAGED.to_car()
BLOCKS = DAMAGED.blocks
SECTIONS = sections_of(CAR)


def read(
    car: bytes, piece: int = 1 << 20, limits: Limits | None = None
) -> tuple[CarDecoder, dict[bytes, bytes]]:
    """The decoder, after the whole CAR, and the blocks with ordinary CIDs that came out."""
    decoder = CarDecoder(past_damage=True, limits=limits)
    blocks: list[Block] = []
    for at in range(0, len(car), piece):
        blocks += decoder.feed(car[at : at + piece])
    decoder.finish()
    blocks += zip(*decoder.found_at_end, strict=True)
    return decoder, {cid: data for cid, data in blocks if Cid(cid).is_ordinary}


def read_plainly(car: bytes) -> None:
    decoder = CarDecoder()
    decoder.feed(car)
    decoder.feed(b"")
    decoder.finish()


def rescued(decoder: CarDecoder, cid: bytes) -> bytes | None:
    return next(reversed([*decoder.damages.rescue(cid)]), None)


def section(data: bytes) -> bytes:
    return b"".join(write_section(ordinary(data), data))


def file_of(*sections: bytes) -> bytes:
    return write_header([Cid(ordinary(b"root"))]) + b"".join(sections)


@pytest.mark.long
def test_one_byte_costs_at_most_its_block_and_that_is_found_again_unless_it_is_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repairs, "_MOST_HASHED", 0)
    for at in range(len(CAR)):
        decoder, found = read(flipped(CAR, at))
        start, hit, in_data = hit_at(CAR, at)
        assert {**BLOCKS, **found} == BLOCKS, at  # nothing wrong
        assert found.keys() >= BLOCKS.keys() - {hit}, at
        if hit and in_data:
            (damage,) = decoder.damage
            assert (damage.offset, damage.cid) == (start, hit), at
            assert isinstance(damage.error, CidMismatch), at
        elif hit:
            assert rescued(decoder, hit) == BLOCKS[hit], at
            (damage,) = decoder.damage
            assert (damage.offset, damage.repaired) == (start, True), at


def test_what_comes_out_does_not_depend_on_the_pieces() -> None:
    random = Random(7)
    for at in random.sample(range(len(CAR)), 60):
        car = flipped(flipped(CAR, at), random.randrange(len(CAR)))
        decoder, found = read(car)
        for piece in (1, 13, 500):
            other, also_found = read(car, piece)
            assert also_found == found
            assert other.damages.skips == decoder.damages.skips
            assert [each[:2] for each in other.damage] == [each[:2] for each in decoder.damage]
            assert [str(each.error) for each in other.damage] == [
                str(each.error) for each in decoder.damage
            ]


@pytest.mark.parametrize("order", ["stream", "shuffled"])
def test_one_damaged_byte_of_data_is_repaired(order: Order) -> None:
    car = DAMAGED.to_car(order=order)
    for _start, body, end in sections_of(car)[1::7]:
        cid = car[body : body + 36]
        for at in (body + 36, (body + 36 + end) // 2, end - 1):
            decoder, found = read(flipped(car, at))
            assert cid not in found
            (before,) = decoder.damage
            assert rescued(decoder, cid) == BLOCKS[cid]
            assert decoder.damage == (before._replace(repaired=True),)
            assert (before.repaired, decoder.damages.repaired) == (False, 1)


def test_two_damaged_bytes_of_data_are_not_repaired() -> None:
    start, body, end = SECTIONS[9]
    decoder, _found = read(flipped(flipped(CAR, end - 1), body + 40))
    assert rescued(decoder, CAR[body : body + 36]) is None
    (damage,) = decoder.damage
    assert (damage.offset, damage.repaired) == (start, False)


def test_an_end_anywhere_leaves_the_blocks_before_it() -> None:
    header_end = SECTIONS[0][2]
    for end in range(header_end, len(CAR), 7):
        decoder, found = read(CAR[:end])
        whole = [each for each in SECTIONS[1:] if each[2] <= end]
        assert len(found) == len(whole)
        if any(each[2] == end for each in SECTIONS):
            assert not decoder.damage
        else:
            (damage,) = decoder.damage
            assert damage.offset == (whole[-1][2] if whole else header_end)
            assert damage.error.__class__.__name__ in {"TruncatedCar", "CarTrailingData"}


def test_a_hole_anywhere_leaves_the_blocks_around_it() -> None:
    random = Random(5)
    for _ in range(200):
        start = random.randrange(SECTIONS[0][2], len(CAR))
        end = min(start + random.randrange(1, 600), len(CAR))
        outside = [each for each in SECTIONS[1:] if each[2] <= start or each[0] >= end]
        decoder, found = read(CAR[:start] + CAR[end:])
        assert {**BLOCKS, **found} == BLOCKS
        assert found.keys() >= {CAR[body : body + 36] for _, body, _ in outside}
        whole = {each[0] for each in SECTIONS} | {len(CAR)}
        assert decoder.damage_count or {start, end} <= whole


def test_bytes_put_in_anywhere_leave_all_other_blocks() -> None:
    random = Random(6)
    for _ in range(200):
        at = random.randrange(SECTIONS[0][2], len(CAR))
        hit = hit_at(CAR, at)
        decoder, found = read(CAR[:at] + random.randbytes(random.randrange(1, 90)) + CAR[at:])
        assert {**BLOCKS, **found} == BLOCKS
        assert found.keys() >= BLOCKS.keys() - ({hit.cid} if at > hit.start else set())
        assert decoder.damage_count


@pytest.mark.parametrize(
    ("junk", "error"),
    [
        pytest.param(b"\0" * 100, EmptySection, id="zeros"),
        pytest.param(b"\x80" * 100, RepoStreamError, id="no-length"),
        pytest.param(b"\x63" + b"\xff" * 99, BadSectionCid, id="no-cid"),
        pytest.param(b"\xff\xff\xff\x7f" + bytes(200), LimitExceeded, id="too-long"),
        pytest.param(bytes(range(256)) * 400, RepoStreamError, id="longer-than-what-is-kept"),
    ],
)
def test_what_is_no_section_is_listed_and_skipped(junk: bytes, error: type[Exception]) -> None:
    first, second = section(b"first"), section(b"second")
    car = file_of(first, junk, second)
    for piece in (1 << 20, 700):
        decoder, found = read(car, piece)
        assert found == {ordinary(b"first"): b"first", ordinary(b"second"): b"second"}
        start = len(file_of(first))
        assert isinstance(decoder.damage[0].error, error)
        assert decoder.damage[0].offset == start
        assert [*decoder.damages.skips] == [start, start + len(junk)]
        assert decoder.offset == len(car)


def test_without_past_damage_the_same_error_is_raised() -> None:
    for at in range(SECTIONS[0][2], len(CAR), 97):
        car = flipped(CAR, at)
        damage = read(car)[0].damage
        with pytest.raises(type(damage[0].error)) as raised:
            read_plainly(car)
        assert str(damage[0].error) == str(raised.value)


def test_a_block_that_claims_another_cid_does_not_come_out() -> None:
    forged = b"".join(write_section(ordinary(b"right"), b"wrong"))
    decoder, found = read(file_of(section(b"one"), forged, section(b"two")))
    assert found == {ordinary(b"one"): b"one", ordinary(b"two"): b"two"}
    assert decoder.damage[0].cid == ordinary(b"right")


def test_sections_that_are_lost_with_the_header_are_not_called_repaired() -> None:
    sections = sections_of(CAR)
    for lost in (0, 1, 2):
        decoder, found = read(CAR[sections[lost][2] - 5 :])
        assert len(found) == len(sections) - 1 - lost
        (damage,) = decoder.damage
        assert (damage.offset, damage.repaired) == (0, False)
        decoder, found = read(bytes(sections[lost][2]) + CAR[sections[lost][2] :])
        (damage,) = decoder.damage
        assert (damage.offset, damage.repaired) == (0, lost == 0)


def test_a_damaged_header_leaves_no_roots() -> None:
    for at in range(12):
        decoder, found = read(flipped(CAR, at, 0xFF))
        assert found == BLOCKS
        assert decoder.header is not None
        assert decoder.header.roots == ()
        assert decoder.header_end == SECTIONS[1][0]
        assert decoder.damage[0].offset == 0


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"<!DOCTYPE html><html>" + b"x" * 100, NotACar, id="html"),
        pytest.param(b"", TruncatedCar, id="empty"),
        pytest.param(b"\0" + CAR[1:58], BadCarHeader, id="header-alone"),
    ],
)
def test_a_file_without_any_block_is_refused_as_ever(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as plain:
        read_plainly(data)
    with pytest.raises(error) as past:
        read(data)
    assert str(past.value) == str(plain.value)


def claims(length: int, number: int) -> bytes:
    """Beginnings of sections that claim to be longer than they are."""
    return (b"\0" + write_section(b"", bytes(length))[0] + ordinary(b"another")) * number


def test_what_is_given_up_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salvage, "_FREE", 100_000)
    car = file_of(section(b"before"), claims(9_000, 20), bytes(30_000), section(b"after"))
    for piece in (1000, 8000, 1 << 20):
        decoder, found = read(car, piece)
        assert [*found.values()] == [b"before"]
        assert [*decoder.damages.skips][1:] == [len(car)]
    monkeypatch.setattr(salvage, "_FREE", 200_000)
    assert [*read(car)[1].values()] == [b"before", b"after"]


def test_little_is_hashed_in_vain_at_once_behind_a_long_part_without_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed = 0

    class NotHashed:
        def __init__(self, data: bytes) -> None:
            nonlocal hashed
            hashed += len(data)

        def digest(self) -> bytes:
            return b""

    monkeypatch.setattr(salvage, "sha256", NotHashed)
    decoder = CarDecoder(past_damage=True)
    decoder.feed(file_of(section(bytes(1_000_000)) * 5))
    decoder.feed(claims(1_000_000, 30_000))
    assert hashed < (32 << 20) + 1_000_000


def test_limits_on_the_file_are_raised() -> None:
    car = flipped(CAR, SECTIONS[5][1])
    with pytest.raises(LimitExceeded, match="blocks"):
        read(car, limits=Limits(blocks=20))
    with pytest.raises(LimitExceeded, match="as a whole"):
        read(car, limits=Limits(car_bytes=3000))


def test_a_block_over_the_limit_is_left_out() -> None:
    decoder, found = read(
        file_of(section(b"one"), section(b"x" * 300), section(b"two")),
        limits=Limits(block_bytes=99),
    )
    assert [*found.values()] == [b"one", b"two"]
    assert isinstance(decoder.damage[0].error, LimitExceeded)


def test_only_blocks_are_gone_past_if_that_is_asked_for() -> None:
    body, end = SECTIONS[4][1:]
    decoder = CarDecoder(past_damage="blocks")
    found = dict(decoder.feed(flipped(CAR, end - 1)))
    decoder.finish()
    assert found == {cid: data for cid, data in BLOCKS.items() if cid != CAR[body : body + 36]}
    assert isinstance(decoder.damage[0].error, CidMismatch)
    decoder = CarDecoder(past_damage="blocks")
    decoder.feed(CAR[: end - 1])
    with pytest.raises(TruncatedCar):
        decoder.finish()
    decoder = CarDecoder(past_damage="blocks")
    with pytest.raises(EmptySection):
        decoder.feed(file_of(b"\0" * 20))


def test_what_the_end_has_shown_counts_once_if_it_is_told_again() -> None:
    decoder = CarDecoder(past_damage=True)
    too_long = b"\x7f" + section(b"lost")[1:]
    assert len(decoder.feed(file_of(section(b"first"), too_long, section(b"last")))) == 1
    for _ in range(2):
        decoder.finish()
        assert decoder.found_at_end[1] == [b"last"]
        assert (decoder.blocks, decoder.damage_count) == (2, 1)


def test_nothing_is_listed_without_damage() -> None:
    decoder, found = read(CAR)
    assert found == BLOCKS
    assert decoder.damage_count == len(decoder.damage) == len(decoder.damages.skips) == 0


def test_a_commit_is_repaired_by_fewer_than_256_hashes_a_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, _found = read(flipped(CAR, CAR.index(DAMAGED.commit) + 40))
    monkeypatch.setattr(repairs, "_MOST_HASHED", 20_000_000)
    assert rescued(decoder, DAMAGED.commit_cid) == DAMAGED.commit


def test_a_long_block_is_repaired() -> None:
    data = bytes(4096)
    decoder, _found = read(file_of(b"".join(write_section(ordinary(data), b"?" + data[1:]))))
    assert rescued(decoder, ordinary(data)) == data


def test_repairs_end_after_so_many_hashes_if_they_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "_MOST_HASHED", 1 << 28)
    data = [bytes([n]) * 1000 for n in range(9)]
    car = b"".join(b"".join(write_section(ordinary(each), each[:-1] + b"?")) for each in data)
    decoder, _found = read(file_of(car))
    assert [rescued(decoder, ordinary(each)) for each in data] == [data[0], *[None] * 8]


def test_repairs_end_after_so_many_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "_MOST_HASHED", 1 << 30)
    data = [bytes([n]) * 2000 for n in range(9)]
    car = b"".join(b"".join(write_section(ordinary(each), b"?" * 2000)) for each in data)
    decoder, _found = read(file_of(car))
    assert decoder.damage_count == 9
    tried = [len([*decoder.damages.rescue(ordinary(each))]) for each in data]
    assert tried == [2000, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_repair_that_was_left_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "_MOST_HASHED", 255 * 300 * (150 + 300))
    data = bytes(300)
    decoder, _found = read(file_of(b"".join(write_section(ordinary(data), data[1:] + b"?"))))
    tried = 0
    while tried < 290:
        repair = decoder.damages.rescue(ordinary(data))
        for _ in range(29):
            assert next(repair) is None
            tried += 1
        repair.close()
    assert len([*decoder.damages.rescue(ordinary(data))]) == 10
    assert rescued(decoder, ordinary(data)) == data
