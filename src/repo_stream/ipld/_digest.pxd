cdef int hash_into(const unsigned char *data, Py_ssize_t size, unsigned char *digest) except -1
