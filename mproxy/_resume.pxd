"""What follows from a peer's RESUME list once it is complete: for streams that it lacks, and for those that have ended
here and not there. What it says of each that it names is for the session (`Session.on_resume`)."""

from libc.stdint cimport uint32_t

from mproxy._state cimport SessionState
from mproxy._stream cimport Stream
from mproxy._streams cimport StreamSet


cdef struct PeerList:
    uint32_t last_id     # newest stream that a client had opened when it made its list,
    uint32_t served_id   # and that it knew of ours


cdef Stream *resume_settle(StreamSet streams, const SessionState *lasting, const PeerList *listed) noexcept
