"""Where the bytes of a direction were when a relay's worker died, as Python sees it."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from mproxy._ring cimport iovec, ring_append, ring_drop, ring_init, ring_used, ring_view
from mproxy.relay.tcp._pair_record cimport SideRecord
from mproxy.relay.tcp._settling cimport CONTRADICTION, IN_PIPE, Copied, Settled, settle_bytes


def settle(uint64_t read, uint64_t written, *, uint64_t noted, bytes ring=b"", uint64_t piped=0, bytes buffer=b"",
           uint64_t copied_from=0, bint copied=False, bint ended=False):
    """("ring", what is in it, place of its end), "pipe", or None when it contradicts itself. `ring`: what it had, up to
    the place `noted`; `buffer`: what was last read into it, from the place `copied_from` on, and `copied`: for this
    side."""
    cdef SideRecord sink
    cdef Copied last
    cdef Settled found
    cdef iovec parts[2]
    cdef int i, n
    cdef const uint8_t *data = ring
    memset(&sink, 0, sizeof(sink))
    sink.mark, sink.ended = 7, ended
    ring_init(&sink.waiting, noted - <uint64_t>len(ring))
    if ring and ring_append(&sink.waiting, data, <unsigned>len(ring), NULL) < 0:
        raise MemoryError
    data = buffer
    last.bytes, last.start, last.user = data, copied_from, 7 if copied else 9
    found = settle_bytes(&sink, read, written, piped, &last)
    held, end = b"", sink.waiting.tail
    if ring_used(&sink.waiting):
        n = ring_view(&sink.waiting, sink.waiting.head, ring_used(&sink.waiting), parts)
        for i in range(n):
            held += (<const char *>parts[i].iov_base)[:parts[i].iov_len]
    ring_drop(&sink.waiting, NULL)
    if found == CONTRADICTION:
        return None
    return ("pipe", held, end) if found == IN_PIPE else ("ring", held, end)
