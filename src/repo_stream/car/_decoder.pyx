"""Ordinary sections, as `decoder.py` cuts them, in half of the time.

Each block is hashed where it lies, before it is cut out.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from repo_stream.ipld._digest cimport hash_into
from repo_stream.ipld.cid import ORDINARY_LENGTH, ORDINARY_PREFIX

cdef bytes PREFIX = ORDINARY_PREFIX
cdef Py_ssize_t PREFIX_SIZE = len(ORDINARY_PREFIX)
cdef Py_ssize_t CID_SIZE = ORDINARY_LENGTH


def cut_ordinary(
    bytes buffer not None,
    Py_ssize_t at,
    list cids not None,
    list blocks not None,
    *,
    Py_ssize_t most,
    Py_ssize_t longest,
    bint verify,
):
    cdef const char *data = PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(buffer)
    cdef Py_ssize_t start, body, end, length
    cdef unsigned char second
    cdef unsigned char digest[32]
    if at < 0:
        raise ValueError("an index into a buffer must not be negative")
    while at < size - 1 and len(cids) < most:
        length = <unsigned char> data[at]
        start = at + 1
        if length >= 0x80:
            second = <unsigned char> data[start]
            if not 0 < second < 0x80:
                break
            length += (<Py_ssize_t> second << 7) - 0x80
            start += 1
        body = start + CID_SIZE
        end = start + length
        if length > longest or end > size or body > end:
            break
        if memcmp(data + start, <const char *> PREFIX, PREFIX_SIZE):
            break
        if verify:
            hash_into(<const unsigned char *> data + body, end - body, digest)
            if memcmp(data + start + PREFIX_SIZE, digest, 32):
                break
        cids.append(PyBytes_FromStringAndSize(data + start, CID_SIZE))
        blocks.append(PyBytes_FromStringAndSize(data + body, end - body))
        at = end
    return at
