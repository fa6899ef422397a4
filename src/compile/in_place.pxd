import cython


@cython.locals(
    head=bytes,
    rows=list,
    long=list,
    odd=list,
    length=Py_ssize_t,
    body=Py_ssize_t,
    end=Py_ssize_t,
)
cpdef tuple _cut(cids, starts, heads, longest)
