"""Which address a connection or flow goes to, and which addresses are down. Takes `now`, knows no socket.

Every address of every target is a TargetAddress of its own, whose state all callers of the rule share:

* One that failed is left out for BACKOFF_US, doubling up to LONGEST_BACKOFF_US. After that one caller tries it, while
  the others still leave it out. Failures of attempts that began before the last one was noted count once: a hundred
  callers that find a server restarting have found one failure.
* When all are down the one whose time is up first is tried anyway: waiting would help nobody.
* An address whose health check fails gets nobody while another one's does not, and one with weight 0 nobody while
  another has more. If all checks fail that is no reason to prefer any.
* With weights each target gets callers in that proportion, evenly mixed, and its addresses share them; with
  `least` they count as connections that each can bear.
* A host that is gone does not refuse datagrams. An address counts as silent when SILENT_FLOWS flows have asked since it
  last answered, the first of them SILENT_US ago, and another address has answered meanwhile. So where nobody ever
  answers (logs, measurements, a one-way stream) no address is silent.
* A refusal is reported at once, and so is silence for SURE_US; shorter silence only the second time in a row, because a
  packet may get lost.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.io._socket cimport Target


cdef enum:
    BACKOFF_US = 1000000           # a restarting server is back soon
    LONGEST_BACKOFF_US = 30000000  # one connection every 30 s is a small price for noticing that it is back
    SILENT_US = 300000             # a little longer than RFC 8305 waits before it tries the next address
    SURE_US = 1000000              # TCP repeats its first packet after this time
    SILENT_FLOWS = 2               # one packet may get lost


cdef class TargetAddress:
    cdef readonly Target target         # whose address it is
    cdef readonly int index             # which one
    cdef readonly bint failing          # its health check fails, while another one's does not
    cdef readonly bint shunned          # nobody new comes to it: it is failing, or has weight 0
    cdef readonly double weight         # its part of the callers
    cdef double credit                  # what it is behind its part
    cdef readonly bint gone             # the target no longer has this address, or the rule no longer has the target
    cdef readonly uint32_t connections  # connected or being connected; of UDP: flows
    cdef readonly uint32_t failures     # in a row
    cdef readonly int64_t failed_at     # when the last failure was noted
    cdef readonly int64_t down_until    # with `failures`: it is not tried again before
    cdef readonly int error             # errno of the last failure
    cdef bint is_unsure                 # the failure was a short silence
    cdef bint told                      # it was reported that it is down
    cdef uint32_t asked                 # UDP: flows that began to ask since it last answered
    cdef int64_t answered_at            # UDP: when it last answered; 0: never
    cdef int64_t asked_at               # when the first of these flows began

    cdef bint at(self, Target target, int index) noexcept
    cdef bint leads_to(self, const sockaddr_storage *address) noexcept


cdef class Balance:
    cdef readonly list targets    # in the rule's order; count 0: the name is not resolved yet
    cdef readonly list addresses  # their addresses, in the order of the targets
    cdef public bint least        # fewest connections first; else in turn
    cdef bint weighted            # the targets have weights
    cdef readonly int usable      # addresses that are not shunned
    cdef uint32_t turn            # position after the last one chosen
    cdef int64_t answered_at      # UDP: when one of them last answered

    cdef TargetAddress choose(self, int64_t now, list tried)
    cdef TargetAddress best_of(self, list fit)
    cdef TargetAddress last_resort(self, list tried)
    cdef bint failed(self, TargetAddress address, int64_t began, int64_t now, int error)
    cdef bint is_news(self, TargetAddress address)
    cdef bint worked(self, TargetAddress address)
    cdef list down(self)
    cdef bint is_silent(self, TargetAddress address, int64_t now)
    cdef void asks(self, TargetAddress address, int64_t now) noexcept
    cdef void answers(self, TargetAddress address, int64_t now) noexcept
