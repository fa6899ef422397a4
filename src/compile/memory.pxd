import cython


@cython.locals(cost=double, data=bytes)
cpdef double process_into(dict raw, dict processed, cids, blocks, process, size_of) except? -1
