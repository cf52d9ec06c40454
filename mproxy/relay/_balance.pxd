"""Which address a connection or flow goes to, and which of them are down. Takes `now`, knows no socket.

Every address of every target is a TargetAddress of its own, and its state is shared by all callers of the rule:

* One that failed is left out for BACKOFF_US, doubling up to LONGEST_BACKOFF_US. When that is over one caller tries it,
  while the others still leave it out. Failures of attempts that began before the last one was noted count once: a
  hundred callers that find a server restarting are one finding.
* When all are down the one whose time is up first is tried anyway: waiting would help nobody.
* Datagrams get no answer in the negative from a host that is gone. An address is silent when SILENT_FLOWS flows
  have asked since it answered last, the first of them SILENT_US ago, and another address answered meanwhile. So where
  nobody ever answers (logs, measurements, a one-way stream) nobody is silent.
* A refusal is news at once, and silence for SURE_US; shorter silence only the second time in a row: a packet may get
  lost.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.io._socket cimport Target


cdef enum:
    BACKOFF_US = 1000000           # a restarting server is back soon
    LONGEST_BACKOFF_US = 30000000  # one connection every 30 s is a small price for noticing
    SILENT_US = 300000             # as long as RFC 8305 waits for an address before it tries the next one, and a little
    SURE_US = 1000000              # TCP sends its first packet again after so long
    SILENT_FLOWS = 2               # one packet may get lost


cdef class TargetAddress:
    cdef readonly Target target         # it is one of its addresses
    cdef readonly int index             # which one
    cdef readonly bint gone             # the target has lost this address, or the rule the target
    cdef readonly uint32_t connections  # connected or being connected; of UDP: flows
    cdef readonly uint32_t failures     # in a row
    cdef readonly int64_t failed_at     # when the last of them was noted
    cdef readonly int64_t down_until    # not before then again, when `failures`
    cdef readonly int error             # errno of the last failure
    cdef bint is_unsure                 # it was silence, and short
    cdef bint told                      # that it is down
    cdef uint32_t asked                 # UDP: flows that began to ask since it answered last
    cdef int64_t answered_at            # UDP: when it answered last, 0: never
    cdef int64_t asked_at               # when the first of these did

    cdef bint at(self, Target target, int index) noexcept


cdef class Balance:
    cdef readonly list targets    # of the rule, in its order; count 0: the name is not resolved yet
    cdef readonly list addresses  # their addresses, in the order of the targets
    cdef public bint least        # fewest connections first; else in turn
    cdef uint32_t turn            # position behind the last one chosen
    cdef int64_t answered_at      # UDP: when one of them answered last

    cdef TargetAddress choose(self, int64_t now, list tried)
    cdef TargetAddress last_resort(self, list tried)
    cdef bint failed(self, TargetAddress address, int64_t began, int64_t now, int error)
    cdef bint is_news(self, TargetAddress address)
    cdef bint worked(self, TargetAddress address)
    cdef list down(self)
    cdef bint is_silent(self, TargetAddress address, int64_t now)
    cdef void asks(self, TargetAddress address, int64_t now) noexcept
    cdef void answers(self, TargetAddress address, int64_t now) noexcept
