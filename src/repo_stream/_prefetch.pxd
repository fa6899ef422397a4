# Have memory loaded into the processor's caches before it is read.
cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define repo_stream_bring_near(address) __builtin_prefetch(address)
    #else
    #define repo_stream_bring_near(address) ((void)(address))
    #endif
    """
    void bring_near "repo_stream_bring_near"(const void *address) noexcept nogil
