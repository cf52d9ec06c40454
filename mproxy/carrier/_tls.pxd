"""TLS 1.3 for carriers (RFC 8446), by OpenSSL, without system calls: sealed bytes in, plain bytes out, and back.

Both sides show a self-signed Ed25519 certificate, which is nothing but a container for the key. OpenSSL proves that the
peer holds that key; whoever asks for `peer_spki` decides whether to trust it.

Life of an outbound byte: `seal_parts` takes frames described as iovecs, a record (16 KiB) at a time, and seals them
from where they lie, in the streams' rings, into `wire.out`. One `send` takes several records from there. What has been
sealed counts as sent: it cannot be taken back, and goes out before anything else.

Life of an inbound byte: the carrier's bytes are received into a buffer, OPEN_MARGIN_BYTES after its beginning;
`open_in_place` opens record after record and puts the plain bytes at the beginning of the same buffer. The beginning of
a record that has not wholly arrived is kept. Each call opens all whole records, so no byte ever waits here for a socket
that brings nothing more.

OpenSSL does the handshake, in memory (a BIO of ours), and then gives the secrets with which _records goes on. Once what
only the handshake knows (`exporter`) is no longer needed, `forget` frees it.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.carrier._openssl cimport SSL, SSL_CTX
from mproxy.carrier._records cimport Direction


cdef enum:
    OPEN_MARGIN_BYTES = 36864      # more than two records: opened bytes never reach those still sealed
    OUT_BYTES = 131072             # storage for sealed bytes: seven records, sent while they are in the cache


cdef enum:
    CLIENT, SERVER                 # whose secret


cdef struct Secrets:
    uint8_t of[2][32]        # traffic secrets (RFC 8446, section 7.1), from OpenSSL until `_records` has them
    int known                # a bit for each


cdef struct Wire:
    const uint8_t *arrived   # sealed bytes from the carrier, borrowed during one call
    size_t arrived_bytes     # how many of these are left
    uint8_t *out             # sealed bytes for the carrier; NULL: none, or nothing left to send
    uint32_t block           # the pool's block where that lies
    uint32_t take_bytes      # how much storage to take next, a power of two
    uint32_t out_size        # length of `out`
    uint32_t out_first       # sent below
    uint32_t out_end         # written below
    Secrets secrets          # as given by OpenSSL


cdef class TlsContext:
    cdef SSL_CTX *context         # key, certificate, rules
    cdef readonly bint is_server  # sproxy's side
    cdef readonly bytes spki      # our public key, 44 bytes of DER (RFC 8410)

    cdef use(self, const uint8_t[::1] pem)


cdef class Tls:
    cdef SSL *ssl                       # the handshake; NULL once forgotten
    cdef TlsContext context             # keeps it alive
    cdef Wire wire                      # where its bytes come from and go to
    cdef readonly bint finished         # the handshake is over
    cdef readonly bint ended            # the peer has said that nothing follows (close_notify)
    cdef readonly bint broken           # an error that ends the connection; `why` says which
    cdef const char *reason             # of that
    cdef int alert                      # what to tell the peer then
    cdef Direction sealing              # our direction, once `finished`
    cdef Direction opening              # the peer's
    cdef public uint64_t records_a_key  # most sealed with one key (RFC 8446, section 5.5)
    cdef bint update_due                # the peer asked for another key of ours
    cdef uint8_t *kept                  # beginning of a record whose end has not arrived, or NULL
    cdef size_t kept_bytes              # its length

    cdef long open_in_place(self, uint8_t *buffer, size_t length) noexcept
    cdef size_t seal_parts(self, iovec *parts, int count) noexcept
    cdef size_t unsent(self) noexcept
    cdef const uint8_t *out_view(self) noexcept
    cdef void out_sent(self, size_t length) noexcept
    cdef void seal_end(self) noexcept
    cdef size_t seal_record(self, int type, iovec *parts, int count) noexcept
    cdef void seal_update(self) noexcept
    cdef void seal_message(self, int type, const char *data, size_t length) noexcept
    cdef void keep(self, const uint8_t *data, size_t length) noexcept
    cdef bint take_message(self, int type, const uint8_t *data, size_t length) noexcept
    cdef void fail(self, int alert, const char *reason) noexcept
    cdef str why(self)
