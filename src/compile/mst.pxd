# What `window` and `previous` point at is unchecked, which makes a slice of them as cheap as its
# bytes. An entry is only looked at where the shortest one would fit (`last`), its suffix ends where
# the rest of the shortest one fits (`last_end`), that of a longer one is compared with the size,
# and of the previous key no more is taken than it is long. Other indices are checked as usual.
import cython

cdef dict _SHORT_SUFFIXES, _LEAVES, _BRANCHES, _NO_TREES
cdef bytes _LONG_SUFFIX, _RECORD, _LEFT, _NO_LEFT
cdef Py_ssize_t _AFTER_SUFFIX, _SHORTEST_ENTRY


@cython.locals(
    size=Py_ssize_t,
    count=Py_ssize_t,
    at=Py_ssize_t,
    last=Py_ssize_t,
    last_end=Py_ssize_t,
    length=Py_ssize_t,
    end=Py_ssize_t,
    digest=Py_ssize_t,
    shared=Py_ssize_t,
    tree_end=Py_ssize_t,
    key_length=Py_ssize_t,
    window=cython.p_const_uchar,
    previous=cython.p_const_uchar,
    key=bytes,
    keys=list,
    values=list,
    trees=dict,
)
cpdef decode_node_fast(bytes block, limits)
