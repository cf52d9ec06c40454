"""How often an observer is told of events that may come in floods."""

from libc.stdint cimport int64_t


cdef struct News:
    int64_t since  # beginning of the present second
    int told       # in that second


cdef bint is_news(News *news, int64_t now) noexcept
