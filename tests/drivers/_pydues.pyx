"""Calls in C that a loop makes when they are due, as Python code sets them."""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from mproxy.io._loop cimport DueCall, Loop


cdef struct Numbered:
    DueCall due
    int number
    int64_t again_us  # after so long it sets itself anew; 0: it does not


cdef void ring(DueCall *due) noexcept:
    cdef PyDues dues = <PyDues>due.owner
    cdef Numbered *numbered = <Numbered *>due
    dues.rung.append((numbered.number, dues.loop.turns))
    if numbered.again_us:
        dues.loop.set_due(due, dues.loop.now_us + numbered.again_us)
    if dues.then is not None:
        dues.then()


cdef class PyDues:
    """`count` calls of a loop, by number; `rung`: (number, turn) of those that were made, in order; `then` is called after each."""

    cdef Loop loop
    cdef Numbered *all
    cdef int count
    cdef public list rung
    cdef public object then

    def __init__(self, Loop loop, int count):
        cdef int i
        self.loop = loop
        self.all = <Numbered *>calloc(count, sizeof(Numbered))
        self.count = count
        self.rung = []
        for i in range(count):
            self.all[i].number = i
            self.all[i].due.call = ring
            self.all[i].due.owner = <void *>self

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            self.loop.cancel_due(&self.all[i].due)
        free(self.all)

    def set(self, int number, int64_t at, int64_t again_us=0):
        """Have it called at that time, and again so long afterwards."""
        self.all[number].again_us = again_us
        assert self.loop.set_due(&self.all[number].due, at) == 0

    def cancel(self, int number):
        """Never call it."""
        self.loop.cancel_due(&self.all[number].due)
