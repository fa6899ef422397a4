from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from repo_stream.network.encodings import BadEncoding, Decoder, accepted, decoder_of

BODY = random.Random(1).randbytes(3000) + bytes(50_000) + b"the end"


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def checked_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "GZIP, with identity": ("Identity, GZip", gzip.compress),
    "gzip in two members": ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", raw_deflate),
    "zstd": ("zstd", checked_zstd),
}
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def new(encoding: str) -> Decoder:
    decoder = decoder_of(ENCODINGS[encoding][0])
    assert decoder is not None
    return decoder


def decoded(decoder: Decoder, body: bytes, size: int, most: int = 1000) -> bytes:
    out = b""
    for at in range(0, len(body), size):
        decoder.feed(body[at : at + size])
        while not decoder.needs_input:
            taken = decoder.take(most)
            assert len(taken) <= most
            out += taken
    decoder.finish()
    return out


@each_encoding
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_body_in_pieces_of_any_size_is_decoded(encoding: str, size: int) -> None:
    assert decoded(new(encoding), ENCODINGS[encoding][1](BODY), size) == BODY


@each_encoding
def test_bomb_is_decoded_little_by_little(encoding: str) -> None:
    decoder = new(encoding)
    decoder.feed(ENCODINGS[encoding][1](bytes(10_000_000))[:9000])
    taken = [decoder.take(100) for _ in range(1000)]
    assert max(map(len, taken)) == 100
    assert sum(map(len, taken)) > 90_000


@each_encoding
@pytest.mark.parametrize("end", [1, 5, 100, -1])
def test_body_that_ends_too_soon_is_refused(encoding: str, end: int) -> None:
    with pytest.raises(BadEncoding, match="ends too soon"):
        decoded(new(encoding), ENCODINGS[encoding][1](BODY)[:end], 1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])  # which have a checksum
def test_damaged_body_is_refused(encoding: str) -> None:
    body = bytearray(ENCODINGS[encoding][1](BODY))
    body[100:140] = bytes(40)
    with pytest.raises(BadEncoding):
        decoded(new(encoding), bytes(body), 1000)


@each_encoding
def test_empty_body_needs_no_encoding(encoding: str) -> None:
    assert decoded(new(encoding), b"", 1) == b""


@each_encoding
def test_what_follows_the_body_is_refused(encoding: str) -> None:
    with pytest.raises(BadEncoding, match="follows"):
        decoded(new(encoding), ENCODINGS[encoding][1](BODY) + b"<html>", 100_000)


def test_zstd_with_a_window_that_takes_too_much_memory_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(BODY) + compressor.flush()
    with pytest.raises(BadEncoding, match="more than 8 MiB"):
        decoded(new("zstd"), body, 1000)


@pytest.mark.parametrize("header", ["", "identity", " Identity ", "identity, identity"])
def test_body_that_is_sent_as_it_is_has_no_decoder(header: str) -> None:
    assert decoder_of(header) is None


@pytest.mark.parametrize("header", ["br", "compress", "gzip, gzip", "gzip,deflate", "\x1b[2J"])
def test_encoding_that_was_not_asked_for_is_refused(header: str) -> None:
    with pytest.raises(BadEncoding, match="only gzip, deflate, zstd was asked for"):
        decoder_of(header)


def test_zstd_is_not_asked_for_if_it_cannot_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "backports.zstd", None)
    monkeypatch.setitem(__import__("sys").modules, "compression.zstd", None)
    accepted.cache_clear()
    try:
        assert accepted() == "gzip, deflate"
        with pytest.raises(BadEncoding, match="only gzip, deflate was asked for"):
            decoder_of("zstd")
    finally:
        accepted.cache_clear()
