"""Sections, as `sections.py` reads them, in half of the time.

Many are read at a time, one after the other into one buffer, without Python's lock: a thread that
takes the lock again for each may have to wait for it each time. The bytes after the end of a section
are overwritten by the next one.
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

from repo_stream.car.files import HEAD

cdef enum:
    # What is read at a time: so many bytes at the most, and so many sections. For a larger buffer the
    # allocator would ask the system each time.
    ROOM = 96 * 1024
    AT_ONCE = 512

cdef Py_ssize_t SIZE = HEAD

cdef extern from *:
    """
    #include <errno.h>
    #ifdef _WIN32
    static Py_ssize_t repo_stream_read(
        int file, char *into, size_t size, long long start, int flags
    ) {
        errno = ENOSYS;
        return -1;
    }
    #else
    #include <sys/uio.h>
    #include <unistd.h>
    static Py_ssize_t repo_stream_read(
        int file, char *into, size_t size, long long start, int flags
    ) {
        ssize_t count;
        do {
            if (!flags) {
                count = pread(file, into, size, (off_t) start);
            } else {
    #ifdef RWF_NOWAIT
                struct iovec piece = {into, size};
                count = preadv2(file, &piece, 1, (off_t) start, flags);
                if (count >= 0 && (size_t) count < size) {
                    errno = EAGAIN;
                    count = -1;
                }
    #else
                errno = ENOSYS;
                count = -1;
    #endif
            }
        } while (count < 0 && errno == EINTR);
        return count;
    }
    #endif
    """
    Py_ssize_t repo_stream_read(
        int file, char *into, size_t size, long long start, int flags
    ) nogil


cdef struct Section:
    const char *cid
    Py_ssize_t cid_size
    long long start
    # What was read of it, and how many bytes
    const unsigned char *head
    Py_ssize_t size
    # Where in that its data starts and ends; -1 if there is no whole section of this CID
    Py_ssize_t data
    Py_ssize_t end


cdef void examine(Section *section) noexcept nogil:
    """Find the data in what was read of a section."""
    cdef const unsigned char *head = section.head
    cdef Py_ssize_t length, body = 1
    section.data = -1
    if section.size < 2:
        return
    length = head[0]
    if length >= 0x80:
        length += (<Py_ssize_t> head[1] << 7) - 0x80  # far too much if there is a third byte
        body = 2
    if length < section.cid_size or body + length > section.size:
        return
    if memcmp(head + body, section.cid, section.cid_size) == 0:
        section.data = body + section.cid_size
        section.end = body + length


cdef Py_ssize_t read_some(
    int file, int flags, Section *sections, Py_ssize_t count, char *room
) noexcept nogil:
    """Read sections into a buffer of `ROOM` bytes.

    Return how many of them there was room for, or -1 for an error.
    """
    cdef Py_ssize_t at, used = 0
    for at in range(count):
        if used + SIZE > ROOM:
            return at
        sections[at].head = <unsigned char *> room + used
        sections[at].size = repo_stream_read(file, room + used, SIZE, sections[at].start, flags)
        if sections[at].size < 0:
            return -1
        examine(&sections[at])
        used += sections[at].size if sections[at].data < 0 else sections[at].end
    return count


cdef int sort_out(cid, start, Section *section, dict blocks, list others) except -1:
    cdef const char *head = <const char *> section.head
    if not 0 <= section.data <= section.end <= section.size:
        others.append((cid, start, PyBytes_FromStringAndSize(head, section.size)))
    else:
        blocks[cid] = PyBytes_FromStringAndSize(head + section.data, section.end - section.data)


def read_sections(file, cids, starts):
    cdef dict blocks = {}
    cdef list others = []
    cdef tuple wanted = tuple(cids)  # nobody changes it while other threads have Python's lock
    cdef int number = -1 if file.descriptor is None else file.descriptor
    cdef int flags = file.flags
    cdef Py_ssize_t count = len(wanted), first = 0, at, here
    cdef Section sections[AT_ONCE]
    cdef bytes head
    cdef char *room
    if len(starts) != count:
        raise ValueError("one of these is shorter: CIDs, starts")
    room = <char *> PyMem_Malloc(ROOM)
    if room == NULL:
        raise MemoryError
    try:
        while first < count:
            here = min(count - first, AT_ONCE if number >= 0 else 1)
            for at in range(here):
                sections[at].cid = PyBytes_AsString(wanted[first + at])  # a `Cid`, or other bytes
                sections[at].cid_size = PyBytes_GET_SIZE(wanted[first + at])
                sections[at].start = starts[first + at]
            if number >= 0:
                with nogil:
                    here = read_some(number, flags, sections, here, room)
                if here < 0:
                    PyErr_SetFromErrno(OSError)
            else:
                head = file.read(SIZE, starts[first])
                sections[0].size = len(head)
                sections[0].head = <const unsigned char *> PyBytes_AS_STRING(head)
                examine(&sections[0])
            for at in range(here):
                sort_out(wanted[first + at], starts[first + at], &sections[at], blocks, others)
            first += here
    finally:
        PyMem_Free(room)
    return blocks, others
