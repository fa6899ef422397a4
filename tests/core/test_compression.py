"""`Decompressor`: gzip and zstd in pieces of any size, whole, damaged, cut off and hostile."""

from __future__ import annotations

import gzip
import random
import struct
import sys
from itertools import pairwise

import pytest

from repo_stream import BadCompression, MissingExtra
from repo_stream.car.compression import Decompressor
from repo_stream.car.file_type import compression_of, may_be_compressed
from repo_stream.testing import build_car
from support import traced
from support.compressed import Compression, compressed, zstd

MIB = 1 << 20
DATA = build_car({f"app.test.note/{number:04}": {"text": "hi" * number} for number in range(60)})


def skippable(data: bytes) -> bytes:
    """A frame of zstd that stands for nothing."""
    return b"\x53\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


def decompressed(
    data: bytes, compression: Compression, *, size: int = 1 << 16, most: int = 1 << 16
) -> bytes:
    """Feed data in pieces of `size` bytes, and take `most` at a time."""
    decompressor = Decompressor(compression)
    taken = bytearray()
    for at in range(0, len(data), size):
        # The same memory is used again, as `CarFile` does.
        piece = bytearray(data[at : at + size])
        decompressor.feed(memoryview(piece))
        while not decompressor.needs_input:
            part = decompressor.take(most)
            assert len(part) <= most
            taken += part
        piece[:] = bytes(len(piece))
    decompressor.finish()
    return bytes(taken)


both = pytest.mark.parametrize("compression", ["gzip", "zstd"])


@both
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000, 1 << 20])
def test_any_pieces_give_what_was_compressed(compression: Compression, size: int) -> None:
    packed = compressed(DATA, compression)
    for most in (1, 100, 1 << 20) if size > 100 else (100, 1 << 20):
        assert decompressed(packed, compression, size=size, most=most) == DATA


@both
@pytest.mark.parametrize("size", [1, 3, 1000, 1 << 20])
def test_parts_one_after_the_other_are_one_file(compression: Compression, size: int) -> None:
    cuts = [0, 0, 1, 900, 900, len(DATA)]
    parts = [compressed(DATA[start:end], compression) for start, end in pairwise(cuts)]
    if compression == "zstd":
        parts = [
            skippable(b"abc"),
            *parts[:3],
            skippable(b""),
            *parts[3:],
            skippable(bytes(40_000)),
        ]
    assert decompressed(b"".join(parts), compression, size=size) == DATA


@pytest.mark.parametrize("zeros", [1, 3, 512, 100_000])
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_zeros_after_gzip_data_are_padding(zeros: int, size: int) -> None:
    if size == 1 and zeros > 1000:
        return
    padded = gzip.compress(DATA) + bytes(zeros)
    assert decompressed(padded, "gzip", size=size) == DATA
    assert decompressed(padded + padded, "gzip", size=size) == DATA + DATA


@both
def test_a_file_that_is_cut_off_is_refused_wherever_that_is(compression: Compression) -> None:
    packed = compressed(DATA[:3000], compression)
    for whole in (packed, packed * 2):
        for length in {*range(1, len(packed)), *range(len(packed) + 1, len(whole))}:
            with pytest.raises(BadCompression, match="it ends too soon") as caught:
                decompressed(whole[:length], compression)
            assert caught.value.compression == compression
            assert caught.value.offset == length


@both
def test_a_damaged_file_is_refused_or_what_it_was(compression: Compression) -> None:
    """Both have a checksum, zstd only if asked, as its command does. Few bits do not matter."""
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    data = DATA[:3000]
    packed = gzip.compress(data) if compression == "gzip" else zstd.compress(data, options=options)
    refused = 0
    for at in range(len(packed)):
        damaged = bytearray(packed)
        damaged[at] ^= 0x10
        try:
            assert decompressed(bytes(damaged), compression) == data
        except BadCompression:
            refused += 1
    assert refused > len(packed) * 0.95


@pytest.mark.parametrize("size", [7, 1000, 1 << 20])
@pytest.mark.parametrize("most", [1000, 1 << 20])
def test_what_comes_before_a_fault_in_gzip_data_is_returned_first(size: int, most: int) -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-6] ^= 1  # in the checksum
    decompressor = Decompressor("gzip")
    taken = bytearray()
    errors: list[BadCompression] = []
    for at in range(0, len(packed), size):
        decompressor.feed(bytes(packed[at : at + size]))
        while not decompressor.needs_input and not errors:
            try:
                taken += decompressor.take(most)
            except BadCompression as error:
                errors.append(error)
    assert bytes(taken) == DATA
    assert "incorrect data check" in errors[0].reason
    with pytest.raises(BadCompression) as again:
        decompressor.take(most)
    assert again.value is errors[0]


