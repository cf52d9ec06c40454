"""How often each source may begin something: _newcomers.pxd."""

import os
import socket as _python_socket

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from mproxy.ground._siphash cimport siphash13
from mproxy.ground._sockaddr cimport is_mapped, take_address
from mproxy.io._shared cimport munmap, shared_zeros


cdef extern from *:
    """
    #include <stdint.h>
    static int64_t newcomer_load(const int64_t *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
    static void newcomer_store(int64_t *at, int64_t value) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }
    static int newcomer_change(int64_t *at, int64_t from, int64_t to) {
        return __atomic_compare_exchange_n(at, &from, to, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED); }
    """
    int64_t newcomer_load(const int64_t *at) nogil
    void newcomer_store(int64_t *at, int64_t value) nogil
    bint newcomer_change(int64_t *at, int64_t before, int64_t after) nogil


cdef class Newcomers:
    """One for all workers, made before they are forked; OSError without memory."""

    def __init__(self):
        cdef bytes seed = os.urandom(16)
        self.places = <SourceDebt *>shared_zeros(<size_t>SETS * WAYS * sizeof(SourceDebt))
        memcpy(self.seed, <const char *>seed, 16)

    def __dealloc__(self):
        if self.places != NULL:
            munmap(self.places, <size_t>SETS * WAYS * sizeof(SourceDebt))

    cdef bint admits(self, uint64_t rule, const sockaddr *who, int64_t now, int64_t every_ns, int burst) noexcept nogil:
        """Whether this one's source may begin one more by the rule at `now`, microseconds; then it has. Two workers
        that forget or find somebody at the same time may let one too many in."""
        cdef uint64_t hash = self.hash(rule, who), tag = hash | 1
        cdef SourceDebt *place = self.place_of(&self.places[(hash >> 32) % SETS * WAYS], tag)
        cdef int64_t now_ns = now * 1000, paid, after
        while True:
            paid = newcomer_load(&place.paid)
            after = max(paid, now_ns) + every_ns
            if after - now_ns > burst * every_ns:
                return False
            if newcomer_change(&place.paid, paid, after):
                return True

    cdef uint64_t hash(self, uint64_t rule, const sockaddr *source) noexcept nogil:
        cdef uint8_t data[24]
        cdef uint16_t port
        memset(data, 0, sizeof(data))
        take_address(source, data, &port)
        if not is_mapped(data):
            memset(data + 8, 0, 8)
        memcpy(data + 16, &rule, 8)
        return siphash13(self.seed, data, sizeof(data))

    cdef SourceDebt *place_of(self, SourceDebt *places, uint64_t tag) noexcept nogil:
        """The place of that tag in a set: its own, or that of whoever has least to pay."""
        cdef SourceDebt *least = places
        cdef int i
        for i in range(WAYS):
            if <uint64_t>newcomer_load(<const int64_t *>&places[i].tag) == tag:
                return &places[i]
            if newcomer_load(&places[i].paid) < newcomer_load(&least.paid):
                least = &places[i]
        newcomer_store(<int64_t *>&least.tag, <int64_t>tag)
        newcomer_store(&least.paid, 0)
        return least


cdef str source_text(const sockaddr *source):
    """A source, for people: `192.0.2.7`, `2001:db8::/64`."""
    cdef uint8_t address[16]
    cdef uint16_t port
    memset(address, 0, sizeof(address))
    take_address(source, address, &port)
    if is_mapped(address):
        return _python_socket.inet_ntop(_python_socket.AF_INET, (<char *>address)[12:16])
    memset(address + 8, 0, 8)
    return f"{_python_socket.inet_ntop(_python_socket.AF_INET6, (<char *>address)[:16])}/64"
