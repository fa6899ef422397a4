"""References to blobs in records: both forms of them, and what is said about malformed ones."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any

import pytest
from multiformats import multibase

from repo_stream import Blob, Cid, InvalidDagCbor
from repo_stream.ipld.datamodel import decode_record
from repo_stream.process import as_processor, blob_faults, blobs
from repo_stream.testing import Link, cid_of, encode

RAW = 0x55
FILE = b"the bytes of an image"
CID = Cid(cid_of(FILE, RAW))
OTHER = Cid(cid_of(b"another image", RAW))
IN_CBOR = Cid(cid_of(b"\xa0"))
BLOB = Blob(CID, "image/jpeg", 21)


def typed(**other: Any) -> dict[str, Any]:
    """A reference in the present form; fields that are `None` are left out."""
    fields = {"$type": "blob", "ref": Link(CID), "mimeType": "image/jpeg", "size": 21} | other
    return {name: value for name, value in fields.items() if value is not None}


def legacy(cid: Cid = CID) -> dict[str, Any]:
    return {"cid": str(cid), "mimeType": "image/jpeg"}


def found(record: dict[str, Any]) -> list[Blob]:
    references = blobs(encode(record))
    assert blobs(decode_record(encode(record))) == references
    return references


# --- What is found --------------------------------------------------------------------------------


def test_present_and_legacy_forms_are_found_wherever_they_are() -> None:
    record = {
        "$type": "com.example.a",
        "deep": {"list": [[{"a": typed()}], [], {"b": legacy(OTHER)}]},
        "first": typed(ref=Link(OTHER), mimeType="text/plain", size=0),
    }
    legacy_blob = Blob(OTHER, "image/jpeg", None)
    assert found(record) == [BLOB, legacy_blob, Blob(OTHER, "text/plain", 0)]
    assert blob_faults(encode(record)) == []


def test_each_reference_to_one_blob_is_found() -> None:
    assert found({"a": typed(), "b": [typed(), typed()]}) == [BLOB] * 3


def test_record_that_is_a_reference_itself_is_one() -> None:
    assert found(typed()) == found(typed(more=1)) == [BLOB]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"cid": str(CID), "uri": "at://a.example.com"}, id="strong reference"),
        pytest.param({**legacy(), "uri": "at://a.example.com"}, id="more than a legacy blob has"),
        pytest.param({"cid": "3jzfcijpj2z2a", "mimeType": "image/jpeg"}, id="text that is no CID"),
        pytest.param({"cid": "z" * 129, "mimeType": "image/jpeg"}, id="text of no CID's length"),
        pytest.param({"cid": 1, "mimeType": "image/jpeg"}, id="number as a CID"),
        pytest.param({"cid": str(CID), "mimeType": 1}, id="number as a MIME type"),
        pytest.param({**legacy(), "$type": "a.b#c"}, id="another type"),
        pytest.param({**typed(), "$type": "image"}, id="another type with a reference"),
        pytest.param({**typed(), "$type": ["blob"]}, id="type that is no text"),
        pytest.param({"blob": Link(CID)}, id="bare link"),
        pytest.param("blob", id="word"),
    ],
)
def test_what_is_not_a_reference_is_neither_found_nor_a_fault(value: Any) -> None:
    for record in ({"a": value}, {"a": [value]}):
        assert found(record) == []
        assert blob_faults(encode(record)) == []


def test_legacy_cid_of_any_kind_is_kept_as_it_is() -> None:
    assert found({"a": legacy(IN_CBOR)}) == [Blob(IN_CBOR, "image/jpeg", None)]


# --- Malformed references -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "expected", "fault"),
    [
        pytest.param(
            typed(size=None), Blob(CID, "image/jpeg", None), "size is missing", id="no size"
        ),
        *(
            pytest.param(
                typed(size=size),
                Blob(CID, "image/jpeg", None),
                "size is not a number of bytes",
                id=f"size {size}",
            )
            for size in (-1, True, "21", [21])
        ),
        pytest.param(
            typed(mimeType=None), Blob(CID, None, 21), "mimeType is missing", id="no MIME type"
        ),
        *(
            pytest.param(
                typed(mimeType=kind),
                Blob(CID, None, 21),
                "mimeType is not a MIME type",
                id=f"MIME type {kind!r}",
            )
            for kind in ("", 1)
        ),
        pytest.param(
            typed(ref={"$link": str(CID)}), BLOB, "ref is JSON instead of a link", id="JSON"
        ),
        pytest.param(typed(ref=str(CID)), BLOB, "ref is text instead of a link", id="text"),
        pytest.param(
            typed(ref=Link(IN_CBOR)),
            Blob(IN_CBOR, "image/jpeg", 21),
            f"the CID {IN_CBOR} is not a CIDv1 of raw bytes with SHA-256",
            id="CID of another kind",
        ),
        pytest.param(
            typed(size=None, mimeType=None, ref=str(CID)),
            Blob(CID, None, None),
            "ref is text instead of a link, mimeType is missing, size is missing",
            id="several faults",
        ),
        pytest.param(typed(ref=None), None, "ref is missing", id="no ref"),
        *(
            pytest.param(typed(ref=ref), None, "ref is not a link", id=f"ref {name}")
            for name, ref in {
                "number": 1,
                "other text": "bafy",
                "long text": "b" * 5_000_000,
                "list": [Link(CID)],
                "other map": {"$link": str(CID), "more": 1},
                "other JSON": {"$link": 1},
                "bytes": bytes(CID),
            }.items()
        ),
    ],
)
def test_malformed_reference_is_used_as_far_as_possible_and_explained(
    reference: dict[str, Any], expected: Blob | None, fault: str
) -> None:
    record = {"a": {"b": [{}, reference]}, "c": typed()}
    assert found(record) == ([BLOB] if expected is None else [expected, BLOB])
    assert blob_faults(encode(record)) == [f"a.b[1]: {fault}"]


def test_faults_stay_short_whatever_a_record_is_called() -> None:
    (fault,) = blob_faults(encode({"n" * 100_000: {"m" * 100_000: typed(size=None)}}))
    assert len(fault) < 200
    assert fault.endswith(": size is missing")


def test_nesting_does_not_recurse() -> None:
    value: Any = typed(size=None)
    for _ in range(100):
        value = [value]
    block = encode({"a": value})
    assert blobs(block) == [Blob(CID, "image/jpeg", None)]
    assert len(blob_faults(block)) == 1


@pytest.mark.parametrize("process", [blobs, blob_faults])
def test_record_that_is_not_valid_is_an_error_as_for_record(process: Any) -> None:
    with pytest.raises(InvalidDagCbor):
        process(b"\xa1\x65$type\x64blob\xff")


def test_paths_are_made_for_what_has_parts_alone() -> None:
    wide: dict[str, Any] = {"a": [1] * 20_000}
    tracemalloc.start()
    try:
        assert blob_faults(wide) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# --- As processors --------------------------------------------------------------------------------


def test_processors_are_lazy() -> None:
    assert as_processor(blobs).lazy
    assert as_processor(blob_faults).lazy


def test_bytes_of_a_blob_can_be_checked_by_its_cid() -> None:
    (blob,) = found({"a": typed()})
    assert (blob.cid.codec, blob.cid.hash_function) == (RAW, 0x12)
    assert hashlib.sha256(FILE).digest() == blob.cid.digest


def test_text_of_a_blobs_cid_is_that_of_multiformats() -> None:
    for cid in (CID, OTHER, Cid(b"\x01\x55\x12\x20" + bytes(32)), IN_CBOR):
        assert str(cid) == multibase.encode(bytes(cid), "base32")
        assert Cid.parse(str(cid)) == cid
