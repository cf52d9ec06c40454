"""How often an observer is told of events that may come in floods, such as applications that are refused or leave."""

from libc.stdint cimport int64_t


cdef enum:
    TOLD = 10        # most in PERIOD_US
    PERIOD_US = 1000000


cdef bint is_news(News *news, int64_t now) noexcept:
    """Whether to tell of one more."""
    if now - news.since >= PERIOD_US:
        news.since = now
        news.told = 0
    news.told += 1
    return news.told <= TOLD
