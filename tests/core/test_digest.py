"""SHA-256 in columns, against one at a time, in both forms."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, strategies as st

from repo_stream import Cid
from repo_stream.ipld.digest import agreeing, first_outside
from repo_stream.testing import cid_of
from support.forms import both_forms

form = both_forms("repo_stream.ipld.digest", __name__)

texts = st.lists(st.binary(max_size=200), max_size=8)
# Blocks of the hash function have 64 bytes, of which the last holds the length.
SIZES = [0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1000, 100_000]


def test_texts_of_every_length_are_hashed() -> None:
    for size in SIZES:
        text = bytes(range(256)) * (size // 256) + bytes(size % 256)
        found = sha256(text).digest()
        beyond = (int.from_bytes(found, "big") + 1).to_bytes(32, "big")
        assert agreeing([cid_of(text)], [text]) == 1
        assert first_outside([text], found, beyond) is None
        assert first_outside([text], beyond, b"\xff" * 33) == text
        assert first_outside([text], bytes(32), found) == text


@given(texts=texts, wrong=st.integers(0, 8), byte=st.integers(0, 35), bit=st.integers(0, 7))
def test_the_first_block_that_does_not_have_its_cid_is_found(
    texts: list[bytes], wrong: int, byte: int, bit: int
) -> None:
    cids = [cid_of(text) for text in texts]
    for at in range(wrong, len(cids), 2):
        cid = bytearray(cids[at])
        cid[byte] ^= 1 << bit
        cids[at] = bytes(cid)
    assert agreeing(cids, texts) == min(wrong, len(texts))


def test_a_cid_of_any_other_length_is_that_of_no_block() -> None:
    for cut in (0, 3, 4, 35, 37):
        cid = (cid_of(b"text") + bytes(1))[:cut]
        assert agreeing([cid_of(b"a"), cid], [b"a", b"text"]) == 1


@given(texts=texts, lowest=st.binary(max_size=3), beyond=st.binary(max_size=3))
def test_the_first_text_whose_hash_is_out_of_bounds_is_found(
    texts: list[bytes], lowest: bytes, beyond: bytes
) -> None:
    lowest = lowest.ljust(32, b"\0")
    beyond = beyond.ljust(33, b"\xff")
    outside = [text for text in texts if not lowest <= sha256(text).digest() < beyond]
    assert first_outside(texts, lowest, beyond) == next(iter(outside), None)
    assert agreeing([Cid(cid_of(text)) for text in texts], texts) == len(texts)
