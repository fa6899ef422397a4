import cython


@cython.locals(
    keys=list,
    values=list,
    trees=dict,
    rkeys=list,
    frames=list,
    end=Py_ssize_t,
    at=Py_ssize_t,
)
cpdef list open_node(tuple subtree, bytes block, limits)
