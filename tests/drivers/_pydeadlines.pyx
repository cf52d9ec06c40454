"""The heap of deadlines as Python code drives it, and links whose turns can be counted."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free

from mproxy.ground._deadlines cimport (
    Deadline, Deadlines, deadline_remove, deadline_set, deadlines_first, deadlines_reserve,
)
from mproxy.transport._link cimport Link


cdef enum:
    MOST = 64


cdef class PyDeadlines:
    """Of MOST records, which are numbers."""

    cdef Deadlines deadlines
    cdef Deadline records[MOST]

    def __init__(self):
        cdef int i
        for i in range(MOST):
            self.records[i].owner = <void *><size_t>i

    def __dealloc__(self):
        free(self.deadlines.heap)

    def set(self, int record, int64_t at):
        """Enter it, or move it."""
        deadlines_reserve(&self.deadlines, self.deadlines.count + 1)
        deadline_set(&self.deadlines, &self.records[record], at)

    def remove(self, int record):
        """Take it out, if it is in."""
        deadline_remove(&self.deadlines, &self.records[record])

    def first(self):
        """(deadline, record) of the earliest; None: there is none."""
        if self.deadlines.count == 0:
            return None
        return deadlines_first(&self.deadlines).at, <size_t>deadlines_first(&self.deadlines).owner

    def __len__(self):
        return self.deadlines.count


def next_us(Link link):
    """When something is to be done about it, on the loop's clock."""
    return link.connection.deadline()


def mark(Link link):
    """Whoever looks at it finds that it is due."""
    link.connection.keepalive_at = 0


def was_seen(Link link):
    """Whether anybody has looked since `mark`."""
    return link.connection.keepalive_at != 0
