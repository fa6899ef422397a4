"""Tables, as in `tables.py`, but with digests in rows: a walk takes half the time.

In a large repo most of the time that a `dict` takes to find a block goes into misses of the
processor's caches: for its index, its item, the key, and the value. Here a key is a row of 32
bytes, and misses overlap, as all that a node names is looked up at once, before the walk needs the
first of it.

Ordinary CIDs differ in their digests alone. Each digest has a row, and its value is in a list at
the index of the row. Slots lead to rows: a slot is 32 bits of the digest's hash, and the row's
number plus one; 0 is free. A search starts at the slot that the hash says, and goes on to the next
until one is free. Rows and list have no gaps: if one is deleted, the last one takes its place.
Other CIDs are in a `dict`.

The hash is multilinear, with factors that nobody outside knows: two digests have the same one with
a probability of 1 in 2**32, whoever chose them.
"""

import os
import sys
from collections.abc import ItemsView, KeysView, ValuesView
from functools import partial

import cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_Check,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from repo_stream._prefetch cimport bring_near
from repo_stream.ipld.cid import ORDINARY_LENGTH, ORDINARY_PREFIX
from repo_stream.sizes import CID_COST, growth_of_dict, is_sparse

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject **ob_item

cdef enum:
    DIGEST = 32
    FEWEST_ROWS = 32
    FEWEST_SLOTS = 64
    # CIDs that are looked for at once
    AT_ONCE = 128
    LINE = 64
    LINES_OF_NODE = 6

cdef bytes PREFIX = ORDINARY_PREFIX
cdef Py_ssize_t PREFIX_SIZE = len(ORDINARY_PREFIX)
cdef Py_ssize_t CID_SIZE = ORDINARY_LENGTH
cdef Py_ssize_t ODD_KEY = CID_COST

cdef uint64_t[9] FACTORS
cdef bytes SECRET = os.urandom(sizeof(FACTORS))
memcpy(FACTORS, PyBytes_AS_STRING(SECRET), sizeof(FACTORS))

# As many as a hash can tell apart, and then rows as many as a slot can number
cdef uint64_t MOST_SLOTS = 1 << 32

cdef object MISSING = object()


cdef uint32_t hash_of(const unsigned char *digest) noexcept:
    cdef uint32_t[8] words
    cdef uint64_t hashed = FACTORS[8]
    cdef int at
    memcpy(words, digest, DIGEST)
    for at in range(8):
        hashed += FACTORS[at] * words[at]
    return <uint32_t> (hashed >> 32)


def tag(cid):
    """Return the hash of an ordinary CID, or `None` for others. Only tests need it."""
    cdef const unsigned char *digest = digest_of(cid)
    return None if digest == NULL else hash_of(digest)


cdef const unsigned char *digest_of(cid) noexcept:
    """Return the digest of an ordinary CID, or `NULL` for others."""
    cdef const char *start
    if not PyBytes_Check(cid) or PyBytes_GET_SIZE(cid) != CID_SIZE:
        return NULL
    start = PyBytes_AS_STRING(cid)
    if memcmp(start, PyBytes_AS_STRING(PREFIX), PREFIX_SIZE):
        return NULL
    return <const unsigned char *> start + PREFIX_SIZE


cdef uint64_t slot_with(uint32_t tag, Py_ssize_t number) noexcept:
    return (<uint64_t> tag << 32) | <uint64_t> (number + 1)


cdef uint32_t tag_in(uint64_t slot) noexcept:
    return <uint32_t> (slot >> 32)


cdef Py_ssize_t number_in(uint64_t slot) noexcept:
    return <Py_ssize_t> <uint32_t> slot - 1


