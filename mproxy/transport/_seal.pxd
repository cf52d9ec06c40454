"""Sealing of packets: AES-256-GCM or ChaCha20-Poly1305, the packet number is the nonce.

Why no nonce comes twice: a key belongs to one direction of one connection (the Noise handshake derives both from fresh
X25519 keys), the engine numbers packets upwards and never uses a number twice, and `seal` refuses a number that is
not above the last one.

Why a key never wears out: after KEY_PACKETS packets, which is at most 64 GiB, both sides go on to the next generation
by REKEY() of the Noise specification, section 4.2. The generation follows from the packet number alone, so it takes no
message that could be lost. RFC 9001 section 6.6 allows AES-GCM 2**23 full-sized packets.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.transport._packet cimport Seal
from mproxy.ground._aead cimport Aead


cdef enum:
    KEY_BYTES = 32        # of both ciphers
    TAG_BYTES = 16        # of both ciphers
    NONCE_BYTES = 12      # of both ciphers
    KEY_PACKETS_LOG = 20  # a key serves 2**20 packets
    GENERATIONS = 3       # keys at hand: the previous one (for late packets), the current, and if need be the next one


cpdef enum Cipher:
    AESGCM = 1      # fast where the processor has instructions for it
    CHACHAPOLY = 2  # fast everywhere else


cdef struct Generation:
    Aead aead        # keyed
    uint8_t key[32]  # key from which the next one is derived
    int64_t number   # number of the generation; -1: none yet


cdef struct KeyState:
    int cipher               # Cipher
    bint sealing             # this side sends with it
    uint64_t first           # the first packet number of this direction
    uint64_t next_number     # sealing: the lowest number not used yet
    int64_t current          # the newest generation that an authentic packet has used
    Generation generations[3]  # by number modulo 3; each takes memory when it is made
    uint64_t failed          # packets that were not authentic


cdef class PacketKey:
    cdef KeyState state  # the engine's functions get a pointer to it: it lives as long as this object
    cdef bytes veil_key  # of the packets' headers; empty: they have no veil
    cdef bytes ids_key   # of the ids in these packets

    cdef void fill(self, Seal *out) noexcept
