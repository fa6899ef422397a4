"""What damage costs that is made to cost much: time in proportion to the file, little memory."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from time import perf_counter

import pytest

from repo_stream import CarDecoder
from repo_stream.car.encoder import write_header, write_section
from repo_stream.ipld.cid import ORDINARY_PREFIX, Cid, ordinary
from support import traced
from support.forms import both_forms

form = both_forms("repo_stream.car.decoder", __name__)

SOUND = b"".join(write_section(ordinary(b"sound"), b"sound"))


def _claims(length: int) -> Iterator[bytes]:
    """Sections that claim to be longer than they are."""
    random = Random(3)
    claim = write_section(b"", bytes(length))[0]
    while True:
        yield claim + ORDINARY_PREFIX + random.randbytes(32)


def _between_sound_ones(length: int) -> Iterator[bytes]:
    for claim in _claims(length):
        yield SOUND + claim


HOSTILE = {
    "claims of 2 MiB": _claims(2_000_000),
    "claims of 16 KiB": _claims(16_000),
    "claims of 100 bytes": _claims(100),
    "claims of 2 MiB between sound blocks": _between_sound_ones(2_000_000),
    "claims of 16 KiB between sound blocks": _between_sound_ones(16_000),
    "a damaged byte between sound blocks": iter(lambda: SOUND + b"\0", b""),
    "lengths that never end": iter(lambda: b"\xff" * 40 + ORDINARY_PREFIX, b""),
    "prefixes alone": iter(lambda: b"\x7f" + ORDINARY_PREFIX, b""),
}


def _size(kind: str) -> int:
    """How many bytes show what a kind costs: more than one section claims to have."""
    return 3_000_000 if "2 MiB" in kind else 500_000


def _hostile(kind: str, size: int) -> bytes:
    parts, length = [write_header([Cid(ordinary(b"root"))])], 0
    while length < size:
        parts.append(next(HOSTILE[kind]))
        length += len(parts[-1])
    return b"".join(parts)


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_damage_takes_time_in_proportion(kind: str) -> None:
    size = max(_size(kind), 1_000_000)
    small, large = _hostile(kind, size), _hostile(kind, 4 * size)
    spare = 0.5 * size / 3_000_000

    def seconds(car: bytes) -> float:
        start = perf_counter()
        decoder = CarDecoder(past_damage=True)
        for at in range(0, len(car), 100_000):
            decoder.feed(car[at : at + 100_000])
        decoder.finish()
        return perf_counter() - start

    assert min(seconds(large) for _ in range(2)) < 8 * min(seconds(small) for _ in range(2)) + spare


@pytest.mark.long
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_damage_takes_little_memory(kind: str) -> None:
    size = _size(kind)
    car = _hostile(kind, size)
    with traced() as peak:
        decoder = CarDecoder(past_damage=True)
        for at in range(0, len(car), 100_000):
            decoder.feed(car[at : at + 100_000])
        decoder.finish()
        # Of the longest section, or of all of them; it is copied while pieces are joined.
        assert peak() < 6 * min(size, 2_000_000)
    assert len(decoder.damage) <= 1000
    assert decoder.damage_count >= len(decoder.damage) > 0