@both
@pytest.mark.parametrize("rest", [b"x", b"\0x", b"{}{}", b"\x1f\x8c\0\0", b"BZh91AY&SY", DATA])
def test_something_else_after_the_data_is_refused(compression: Compression, rest: bytes) -> None:
    for size in (1, 1 << 20):
        with pytest.raises(BadCompression):
            decompressed(compressed(b"abc", compression) + rest, compression, size=size)
    with pytest.raises(BadCompression, match=f"what follows is not {compression} data"):
        decompressed(compressed(b"abc", compression) + b"xxxx", compression)


@both
def test_a_line_ending_after_the_data_is_not_called_an_end_that_came_too_soon(
    compression: Compression,
) -> None:
    data = compressed(b"abc", compression)
    for size in (1, 1 << 20):
        for rest in (b"\n", b"\r\n", b"{}"):
            with pytest.raises(BadCompression, match=f"what follows is not {compression} data"):
                decompressed(data + rest, compression, size=size)
        with pytest.raises(BadCompression, match="ends too soon"):
            decompressed(data + data[:3], compression, size=size)


def test_data_of_the_other_kind_after_it_is_refused() -> None:
    with pytest.raises(BadCompression, match="what follows is not gzip data"):
        decompressed(gzip.compress(DATA) + zstd.compress(DATA), "gzip")
    with pytest.raises(BadCompression, match="what follows is not zstd data"):
        decompressed(zstd.compress(DATA) + gzip.compress(DATA), "zstd")


def bomb(compression: Compression, size: int) -> bytes:
    block = bytes(MIB)
    if compression == "gzip":
        return b"".join([gzip.compress(block)] * (size // MIB))
    packer = zstd.ZstdCompressor(level=3)
    return b"".join([packer.compress(block) for _ in range(size // MIB)]) + packer.flush()


@both
def test_a_bomb_takes_no_more_memory_than_is_asked_for(compression: Compression) -> None:
    packed = bomb(compression, 64 * MIB)
    decompressor = Decompressor(compression)
    decompressor.feed(packed)
    total = 0
    with traced() as peak:
        while not decompressor.needs_input:
            total += len(decompressor.take(MIB // 4))
        taken = peak()
    decompressor.finish()
    assert total == 64 * MIB
    assert taken < MIB


def test_a_window_that_takes_much_memory_is_refused() -> None:
    # Content of an unknown size, so that the window is as large as was asked for.
    for log, allowed in ((23, True), (24, False), (27, False)):
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
        packed = packer.compress(DATA) + packer.flush()
        if allowed:
            assert decompressed(packed, "zstd") == DATA
        else:
            with pytest.raises(BadCompression, match="use `zstd -d --long=31` first"):
                decompressed(packed, "zstd")


@both
def test_little_is_copied_after_a_part(compression: Compression) -> None:
    """What is left is copied. If that were all of the piece, 60,000 parts took a minute."""
    decompressor = Decompressor(compression)
    decompressor.feed(compressed(b"a", compression) * 60_000)
    taken = 0
    while not decompressor.needs_input:
        taken += len(decompressor.take(MIB))
        left = decompressor._rest  # pyright: ignore[reportPrivateUsage] - it is what is copied
        assert len(left) <= 16 * 1024
    decompressor.finish()
    assert taken == 60_000


@pytest.mark.parametrize("kind", ["member", "frame", "skippable frame"])
def test_a_long_run_of_empty_parts_is_refused(kind: str) -> None:
    """No limit counts them, as nothing comes out, and a file of 100 MB would take minutes."""
    compression: Compression = "gzip" if kind == "member" else "zstd"
    empty = skippable(b"") if kind.startswith("skippable") else compressed(b"", compression)
    run, data = empty * 6_000, compressed(DATA, compression)
    assert decompressed(run + data + run, compression) == DATA
    decompressor = Decompressor(compression)
    decompressor.feed(data + run + run)
    taken = bytearray()

    def take_all() -> None:
        while not decompressor.needs_input:
            taken.extend(decompressor.take(MIB))

    for _ in range(2):
        with pytest.raises(BadCompression, match=r"10,000 parts in a row are empty"):
            take_all()
    assert taken == DATA


def test_without_a_package_for_zstd_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"\[zstd\].*pip install backports.zstd") as caught:
        Decompressor("zstd")
    assert caught.value.extra == "zstd"
    Decompressor("gzip")


def test_the_first_bytes_tell_how_a_file_is_compressed() -> None:
    for start, compression in (
        (gzip.compress(b"")[:4], "gzip"),
        (zstd.compress(b"")[:4], "zstd"),
        (skippable(b"")[:4], "zstd"),
        (DATA[:4], None),
        (b"", None),
        (b"\x1f", None),
        (b"\x28\xb5\x2f\xfe", None),
        (b"\x60\x2a\x4d\x18", None),
    ):
        assert compression_of(start) == compression
        if compression:
            assert all(may_be_compressed(start[:length]) for length in range(4))
    randomly = random.Random(0)
    for _ in range(1000):
        start = randomly.randbytes(4)
        assert may_be_compressed(start[:3]) or compression_of(start) is None
    assert not may_be_compressed(DATA[:1])
