"""The carrier that is a connection over datagrams: DATA and ACK frames in packets of their own, all others in order.

Inbound: the DatagramEndpoint reads packets; a parcel goes to the endpoint while it lies where it was opened, what came
in order before it. Outbound: whatever lets a packet leave (window, pace) asks the session for frames, as told in
_frame_parcels.pxd. So there is nothing to hold back here, and a keystroke never waits behind bulk taken too early.

Its end: the last words are written into the ordered stream, which ends behind them, and the link stays until the peer
has ended its own or GOODBYE_US are over.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from mproxy.carrier._carrier cimport Carrier, Recipient
from mproxy.carrier._frame_parcels cimport FrameParcels
from mproxy.transport._link cimport Link


cdef enum:
    GOODBYE_US = 10000000  # how long last words are repeated
    SEEK_US = 1000000      # from one packet to the next for a peer in doubt: a path that is back is noticed within this
    SEEKS = 120            # so often: after that an outage is old, and its dials are seldom, too


cdef class LinkFrames(FrameParcels):
    cdef DatagramCarrier carrier  # to which these belong
    cdef Recipient *recipient     # who takes what comes; NULL: the carrier was closed

    cdef bytes last_words(self)


cdef class DatagramCarrier(Carrier):
    cdef readonly Link link       # the connection
    cdef object judge             # says of a host whether the peer may be there; None: it may be anywhere
    cdef LinkFrames frames        # of the session; None: `join` was not called yet
    cdef uint32_t parcels         # taken
    cdef int64_t answer_us        # in which the peer answered before there were frames; 0: not known
    cdef int64_t keepalive_us     # the link's, but at rest
    cdef int64_t idle_us          # the link's, but at rest
    cdef int64_t interval_us      # of heartbeats, as told last
    cdef int seeks_left           # so often the peer in doubt is still asked; 0: it is not
    cdef int64_t sought_from      # since when it is in doubt

    cdef void wake_endpoint(self) noexcept
