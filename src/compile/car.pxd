# What `window` points at is unchecked, which makes a slice of it as cheap as its bytes. Every index
# is compared with the size of the buffer first, and none is negative: `at` is where a section ends.
import cython


@cython.locals(
    size=Py_ssize_t,
    length=Py_ssize_t,
    start=Py_ssize_t,
    second=Py_ssize_t,
    body=Py_ssize_t,
    end=Py_ssize_t,
    window=cython.p_const_uchar,
    prefix=bytes,
    cid=bytes,
    data=bytes,
    known=Py_ssize_t,
    first=Py_ssize_t,
    right=Py_ssize_t,
)
cpdef Py_ssize_t cut_ordinary(
    bytes buffer,
    Py_ssize_t at,
    list cids,
    list blocks,
    Py_ssize_t most,
    Py_ssize_t longest,
    bint verify_cids,
) except -1
