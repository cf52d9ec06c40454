"""Parcels in: DATA and ACK frames that came in one packet, in any order with other packets, maybe more than once.

A carrier of packets brings all other frames in order, as bytes (`Session.receive`). A parcel is taken whole or not at
all: when it was `refused` the carrier treats its packet as lost, and the peer sends the frames again. `begin`, then
`poll_event` until it says NOTHING, each DATA event answered by `Session.take`; then `refused`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._frames cimport Frame
from mproxy._session cimport Session, SessionEvent
from mproxy._stream cimport Stream


cdef class ParcelReader:
    cdef Session session            # whose frames come
    cdef const uint8_t *at          # not yet parsed
    cdef const uint8_t *end         # end of the parcel
    cdef readonly bint refused      # there is no room for it now

    cdef void begin(self, const uint8_t *data, uint32_t length, int64_t now) noexcept
    cdef void poll_event(self, SessionEvent *event) noexcept

    # inner
    cdef bint on_data(self, const Frame *frame, const uint8_t *payload, SessionEvent *event) noexcept
    cdef bint on_ack(self, const Frame *frame) noexcept
    cdef bint fits(self, const Stream *stream, uint64_t end) noexcept
    cdef int take_in_order(self, Stream *stream, const Frame *frame, const uint8_t *payload) noexcept
    cdef int take_early(self, Stream *stream, const Frame *frame, const uint8_t *payload) noexcept
