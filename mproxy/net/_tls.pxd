"""TLS 1.3 for carriers (RFC 8446), by OpenSSL, without system calls: sealed bytes in, plain bytes out, and back.

Both sides show a self-signed Ed25519 certificate, which is nothing but a container for the key. OpenSSL proves that the
peer holds that key; whether it is one to trust is decided by whoever asks for `peer_spki`.

Life of an outbound byte: `seal` takes frames described as iovecs, at most a record (16 KiB) at a time, straight from
the stream's ring where a whole record lies there in one piece, else gathered in a small buffer; OpenSSL seals the
record and hands it to `put_out`, which appends it to `wire.out`. One `send` takes several records from there. What has
been sealed counts as sent: it cannot be taken back, and goes out before anything else.

Life of an inbound byte: the carrier's bytes are received into a buffer, OPEN_MARGIN_BYTES behind its beginning;
`open_in_place` opens record after record and lays the plain bytes at the beginning of the same buffer. All that
arrived is used up by each call, so no byte ever waits inside OpenSSL for a socket that has nothing more to say.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.net._openssl cimport SSL, SSL_CTX


cdef enum:
    RECORD_BYTES = 16384           # most plain bytes of a record (RFC 8446, section 5.1)
    OPEN_MARGIN_BYTES = 20480      # more than a record may hold: what opens stays behind what is still sealed
    OUT_BYTES = 65536              # storage for sealed bytes: three records, sent while they are in the nearest cache


cdef struct Wire:
    const uint8_t *arrived   # sealed bytes from the carrier, borrowed during one call
    size_t arrived_bytes     # of these, not yet used up
    uint8_t *out             # sealed bytes for the carrier; NULL: none, or nothing left to send
    uint32_t take_bytes      # how much storage to take next, a power of two
    uint32_t out_size        # length of `out`
    uint32_t out_first       # sent below
    uint32_t out_end         # written below


cdef class TlsContext:
    cdef SSL_CTX *context         # key, certificate, rules
    cdef readonly bint is_server  # sproxy's side
    cdef readonly bytes spki      # our public key, 44 bytes of DER (RFC 8410)

    cdef use(self, const uint8_t[::1] pem)


cdef class Tls:
    cdef SSL *ssl                       # the connection
    cdef TlsContext context             # keeps it alive
    cdef Wire wire                      # where its bytes come from and go to
    cdef readonly bint finished         # the handshake is over
    cdef readonly bint ended            # the peer said that nothing follows (close_notify)
    cdef readonly bint broken           # an error that ends the connection; `why` says which
    cdef public uint64_t records_a_key  # sealed with one key at most (RFC 8446, section 5.5)
    cdef uint64_t sealed_records        # with the present key

    cdef long open_in_place(self, uint8_t *buffer, size_t length) noexcept
    cdef size_t seal_parts(self, iovec *parts, int count) noexcept
    cdef size_t unsent(self) noexcept
    cdef const uint8_t *out_view(self) noexcept
    cdef void out_sent(self, size_t length) noexcept
    cdef void seal_end(self) noexcept
    cdef bint seal_record(self, const void *data, size_t length) noexcept
    cdef bint has_room(self) noexcept
    cdef str why(self)
