"""What a worker inherits from the one before it: sessions, their streams, and what their rings hold.

Everything is found by what records in the arena claim. A worker first calls `recover`; then, for each session, it
takes it over with `inherit`, and its streams, one after the other, by what the kernel says of their applications
(`inherited_stream`; mproxy/endpoint/_takeover.pxd).
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy._ring cimport Ring
from mproxy._session cimport Session
from mproxy._state cimport SessionState, StreamState


cdef Session adopt_session(config, SessionState *lasting, int64_t now)
cdef StreamState *inherited_stream(uint32_t number, uint32_t nth) noexcept nogil
cdef bint ring_sound(const Ring *ring, uint32_t passed) noexcept nogil
cdef bint session_sound(const SessionState *state, uint32_t number) noexcept nogil
cdef bint stream_sound(const StreamState *state, const SessionState *session) noexcept nogil
