cpdef list open_node(tuple subtree, bytes block, limits)
