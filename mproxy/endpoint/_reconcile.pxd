"""What the kernel did for an application's connection and a process that died could not note any more.

A process may die between a system call and its bookkeeping. The kernel counts what is read from a TCP connection and
what is written to it, so whoever goes on asks (io/_kernel_facts) and sets the offsets of the stream right
(`reconcile`), before anything else happens to either. Why that is exact: docs/decisions/the-kernel-counts.md.
"""

from mproxy._state cimport SessionState, StreamState
from mproxy.io._kernel_facts cimport KernelFacts


cdef enum Reconciled:
    CONNECTED            # the offsets are right, and it goes on
    BROKEN               # they are right; what it has left can be read, and it takes nothing more
    UNCONNECTED          # not connected yet, or refused, or not told what comes first; no byte of the stream has moved
    UNKNOWN              # what was done cannot be told; nothing was changed


cdef Reconciled reconcile(SessionState *session, StreamState *state, const KernelFacts *facts) noexcept nogil
