"""The carrier that is a TCP connection, with its bytes as they are or sealed by TLS.

Inbound: the socket is read into the loop's one buffer, up to 256 KiB at once; TLS opens its records there, in place.
Outbound: one `sendmsg` takes frames straight from the streams' rings; or TLS seals records from there, and one `send`
takes several. How much is offered at a time: _pace.pxd.
"""

from libc.stddef cimport size_t

from mproxy._ring cimport iovec
from mproxy.carrier._carrier cimport Carrier
from mproxy.carrier._pace cimport Pace
from mproxy.carrier._tls cimport Tls
from mproxy.io._loop cimport Source


cdef class TcpCarrier(Carrier):
    cdef Source source      # the socket, fd -1 once closed
    cdef bint hung_up       # the next read will show how it ended
    cdef Tls tls            # seals and opens; None: nothing is sealed
    cdef Pace pace          # how much it gets at a time
    cdef bint bulk_fits     # the last answer of `room`

    cdef size_t send_plain(self, iovec *parts, int count) noexcept
    cdef size_t send_sealed(self, iovec *parts, int count, size_t offered) noexcept
    cdef void send_kept(self, bint more) noexcept
