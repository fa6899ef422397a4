"""Entries, as `repo_stream/entries.py` has them: a third of the time."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from collections.abc import Mapping, Sequence

__all__ = ["BUCKETS", "HASH", "START", "WIDTH", "Buckets", "locate", "note"]

cdef enum:
    ENTRY = 8
    START_BYTES = 5
    IN_BUCKET = (1 << 14) - 1

WIDTH = ENTRY
START = 0xFF_FFFF_FFFF
HASH = 0xFFFF_FF00_0000_0000
BUCKETS = IN_BUCKET + 1
Buckets = Sequence[bytes | bytearray] | Mapping[int, bytes]


cdef unsigned long long hash_of(cid) except? 0:
    return <unsigned long long> <long long> hash(cid)


def note(list buckets not None, cids, blocks, long long at):
    """Put entries into their buckets, for blocks that follow each other in a file."""
    cdef dict starts = {}
    cdef bytearray bucket
    cdef unsigned char *entry
    cdef unsigned long long hashed, start
    cdef Py_ssize_t size, byte, length, rest
    for cid, data in zip(cids, blocks, strict=True):
        starts[cid] = at
        length = len(cid) + len(data)
        at += length
        rest = length
        while rest >= 0x80:
            rest >>= 7
            at += 1
        at += 1
    for cid, value in starts.items():
        hashed = hash_of(cid)
        start = value
        bucket = buckets[<Py_ssize_t> (hashed & IN_BUCKET)]
        size = PyByteArray_GET_SIZE(bucket)
        PyByteArray_Resize(bucket, size + ENTRY)
        entry = <unsigned char *> PyByteArray_AS_STRING(bucket) + size
        for byte in range(ENTRY):
            entry[byte] = ((start if byte < START_BYTES else hashed) >> 8 * byte) & 0xFF
    return at, len(starts)


def locate(buckets, cids):
    """Say where the sections of blocks start, in bytes; -1 for those that are nowhere."""
    cdef list starts = []
    cdef const unsigned char *entries
    cdef unsigned long long hashed, start
    cdef unsigned char first, second, third
    cdef Py_ssize_t at, byte
    for cid in cids:
        hashed = hash_of(cid)
        first = (hashed >> 40) & 0xFF
        second = (hashed >> 48) & 0xFF
        third = (hashed >> 56) & 0xFF
        bucket = buckets[<Py_ssize_t> (hashed & IN_BUCKET)]
        if type(bucket) is bytearray:
            entries = <const unsigned char *> PyByteArray_AS_STRING(bucket)
            at = PyByteArray_GET_SIZE(bucket)
        else:
            entries = <const unsigned char *> PyBytes_AS_STRING(<bytes?> bucket)
            at = PyBytes_GET_SIZE(bucket)
        at -= at % ENTRY + ENTRY
        while at >= 0 and not (
            entries[at + 5] == first and entries[at + 6] == second and entries[at + 7] == third
        ):
            at -= ENTRY
        if at < 0:
            starts.append(-1)
            continue
        start = 0
        for byte in range(START_BYTES):
            start |= <unsigned long long> entries[at + byte] << 8 * byte
        starts.append(start)
    return starts
