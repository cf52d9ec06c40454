"""What is noted of a connection or flow for the access log, while it lasts."""

from libc.stdint cimport int64_t, uint64_t

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.relay._balance cimport TargetAddress


cdef enum EndReason:
    STOPPED = 0         # the relay ended, or the rule's flows were
    DONE = 1            # both sides had said everything
    CLIENT_BROKE = 2    # a reset, or it did not answer any more
    TARGET_BROKE = 3
    SILENT = 4          # the rule's time-out
    NO_TARGET = 5       # none could be reached, for an error
    BAD_HEADER = 6      # its PROXY header was wrong, or names somebody who may not come in
    IN_CIRCLE = 7       # it led back to the relay
    TOO_OFTEN = 9       # its source came too often, as its PROXY header shows
    MADE_ROOM = 8       # UDP: for another flow


cdef struct Noted:
    sockaddr_storage peer    # who connected to us
    sockaddr_storage client  # whom a PROXY header names; family 0: nobody
    uint64_t bytes_in        # client to target
    uint64_t bytes_out       # target to client
    int64_t began_us         # when it was accepted


cdef object account_of(const Noted *noted, int64_t now, TargetAddress address, int why, int error)
cdef str place_text(const sockaddr_storage *name)
