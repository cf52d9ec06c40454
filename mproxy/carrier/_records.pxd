"""Records of TLS 1.3 (RFC 8446, section 5), which protect the bytes after the handshake; without system calls.

The handshake, and with it everything about trust, is OpenSSL's; the cipher is `_aead`'s. This is what lies between:
headers, numbers, keys and their updates (sections 4.6.3, 5 and 7). OpenSSL's own record layer copies every byte twice
in each direction; this one seals from where the bytes lie to where they are sent from, and opens from where they were
received to where they are parsed.

A Direction is the key of one direction. A record's number is its nonce: it is counted here and never passed in, so a
nonce is used once, and a record that is repeated, left out or out of order is not authentic.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.ground._aead cimport Aead


cdef enum:
    RECORD_BYTES = 16384          # most plain bytes of a record (section 5.1)
    RECORD_HEADER_BYTES = 5       # type 23, version 0x0303, length (section 5.2)
    SEAL_BYTES = 22               # added by sealing: that header, the true type and the tag
    MAX_SEALED_BYTES = 16645      # most that a peer may make of a record: RECORD_BYTES, 256 and the header
    SECRET_BYTES = 32             # of a traffic secret: SHA-256


cdef enum RecordType:
    ALERT = 21
    HANDSHAKE = 22
    DATA = 23


cdef struct Direction:
    Aead aead                     # AES-128-GCM or ChaCha20-Poly1305, and the key
    uint64_t number               # of the next record under this key
    uint8_t secret[32]            # the traffic secret that key and `iv` come from
    uint8_t iv[12]                # combined with the number to a nonce


cdef bint direction_begin(Direction *self, bint chacha, const uint8_t *secret, bint sealing) noexcept nogil
cdef bint direction_update(Direction *self) noexcept nogil
cdef void direction_end(Direction *self) noexcept nogil
cdef size_t record_seal(Direction *self, int type, iovec *parts, int count, uint8_t *out) noexcept nogil
cdef size_t record_length(const uint8_t *data, size_t length) noexcept nogil
cdef long record_open(Direction *self, const uint8_t *record, size_t length, uint8_t *out, int *type) noexcept nogil
