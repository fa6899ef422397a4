"""Sections, as `repo_stream/sections.py` reads them: half of the time.

Some are read at a time, into one buffer, and meanwhile other threads have Python's lock: who reads
one by one may wait for it each time. Every section is compared with what was read of it.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_AsString,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_SetFromErrno
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcmp

__all__ = ["HEAD", "Head", "read_sections"]

cdef enum:
    SIZE = 1024
    AT_ONCE = 32

HEAD = SIZE
Head = tuple[bytes, int, bytes]

cdef extern from *:
    """
    #include <errno.h>
    #ifdef _WIN32
    static Py_ssize_t repo_stream_read(int file, char *into, size_t size, long long start) {
        errno = ENOSYS;
        return -1;
    }
    #else
    #include <unistd.h>
    static Py_ssize_t repo_stream_read(int file, char *into, size_t size, long long start) {
        ssize_t count;
        do {
            count = pread(file, into, size, (off_t) start);
        } while (count < 0 && errno == EINTR);
        return count;
    }
    #endif
    """
    Py_ssize_t repo_stream_read(int file, char *into, size_t size, long long start) nogil


cdef bytes data_of(cid, const unsigned char *head, Py_ssize_t size):
    """Give the block of a section that is whole, and has that CID; `None` for others."""
    cdef const char *wanted = PyBytes_AsString(cid)  # a `Cid`, or other bytes
    cdef Py_ssize_t length, body = 1, cid_size = PyBytes_GET_SIZE(cid)
    if size < 2:
        return None
    length = head[0]
    if length >= 0x80:
        length += (<Py_ssize_t> head[1] << 7) - 0x80  # far too much where there is a third byte
        body = 2
    if length < cid_size or body + length > size:
        return None
    if memcmp(head + body, wanted, cid_size):
        return None
    return PyBytes_FromStringAndSize(<const char *> head + body + cid_size, length - cid_size)


def read_sections(file, cids, starts):
    """Read sections that are no longer than `HEAD`, and give the heads of all others."""
    cdef list rows = [], others = []
    cdef int number = -1 if file.descriptor is None else file.descriptor
    cdef char *heads
    cdef Py_ssize_t count = len(cids), first, at, here
    cdef Py_ssize_t sizes[AT_ONCE]
    cdef long long places[AT_ONCE]
    cdef bytes data, head
    if len(starts) != count:
        raise ValueError("one of these is shorter: CIDs, starts")
    if number < 0:
        for cid, start in zip(cids, starts, strict=True):
            head = file.read(HEAD, start)
            data = data_of(cid, <const unsigned char *> PyBytes_AS_STRING(head), len(head))
            if data is None:
                others.append((cid, start, head))
            else:
                rows.append((cid, data, 0))
        return rows, others
    heads = <char *> PyMem_Malloc(AT_ONCE * SIZE)
    if heads == NULL:
        raise MemoryError
    try:
        for first in range(0, count, AT_ONCE):
            here = min(count - first, AT_ONCE)
            for at in range(here):
                places[at] = starts[first + at]
            with nogil:
                for at in range(here):
                    sizes[at] = repo_stream_read(number, heads + at * SIZE, SIZE, places[at])
                    if sizes[at] < 0:
                        here = -1
                        break
            if here < 0:
                PyErr_SetFromErrno(OSError)
            for at in range(here):
                cid = cids[first + at]
                data = data_of(cid, <const unsigned char *> heads + at * SIZE, sizes[at])
                if data is None:
                    head = PyBytes_FromStringAndSize(heads + at * SIZE, sizes[at])
                    others.append((cid, starts[first + at], head))
                else:
                    rows.append((cid, data, 0))
    finally:
        PyMem_Free(heads)
    return rows, others
