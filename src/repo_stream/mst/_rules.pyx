"""Ordinary nodes, as `rules.py` opens them, in a quarter of the time: byte by byte in C.

Every byte of a node is compared, in one pass, and so is the room that is left of the block before
a byte is read. A key is put together in a buffer that holds the longest: a prefix and a suffix of
255 bytes each, as an ordinary node writes their lengths in one byte.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcmp, memcpy

from repo_stream.ipld._digest cimport hash_into
from repo_stream.ipld.cid import ORDINARY_LENGTH
from repo_stream.mst.node import LINK_START

cdef enum:
    DIGEST = 32

cdef bytes LINK_HEAD = LINK_START
cdef Py_ssize_t LINK_HEAD_SIZE = len(LINK_START)
cdef Py_ssize_t LINK = len(LINK_START) + DIGEST
cdef Py_ssize_t CID = ORDINARY_LENGTH


cdef bint is_link(const unsigned char *data, Py_ssize_t size, Py_ssize_t at) noexcept:
    """Return whether an ordinary link starts at `at`, and is whole."""
    return 0 <= at <= size - LINK and memcmp(data + at, <const char *> LINK_HEAD, LINK_HEAD_SIZE) == 0


cdef bytes cid_in(const unsigned char *data, Py_ssize_t size, Py_ssize_t link):
    """Return the CID in the link that starts at `link`."""
    if not 0 <= link <= size - LINK:
        raise IndexError("no link is there")
    return PyBytes_FromStringAndSize(<const char *> data + link + LINK - CID, CID)


cdef bint has_name(
    const unsigned char *data, Py_ssize_t size, Py_ssize_t at, unsigned char name
) noexcept:
    """Return whether there is a text of this one letter at `at`, and something after it."""
    return 0 <= at < size - 2 and data[at] == 0x61 and data[at + 1] == name


cdef Py_ssize_t number_at(
    const unsigned char *data, Py_ssize_t size, Py_ssize_t *at, unsigned char kind
) noexcept:
    """Read the head of a CBOR item with a number of one byte, and move `at` to what follows.

    `kind` is the head's first byte for zero. Anything else is -1.
    """
    cdef Py_ssize_t number
    if not 0 <= at[0] < size - 1:
        return -1
    number = data[at[0]] - kind
    at[0] += 1
    if number == 24:
        number = data[at[0]]
        at[0] += 1
        return number if number >= 24 else -1
    return number if 0 <= number < 24 else -1


cdef int compare(const unsigned char *key, Py_ssize_t size, bytes other) noexcept:
    """Return less than 0 if a key sorts before another, 0 if they are equal, or more than 0."""
    cdef Py_ssize_t other_size = PyBytes_GET_SIZE(other)
    cdef int order = memcmp(key, PyBytes_AS_STRING(other), min(size, other_size))
    if order:
        return order
    return (size > other_size) - (size < other_size)


cdef int depth_of(const unsigned char *digest) noexcept:
    """Return half the number of leading zero bits."""
    cdef int zeros = 0
    cdef int at = 0
    while at < DIGEST and digest[at] == 0:
        at += 1
    zeros = 8 * at
    if at < DIGEST:
        while not digest[at] & (0x80 >> (zeros & 7)):
            zeros += 1
    return zeros // 2


def open_ordinary(tuple subtree not None, bytes block not None, limits):
    cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(block)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(block)
    cdef unsigned char key[0xFF + 0xFF]
    cdef unsigned char digest[DIGEST]
    cdef Py_ssize_t longest_key = min(<Py_ssize_t> sizeof(key), limits.key_bytes)
    cdef Py_ssize_t at = 3, count, row, suffix, length, shared, tree, record, byte, key_length = 0
    cdef int depth = -1
    cdef bytes lower = <bytes?> subtree[2], upper = subtree[3]
    cdef bytes first = None, pending = None, after = None
    cdef list keys, values, frames
    cdef object below = None

    if size < 3 or memcmp(data, b"\xa2\x61e", 3):
        return None
    count = number_at(data, size, &at, 0x80)
    if count <= 0 or count > limits.node_entries:
        return None
    if subtree[1] is not None:
        depth = subtree[1]
    keys, values, frames = [], [], []
    for row in range(count):
        # The suffix
        if at >= size or data[at] != 0xA4 or not has_name(data, size, at + 1, c"k"):
            return None
        at += 3
        length = number_at(data, size, &at, 0x40)
        if length <= 0 or length > size - at:
            return None
        suffix = at
        at += length
        # The prefix
        if not has_name(data, size, at, c"p"):
            return None
        at += 2
        shared = number_at(data, size, &at, 0)
        # The first byte that is not shared says both that the key sorts after the one before it,
        # and that no more bytes could have been shared.
        if shared < 0 or shared > key_length or shared + length > longest_key:
            return None
        if shared < key_length and key[shared] >= data[suffix]:
            return None
        memcpy(key + shared, data + suffix, length)
        key_length = shared + length
        # The subtree and the record
        if not has_name(data, size, at, c"t"):
            return None
        at += 2
        tree = -1
        if data[at] == 0xF6:
            at += 1
        elif is_link(data, size, at):
            tree = at
            at += LINK
        else:
            return None
        record = at + 2
        if not has_name(data, size, at, c"v") or not is_link(data, size, record):
            return None
        at = record + LINK
        # What the walk demands of a key
        hash_into(key, key_length, digest)
        if row == 0:
            if depth < 0:
                depth = depth_of(digest)
                if depth > limits.mst_depth:
                    return None
            if compare(key, key_length, lower) <= 0:
                return None
            first = PyBytes_FromStringAndSize(<const char *> key, key_length)
            below = depth - 1
        if depth_of(digest) != depth:
            return None
        for byte in range(shared, key_length):
            if key[byte] >= 0x80:
                return None
        # The frames
        if pending is not None:
            frames.append(
                (pending, below, after, PyBytes_FromStringAndSize(<const char *> key, key_length))
            )
            pending = None
        keys.append(PyUnicode_DecodeASCII(<const char *> key, key_length, NULL))
        values.append(cid_in(data, size, record))
        if tree >= 0:
            pending = cid_in(data, size, tree)
            after = PyBytes_FromStringAndSize(<const char *> key, key_length)
            frames.append((keys, values))
            keys, values = [], []
    if upper is not None and compare(key, key_length, upper) >= 0:
        return None
    if pending is not None:
        frames.append((pending, below, after, upper))
    if keys:
        frames.append((keys, values))
    frames.reverse()
    # The subtree before the first key
    if not has_name(data, size, at, c"l"):
        return None
    at += 2
    if data[at] == 0xF6:
        at += 1
    elif is_link(data, size, at):
        frames.append((cid_in(data, size, at), below, lower, first))
        at += LINK
    else:
        return None
    if at != size or (depth == 0 and len(frames) > 1):
        return None
    return frames