# A list that is cleared breaks a cycle that goes through it; to clear the table would take the list.
@cython.no_gc_clear
cdef class Table:
    """What a `dict` would be."""

    cdef uint64_t *slots
    cdef Py_ssize_t slot_count
    cdef unsigned char *rows
    cdef Py_ssize_t room
    cdef list values_
    cdef dict odd

    def __cinit__(self):
        self.values_ = []
        self.odd = {}

    def __dealloc__(self):
        self.free()

    cdef void free(self) noexcept:
        PyMem_Free(self.rows)
        PyMem_Free(self.slots)
        self.rows = NULL
        self.slots = NULL
        self.room = self.slot_count = 0

    # --- Rows and slots -------------------------------------------------------------------------

    cdef unsigned char *row(self, Py_ssize_t number) noexcept:
        return self.rows + number * DIGEST

    cdef Py_ssize_t slot_of(self, const unsigned char *digest) noexcept:
        """Return the number of a digest's slot, or -1 if it has none."""
        cdef uint32_t tag
        cdef Py_ssize_t at, mask = self.slot_count - 1
        cdef uint64_t slot
        if self.slot_count == 0:
            return -1
        tag = hash_of(digest)
        at = tag & mask
        while True:
            slot = self.slots[at]
            if slot == 0:
                return -1
            if tag_in(slot) == tag and not memcmp(self.row(number_in(slot)), digest, DIGEST):
                return at
            at = (at + 1) & mask

    cdef Py_ssize_t row_of(self, const unsigned char *digest) noexcept:
        """Return the number of a digest's row, or -1 if it has none."""
        cdef Py_ssize_t at = self.slot_of(digest)
        return -1 if at < 0 else number_in(self.slots[at])

    cdef int append(self, const unsigned char *digest, value) except -1:
        """Add a digest that is not there yet."""
        cdef Py_ssize_t number = PyList_GET_SIZE(self.values_)
        if 3 * (number + 1) > 2 * self.slot_count:
            self.have_slots(max(2 * self.slot_count, FEWEST_SLOTS))
        if number == self.room:
            self.have_room(number + number // 8 + FEWEST_ROWS)
        self.values_.append(value)
        memcpy(self.row(number), digest, DIGEST)
        self.put(hash_of(digest), number)
        return 0

    cdef void put(self, uint32_t tag, Py_ssize_t number) noexcept:
        cdef Py_ssize_t mask = self.slot_count - 1
        cdef Py_ssize_t at = tag & mask
        while self.slots[at]:
            at = (at + 1) & mask
        self.slots[at] = slot_with(tag, number)

    cdef int have_slots(self, Py_ssize_t count) except -1:
        cdef uint64_t *old = self.slots
        cdef Py_ssize_t at, old_count = self.slot_count
        cdef uint64_t *slots = NULL
        if <uint64_t> count <= MOST_SLOTS:
            slots = <uint64_t *> PyMem_Calloc(count, sizeof(uint64_t))
        if slots == NULL:
            raise MemoryError
        self.slots = slots
        self.slot_count = count
        for at in range(old_count):
            if old[at]:
                self.put(tag_in(old[at]), number_in(old[at]))
        PyMem_Free(old)
        return 0

    cdef int have_room(self, Py_ssize_t room) except -1:
        """Take memory for so many rows; those that there are move with it."""
        cdef void *rows = PyMem_Realloc(self.rows, room * DIGEST)
        if rows == NULL:
            raise MemoryError
        self.rows, self.room = <unsigned char *> rows, room
        return 0

    cdef object take_out(self, Py_ssize_t at):
        """Free a slot, and return the value that it led to."""
        cdef Py_ssize_t mask = self.slot_count - 1
        cdef Py_ssize_t number = number_in(self.slots[at])
        cdef Py_ssize_t following = at, home, last
        # First what can fail: a list that gets shorter may move.
        cdef object value = self.values_.pop()
        last = PyList_GET_SIZE(self.values_)
        # What follows moves up, as far as it may, so that nobody who looks for it stops short.
        while True:
            following = (following + 1) & mask
            if self.slots[following] == 0:
                break
            home = tag_in(self.slots[following]) & mask
            if ((following - home) & mask) >= ((following - at) & mask):
                self.slots[at] = self.slots[following]
                at = following
        self.slots[at] = 0
        if number < last:
            at = self.slot_of(self.row(last))
            self.slots[at] = slot_with(tag_in(self.slots[at]), number)
            memcpy(self.row(number), self.row(last), DIGEST)
            self.values_[number], value = value, self.values_[number]
        return value

    cdef Py_ssize_t growth(self):
        """Return how much more memory it may need for a while to take more in, in bytes.

        Rows and values move to where there is room for an eighth more; Linux moves large ones
        without a copy. If most slots are taken, they are copied into twice as many, and so is a
        full `dict`.
        """
        cdef Py_ssize_t rows = PyList_GET_SIZE(self.values_)
        cdef Py_ssize_t growth = rows // 8 * (DIGEST + sizeof(void *))
        if 3 * (rows + rows // 8 + FEWEST_ROWS) > 2 * self.slot_count:
            growth += 2 * self.slot_count * sizeof(uint64_t)
        growth += growth_of_dict(self.odd)
        return growth

    cdef int shrink(self) except -1:
        """Free the memory that is no longer needed."""
        cdef Py_ssize_t rows = PyList_GET_SIZE(self.values_)
        cdef Py_ssize_t slots = FEWEST_SLOTS
        if self.room > 2 * rows + FEWEST_ROWS:
            self.have_room(rows + FEWEST_ROWS)
        while 3 * (rows + 1) > 2 * slots:
            slots *= 2
        if self.slot_count > 4 * slots:
            self.have_slots(2 * slots)
        if is_sparse(self.odd):
            self.odd = dict(self.odd)
        return 0

    cdef bytes cid_at(self, Py_ssize_t number):
        return PREFIX + PyBytes_FromStringAndSize(<const char *> self.row(number), DIGEST)

    # --- What a dict does -----------------------------------------------------------------------

    def __len__(self):
        return PyList_GET_SIZE(self.values_) + len(self.odd)

    def __contains__(self, cid):
        cdef const unsigned char *digest = digest_of(cid)
        return cid in self.odd if digest == NULL else self.slot_of(digest) >= 0

    def __getitem__(self, cid):
        cdef const unsigned char *digest = digest_of(cid)
        cdef Py_ssize_t number
        if digest == NULL:
            return self.odd[cid]
        number = self.row_of(digest)
        if number < 0:
            raise KeyError(cid)
        return self.values_[number]

    def __setitem__(self, cid, value):
        cdef const unsigned char *digest = digest_of(cid)
        cdef Py_ssize_t number
        if digest == NULL:
            self.odd[cid] = value
            return
        number = self.row_of(digest)
        if number < 0:
            self.append(digest, value)
        else:
            self.values_[number] = value

    def __delitem__(self, cid):
        self.pop(cid)

    def __iter__(self):
        cdef Py_ssize_t number, rows = PyList_GET_SIZE(self.values_)
        for number in range(rows):
            yield self.cid_at(number)
            if PyList_GET_SIZE(self.values_) != rows:
                raise RuntimeError("table changed size during iteration")
        yield from self.odd

    def __eq__(self, other):
        return dict(self.items()) == other

    def __repr__(self):
        return repr(dict(self.items()))

    def __sizeof__(self):
        return (
            object.__sizeof__(self)
            + self.slot_count * sizeof(uint64_t)
            + self.room * DIGEST
            + sys.getsizeof(self.values_)
            + (sys.getsizeof(self.odd) + ODD_KEY * len(self.odd) if self.odd else 0)
        )

    def keys(self):
        return KeysView(self)

    def values(self):
        return ValuesView(self)

    def items(self):
        return ItemsView(self)

    def get(self, cid, default=None):
        cdef const unsigned char *digest = digest_of(cid)
        cdef Py_ssize_t number
        if digest == NULL:
            return self.odd.get(cid, default)
        number = self.row_of(digest)
        return default if number < 0 else self.values_[number]

    def pop(self, cid, default=MISSING):
        cdef const unsigned char *digest = digest_of(cid)
        cdef Py_ssize_t at
        if digest == NULL:
            return self.odd.pop(cid) if default is MISSING else self.odd.pop(cid, default)
        at = self.slot_of(digest)
        if at >= 0:
            return self.take_out(at)
        if default is MISSING:
            raise KeyError(cid)
        return default

    def popitem(self):
        cdef Py_ssize_t last = PyList_GET_SIZE(self.values_) - 1
        cdef bytes cid
        if last < 0:
            return self.odd.popitem()
        cid = self.cid_at(last)
        return cid, self.take_out(self.slot_of(self.row(last)))

    def update(self, pairs):
        for cid, value in pairs.items() if hasattr(pairs, "items") else pairs:
            self[cid] = value

    def clear(self):
        cdef list values = self.values_
        cdef dict odd = self.odd
        self.values_, self.odd = [], {}
        self.free()
        # What they held goes once the table is in order.
        del values, odd

    # --- Many at once ---------------------------------------------------------------------------

    def find_all(self, cids):
        """Return the values of many CIDs."""
        cdef list found = []
        cdef const unsigned char *digest
        cdef Py_ssize_t number
        for cid in cids:
            digest = digest_of(cid)
            number = -1 if digest == NULL else self.row_of(digest)
            found.append(self[cid] if number < 0 else self.values_[number])
        return found


# --- Looking for many at once -------------------------------------------------------------------


cdef struct Sought:
    void *table
    Py_ssize_t number
    uint32_t tag
    bint whole


cdef void seek(Sought *sought, Table table, cid, bint whole) noexcept:
    """Begin to look for a CID: its slot is next. `whole` if all of its value is wanted."""
    cdef const unsigned char *digest = digest_of(cid)
    sought.table = NULL
    if digest == NULL or table.slot_count == 0:
        return
    sought.table = <void *> table
    sought.tag = hash_of(digest)
    sought.whole = whole
    bring_near(table.slots + (sought.tag & (table.slot_count - 1)))


cdef void go_on(Sought *sought, int count) noexcept:
    """Go on to the rows, and then to the values, of the searches that were begun."""
    cdef int each, line
    cdef Table table
    cdef Py_ssize_t at, mask
    cdef PyObject **value
    for each in range(count):
        if sought[each].table == NULL:
            continue
        table = <Table> sought[each].table
        if table.slot_count == 0:  # the iterator of the CIDs has cleared it
            sought[each].table = NULL
            continue
        mask = table.slot_count - 1
        at = sought[each].tag & mask
        while table.slots[at] and tag_in(table.slots[at]) != sought[each].tag:
            at = (at + 1) & mask
        at = number_in(table.slots[at])
        if not 0 <= at < PyList_GET_SIZE(table.values_):
            sought[each].table = NULL
            continue
        sought[each].number = at
        bring_near(table.row(at))
        bring_near((<PyListObject *> table.values_).ob_item + at)
    for each in range(count):
        if sought[each].table == NULL:
            continue
        table = <Table> sought[each].table
        value = (<PyListObject *> table.values_).ob_item + sought[each].number
        for line in range(LINES_OF_NODE if sought[each].whole else 1):
            bring_near(<const char *> value[0] + LINE * line)


def expect(table, cids):
    cdef Sought[AT_ONCE] sought
    cdef int count = 0
    if type(table) is not Table:
        return
    for cid in cids:
        seek(&sought[count], table, cid, False)
        count += 1
        if count == AT_ONCE:
            go_on(sought, count)
            count = 0
    go_on(sought, count)


def expect_all_of(list frames not None, raw, processed):
    cdef Sought[AT_ONCE] sought
    cdef int count = 0
    cdef tuple frame
    cdef Table records
    if type(raw) is not Table:
        return
    # If records are processed late, all of them are raw.
    records = processed if type(processed) is Table and processed else raw
    for frame in reversed(frames):
        if len(frame) == 2:
            for cid in <list?> frame[1]:
                if count < AT_ONCE:
                    seek(&sought[count], records, cid, False)
                    count += 1
        elif count < AT_ONCE:
            seek(&sought[count], raw, frame[0], True)
            count += 1
    go_on(sought, count)


# --- The functions of `tables.py` ---------------------------------------------------------------


def new():
    return Table()


def need(table):
    return sys.getsizeof(table) + ((<Table> table).growth() if type(table) is Table else 0)


def shrink(table):
    if type(table) is Table:
        (<Table> table).shrink()


def holds_any(table, cids):
    for cid in cids:
        if cid in table:
            return True
    return False


def finder(table):
    return table.find_all if type(table) is Table else partial(map, table.__getitem__)


def total_size(list blocks not None):
    cdef Py_ssize_t size = 0
    for block in blocks:
        size += len(block)
    return size
