"""Entries, as `repo_stream/entries.py` has them: a third of the time."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from collections.abc import Mapping

from repo_stream.tables cimport bring_near

__all__ = ["BUCKETS", "HASH", "START", "WIDTH", "Buckets", "locate", "note"]

cdef enum:
    ENTRY = 8
    START_BYTES = 5
    START_BITS = 8 * START_BYTES
    IN_BUCKET = (1 << 14) - 1
    # Blocks that are located at once
    AT_ONCE = 64
    LINE = 64

WIDTH = ENTRY
START = 0xFF_FFFF_FFFF
HASH = 0xFFFF_FF00_0000_0000
BUCKETS = IN_BUCKET + 1
Buckets = list[bytearray] | Mapping[int, bytes]


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


cdef inline unsigned long long number_of(const unsigned char *entry) noexcept:
    cdef unsigned long long number = 0
    cdef int byte
    for byte in range(ENTRY):
        number |= <unsigned long long> entry[byte] << 8 * byte
    return number


cdef long long start_in(
    const unsigned char *entries, Py_ssize_t size, unsigned long long hashed
) noexcept:
    """Say where the last section with a hash starts; -1 where none has it."""
    cdef unsigned long long entry
    cdef Py_ssize_t at = size - size % ENTRY - ENTRY
    while at >= 0:
        entry = number_of(entries + at)
        if (entry ^ hashed) >> START_BITS == 0:
            return entry & (<unsigned long long> -1 >> (64 - START_BITS))
        at -= ENTRY
    return -1


cdef list locate_in_memory(list buckets, list cids):
    """Locate some at a time, and have the buckets of all of them near before the first is read.

    Each is two misses of the processor's caches, which so overlap: 0.6 of the time.
    """
    cdef list starts = []
    cdef unsigned long long hashes[AT_ONCE]
    cdef const unsigned char *entries
    cdef Py_ssize_t first, at, here, size
    cdef bytearray bucket
    for first in range(0, len(cids), AT_ONCE):
        here = min(len(cids) - first, AT_ONCE)
        for at in range(here):
            hashes[at] = hash_of(cids[first + at])
            bring_near(<const void *> buckets[<Py_ssize_t> (hashes[at] & IN_BUCKET)])
        for at in range(here):
            bucket = <bytearray?> buckets[<Py_ssize_t> (hashes[at] & IN_BUCKET)]
            size = PyByteArray_GET_SIZE(bucket)
            entries = <const unsigned char *> PyByteArray_AS_STRING(bucket)
            while size > 0:
                bring_near(entries + size - 1)
                size -= LINE
        for at in range(here):
            bucket = <bytearray?> buckets[<Py_ssize_t> (hashes[at] & IN_BUCKET)]
            size = PyByteArray_GET_SIZE(bucket)
            entries = <const unsigned char *> PyByteArray_AS_STRING(bucket)
            starts.append(start_in(entries, size, hashes[at]))
    return starts


def locate(buckets, cids):
    """Say where the sections of blocks start, in bytes; -1 for those that are nowhere."""
    cdef list starts
    cdef unsigned long long hashed
    cdef bytes bucket
    if type(buckets) is list:
        return locate_in_memory(buckets, list(cids))
    starts = []
    for cid in cids:
        hashed = hash_of(cid)
        bucket = <bytes?> buckets[<Py_ssize_t> (hashed & IN_BUCKET)]
        starts.append(
            start_in(
                <const unsigned char *> PyBytes_AS_STRING(bucket), PyBytes_GET_SIZE(bucket), hashed
            )
        )
    return starts
