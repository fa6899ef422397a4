import cython


@cython.locals(sought=bytes, hashed=cython.longlong, at=Py_ssize_t, starts=list)
cpdef list locate(buckets, cids)
