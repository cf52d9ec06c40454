"""The X.509 certificate of a TLS connection as what it is here: a container for a key, and for what says who vouches
for that key (mproxy.policy.certificates).

A peer that knows nothing of the second sees the key alone: the extension is not critical.
"""

from mproxy.carrier._openssl cimport SSL_CTX, X509

cdef enum:
    # It must also fit a handshake message over UDP, beside keys (transport/keying), and what sproxy notes of a session
    # for its next worker (programs/client_record).
    MAX_CARRIED_BYTES = 800


cdef bytes spki_of(X509 *container)
cdef bytes carried_in(X509 *container)
cdef bint put_in(SSL_CTX *context, bytes carried)
