import cython


@cython.locals(cost=double, data=bytes)
cpdef double process_into(raw, processed, cids, blocks, process, size_of) except? -1
