"""TLS 1.3 for carriers. Life of a byte: _tls.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, strlen, strncmp

from mproxy._pool cimport pool_at, pool_return, pool_take
from mproxy._wire import CloseCode
from mproxy.ground._aead cimport CHACHA20_POLY1305
from mproxy.ground.errors import PeerError, UsageError
from mproxy.carrier._container cimport MAX_CARRIED_BYTES, carried_in, put_in, spki_of
from mproxy.carrier._openssl cimport (
    BIO, BIO_CTRL_FLUSH, BIO_METHOD, BIO_TYPE_SOURCE_SINK, EVP_PKEY, SSL, SSL_ERROR_WANT_READ,
    SSL_METHOD, SSL_MODE_RELEASE_BUFFERS, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_ENABLE_MIDDLEBOX_COMPAT,
    SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_TICKET, SSL_OP_PRIORITIZE_CHACHA, SSL_SESS_CACHE_OFF,
    SSL_VERIFY_FAIL_IF_NO_PEER_CERT, SSL_VERIFY_PEER, TLS1_3_VERSION, X509, X509_STORE_CTX,
    BIO_clear_retry_flags, BIO_free, BIO_get_data, BIO_get_new_index, BIO_meth_new, BIO_meth_set_ctrl,
    BIO_meth_set_read_ex, BIO_meth_set_write_ex, BIO_new, BIO_new_mem_buf, BIO_set_data, BIO_set_init,
    BIO_set_retry_read, BIO_set_retry_write, ERR_clear_error, ERR_peek_last_error, ERR_reason_error_string,
    EVP_PKEY_free, OPENSSL_cleanse, PEM_read_bio_PrivateKey, PEM_read_bio_X509,
    SSL_CTX_clear_options, SSL_CTX_free, SSL_CTX_new, SSL_CTX_set1_client_sigalgs_list, SSL_CTX_set1_groups_list,
    SSL_CTX_set1_sigalgs_list, SSL_CTX_set_cert_verify_callback, SSL_CTX_set_ciphersuites,
    SSL_CTX_set_keylog_callback, SSL_CTX_set_max_cert_list, SSL_CTX_set_max_proto_version,
    SSL_CTX_set_min_proto_version, SSL_CTX_set_mode, SSL_CTX_set_num_tickets, SSL_CTX_set_options,
    SSL_CTX_set_session_cache_mode, SSL_CTX_set_verify, SSL_CTX_use_PrivateKey, SSL_CTX_use_certificate,
    SSL_do_handshake, SSL_export_keying_material, SSL_free, SSL_get1_peer_certificate, SSL_get_cipher_name,
    SSL_get_error, SSL_get_rbio, SSL_new, SSL_set_accept_state, SSL_set_bio, SSL_set_connect_state,
    TLS_client_method, TLS_server_method, X509_free,
)
from mproxy.carrier._records cimport (
    MAX_SEALED_BYTES, RECORD_BYTES, SEAL_BYTES, SECRET_BYTES, RecordType, direction_begin, direction_end,
    direction_update, record_length, record_open, record_seal,
)


cdef extern from *:
    """
    #if defined(__aarch64__)
    #include <sys/auxv.h>
    #endif
    /* Whether the processor has instructions for AES-GCM; without, ChaCha20 is several times as fast. */
    static int has_fast_aes(void) {
    #if defined(__x86_64__) || defined(__i386__)
        return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
    #elif defined(__aarch64__)
        return (getauxval(AT_HWCAP) >> 3 & 3) == 3;  /* HWCAP_AES, HWCAP_PMULL */
    #else
        return 0;
    #endif
    }
    """
    bint has_fast_aes() nogil

cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void *block)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *block, size_t size, const void *wanted, size_t length)

cdef enum:
    HANDSHAKE_OUT_BYTES = 8192    # a flight takes about 1 KiB
    MAX_CERTIFICATE_BYTES = 4096  # of a peer's chain; ours take 300
    SPARE_BYTES = 64              # room that a record needs besides its plain bytes: 22, and as much for a key update
    LABEL_BYTES = 24
    SECRET_AT = 89                # behind label, 64 digits and a space
    RECORDS_A_KEY = 8388608       # RFC 8446, section 5.5, allows 2^24.5 records under one key of AES-GCM

cdef bytes CIPHERS = b":".join(
    [b"TLS_AES_128_GCM_SHA256", b"TLS_CHACHA20_POLY1305_SHA256"][::1 if has_fast_aes() else -1])

cdef struct Handed:
    uint64_t sealed               # records under the present key, in either direction
    uint64_t opened
    uint8_t sealing[32]           # traffic secrets
    uint8_t opening[32]
    bint chacha                   # the cipher is ChaCha20-Poly1305, not AES-GCM
    bint update_due               # as in Tls


cdef const char *KEY_UPDATE = b"\x18\0\0\1\0"  # a handshake message: its type, its length, no update in return


cdef enum Alert:
    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    INTERNAL_ERROR = 80
    USER_CANCELED = 90


# ---- where OpenSSL gets its bytes from and puts them

cdef bint wire_has_room(Wire *wire, size_t length) noexcept nogil:
    """Have storage for sealed bytes; whether there is room for this many in it."""
    if wire.out == NULL:
        wire.out_size = wire.take_bytes
        wire.block = pool_take(wire.out_size)
        wire.out = pool_at(wire.block) if wire.block != 0 else NULL
        wire.out_first = wire.out_end = 0
    return wire.out != NULL and length <= wire.out_size - wire.out_end


cdef int put_out(BIO *bio, const char *data, size_t length, size_t *written) noexcept nogil:
    cdef Wire *wire = <Wire *>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    if not wire_has_room(wire, length):
        BIO_set_retry_write(bio)
        return 0
    memcpy(wire.out + wire.out_end, data, length)
    wire.out_end += <uint32_t>length
    written[0] = length
    return 1


cdef int get_arrived(BIO *bio, char *data, size_t room, size_t *length) noexcept nogil:
    cdef Wire *wire = <Wire *>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    if wire.arrived_bytes == 0:
        BIO_set_retry_read(bio)
        return 0
    length[0] = min(room, wire.arrived_bytes)
    memcpy(data, wire.arrived, length[0])
    wire.arrived += length[0]
    wire.arrived_bytes -= length[0]
    return 1


cdef long control(BIO *bio, int command, long number, void *data) noexcept nogil:
    return command == BIO_CTRL_FLUSH


cdef BIO_METHOD *bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mproxy carrier")
BIO_meth_set_write_ex(bio_method, put_out)
BIO_meth_set_read_ex(bio_method, get_arrived)
BIO_meth_set_ctrl(bio_method, control)


cdef void take_secret(const SSL *ssl, const char *line) noexcept nogil:
    """OpenSSL gives a secret, in the format of its key logs: label, 64 digits of the client's nonce, the secret."""
    cdef Wire *wire = <Wire *>BIO_get_data(SSL_get_rbio(ssl))
    cdef const char *digits = line + SECRET_AT
    cdef int which, i
    if strncmp(line, b"CLIENT_TRAFFIC_SECRET_0 ", LABEL_BYTES) == 0:
        which = CLIENT
    elif strncmp(line, b"SERVER_TRAFFIC_SECRET_0 ", LABEL_BYTES) == 0:
        which = SERVER
    else:
        return
    if strlen(line) != SECRET_AT + 2 * SECRET_BYTES:
        return
    for i in range(SECRET_BYTES):
        wire.secrets.of[which][i] = digit(digits[2 * i]) << 4 | digit(digits[2 * i + 1])
    wire.secrets.known |= 1 << which


cdef inline uint8_t digit(char letter) noexcept nogil:
    return (letter - 48 if letter <= 57 else (letter & 0xDF) - 55) & 15  # 0 to 9, a to f


cdef void clear_copies(void *block, const uint8_t *secret) noexcept nogil:
    """Overwrite a secret wherever it occurs in a block of malloc(3)."""
    cdef size_t size = malloc_usable_size(block)
    cdef void *found = memmem(block, size, secret, SECRET_BYTES)
    while found != NULL:
        OPENSSL_cleanse(found, SECRET_BYTES)
        found = memmem(block, size, secret, SECRET_BYTES)


cdef int accept_any(X509_STORE_CTX *store, void *argument) noexcept nogil:
    """The certificate is a container; its key is judged by the caller, and proven by the handshake."""
    return 1


cdef str last_error():
    """OpenSSL's latest error in words; clears the queue."""
    cdef const char *reason = ERR_reason_error_string(ERR_peek_last_error())
    text = reason.decode(errors="replace") if reason != NULL else "connection ended"
    ERR_clear_error()
    return text


cdef class TlsContext:
    """Our key and rules, for any number of connections.

    `pem`, bytes or a bytearray, holds an Ed25519 private key (PKCS#8, no passphrase) and its certificate; UsageError
    when it does not.
    """

    def __init__(self, const uint8_t[::1] pem, *, bint is_server):
        cdef const SSL_METHOD *method = TLS_server_method() if is_server else TLS_client_method()
        ERR_clear_error()
        self.is_server = is_server
        self.context = SSL_CTX_new(method)
        if self.context == NULL:
            raise MemoryError
        SSL_CTX_set_min_proto_version(self.context, TLS1_3_VERSION)
        SSL_CTX_set_max_proto_version(self.context, TLS1_3_VERSION)
        # Tickets would let a key that was removed come back, and save no round trip without early data.
        SSL_CTX_set_options(
            self.context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION
            | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA)
        SSL_CTX_clear_options(self.context, SSL_OP_ENABLE_MIDDLEBOX_COMPAT)
        SSL_CTX_set_session_cache_mode(self.context, SSL_SESS_CACHE_OFF)
        SSL_CTX_set_num_tickets(self.context, 0)
        SSL_CTX_set_mode(self.context, SSL_MODE_RELEASE_BUFFERS)
        SSL_CTX_set_keylog_callback(self.context, take_secret)
        SSL_CTX_set_max_cert_list(self.context, MAX_CERTIFICATE_BYTES)
        SSL_CTX_set_verify(self.context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL)
        SSL_CTX_set_cert_verify_callback(self.context, accept_any, NULL)
        if not (SSL_CTX_set_ciphersuites(self.context, CIPHERS)
                and SSL_CTX_set1_groups_list(self.context, "X25519")
                and SSL_CTX_set1_sigalgs_list(self.context, "ed25519")
                and SSL_CTX_set1_client_sigalgs_list(self.context, "ed25519")):
            raise UsageError(f"this OpenSSL lacks what mproxy needs: {last_error()}")
        self.use(pem)

    def __dealloc__(self):
        SSL_CTX_free(self.context)

    cdef use(self, const uint8_t[::1] pem):
        """Take key and certificate."""
        cdef EVP_PKEY *key
        cdef X509 *certificate
        cdef BIO *bio = BIO_new_mem_buf(&pem[0] if pem.shape[0] else NULL, <int>pem.shape[0])
        # An empty passphrase: else OpenSSL would ask the terminal for one.
        key = PEM_read_bio_PrivateKey(bio, NULL, NULL, <char *>"")
        certificate = PEM_read_bio_X509(bio, NULL, NULL, <char *>"")
        BIO_free(bio)
        usable = key != NULL and certificate != NULL
        self.spki = spki_of(certificate) if usable else None
        usable = (usable and self.spki is not None and SSL_CTX_use_certificate(self.context, certificate) == 1
                  and SSL_CTX_use_PrivateKey(self.context, key) == 1)
        EVP_PKEY_free(key)
        X509_free(certificate)
        ERR_clear_error()
        if not usable:
            raise UsageError("holds no Ed25519 private key with its certificate")

    def vouch(self, bytes certificate):
        """Show this with our key from the next connection on (mproxy.policy.certificates); nothing if it is empty."""
        if len(certificate) > MAX_CARRIED_BYTES or not put_in(self.context, certificate):
            raise ValueError("the certificate cannot be shown")


cdef class Tls:
    """One connection. First `receive` and `take_out` until it is `finished`, then whatever is needed."""

    def __init__(self, TlsContext context):
        cdef BIO *bio
        self.context = context
        self.wire.take_bytes = HANDSHAKE_OUT_BYTES
        self.records_a_key = RECORDS_A_KEY
        self.reason = "connection ended"
        self.ssl = SSL_new(context.context)
        bio = BIO_new(bio_method)
        if self.ssl == NULL or bio == NULL:
            raise MemoryError
        BIO_set_data(bio, &self.wire)
        BIO_set_init(bio, 1)
        SSL_set_bio(self.ssl, bio, bio)
        if context.is_server:
            SSL_set_accept_state(self.ssl)
        else:
            SSL_set_connect_state(self.ssl)

    def __dealloc__(self):
        SSL_free(self.ssl)
        direction_end(&self.sealing)
        direction_end(&self.opening)
        OPENSSL_cleanse(&self.wire.secrets, sizeof(self.wire.secrets))
        free(self.kept)
        if self.wire.out != NULL:
            pool_return(self.wire.block, self.wire.out_size)

    # ---- for Python: the handshake, and small things after it

    def receive(self, bytes data):
        """Take what the carrier brought; returns the plain bytes in it. PeerError if TLS fails.

        Bytes after the end of the handshake are opened at once. Afterwards `take_out` has what is to be sent.
        """
        cdef uint8_t *buffer
        cdef long length
        if not self.finished and not self._shake_hands(data):
            return b""
        data = self._rest(data)
        buffer = <uint8_t *>malloc(OPEN_MARGIN_BYTES + len(data))
        if buffer == NULL:
            raise MemoryError
        try:
            memcpy(buffer + OPEN_MARGIN_BYTES, PyBytes_AS_STRING(data), len(data))
            length = self.open_in_place(buffer, len(data))
            if length < 0:
                raise PeerError(CloseCode.ENCRYPTION, self.why())
            return PyBytes_FromStringAndSize(<char *>buffer, length)
        finally:
            free(buffer)

    def seal(self, bytes data):
        """Return `data` sealed, after whatever `take_out` would have returned."""
        cdef iovec part
        sealed = [self.take_out()]
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = len(data)
        self.wire.take_bytes = OUT_BYTES
        while part.iov_len > 0:
            self.seal_parts(&part, 1)
            if self.broken:
                raise PeerError(CloseCode.ENCRYPTION, self.why())
            sealed.append(self.take_out())
        return b"".join(sealed)

    def take_out(self):
        """Return the sealed bytes that wait to be sent, and forget them."""
        cdef bytes result = PyBytes_FromStringAndSize(<char *>self.out_view(), self.unsent())
        self.out_sent(len(result))
        return result

    def peer_spki(self):
        """The peer's public key, 44 bytes of DER (RFC 8410); proven when `finished`. None after `forget`."""
        cdef X509 *certificate = SSL_get1_peer_certificate(self.ssl) if self.ssl != NULL else NULL
        if certificate == NULL:
            return None
        try:
            return spki_of(certificate)
        finally:
            X509_free(certificate)

    def peer_certificate(self):
        """What the peer has shown with its key, to vouch for it; it may have made it up. b"": nothing."""
        cdef X509 *container = SSL_get1_peer_certificate(self.ssl) if self.ssl != NULL else NULL
        if container == NULL:
            return b""
        try:
            return carried_in(container)
        finally:
            X509_free(container)

    def exporter(self, bytes label, bytes context, size_t length):
        """Return `length` bytes that only the two ends of this connection know (RFC 8446, section 7.5).

        PeerError if there are none: the handshake is not over, or was forgotten.
        """
        cdef bytes result = PyBytes_FromStringAndSize(NULL, length)
        if self.ssl == NULL or SSL_export_keying_material(
                self.ssl, <unsigned char *>PyBytes_AS_STRING(result), length, PyBytes_AS_STRING(label), len(label),
                <unsigned char *>PyBytes_AS_STRING(context), len(context), 1) != 1:
            raise PeerError(CloseCode.ENCRYPTION, f"TLS: {last_error()}")
        return result

    @property
    def cipher(self):
        """The name of the cipher in use; None after `forget`."""
        return SSL_get_cipher_name(self.ssl).decode() if self.ssl != NULL else None

    def forget(self):
        """From now on only records matter: free what the handshake has left in OpenSSL, above all secrets.

        OpenSSL does not clear the object that holds the traffic secrets (SSL_free(3)), so they are looked for in it.
        """
        if self.finished:
            self.wire.take_bytes = OUT_BYTES
        if self.ssl != NULL and self.finished:
            clear_copies(self.ssl, self.sealing.secret)
            clear_copies(self.ssl, self.opening.secret)
            SSL_free(self.ssl)
            self.ssl = NULL

    def hand_over(self):
        """What another process goes on from, by `take_over`: keys, numbers of records, the beginning of one. From then
        on this one can do nothing any more. For one that is `finished`, after `take_out`; to be wiped. PeerError if it
        has ended.
        """
        if self.broken or self.ended:
            raise PeerError(CloseCode.ENCRYPTION, self.why())
        self.forget()
        state = bytearray(sizeof(Handed) + self.kept_bytes)
        cdef uint8_t[::1] view = state
        cdef Handed *handed = <Handed *>&view[0]
        handed.chacha = self.sealing.aead.cipher == CHACHA20_POLY1305
        handed.update_due = self.update_due
        handed.sealed, handed.opened = self.sealing.number, self.opening.number
        memcpy(handed.sealing, self.sealing.secret, SECRET_BYTES)
        memcpy(handed.opening, self.opening.secret, SECRET_BYTES)
        if self.kept_bytes > 0:
            memcpy(&view[sizeof(Handed)], self.kept, self.kept_bytes)
        direction_end(&self.sealing)
        direction_end(&self.opening)
        self.fail(Alert.CLOSE_NOTIFY, "it is another process's")
        return state

    def take_over(self, const uint8_t[::1] state):
        """Be the connection of another process that has given it by `hand_over`. PeerError if that cannot be."""
        cdef const Handed *handed = <const Handed *>&state[0]
        cdef size_t kept = state.shape[0] - sizeof(Handed)
        assert not self.finished
        if not (direction_begin(&self.sealing, handed.chacha, handed.sealing, True)
                and direction_begin(&self.opening, handed.chacha, handed.opening, False)):
            self.fail(Alert.CLOSE_NOTIFY, "no keys")
            raise PeerError(CloseCode.ENCRYPTION, self.why())
        self.sealing.number, self.opening.number = handed.sealed, handed.opened
        self.update_due = handed.update_due
        SSL_free(self.ssl)
        self.ssl = NULL
        self.finished = True
        if kept > 0:
            self.keep(&state[sizeof(Handed)], kept)

    def _shake_hands(self, bytes data):
        """Go on with the handshake; true when it is over."""
        cdef int result
        self._lend(data)
        ERR_clear_error()
        result = SSL_do_handshake(self.ssl)
        if result == 1:
            self._take_over()
        elif SSL_get_error(self.ssl, result) != SSL_ERROR_WANT_READ:
            self.broken = True
            raise PeerError(CloseCode.ENCRYPTION, f"TLS handshake: {last_error()}")
        return self.finished

    def _take_over(self):
        """The handshake is over: records are ours from here on, in both directions."""
        cdef bint chacha = "CHACHA20" in self.cipher
        cdef bint is_server = self.context.is_server
        cdef int ours = SERVER if is_server else CLIENT
        done = (self.wire.secrets.known == 1 << CLIENT | 1 << SERVER
                and direction_begin(&self.sealing, chacha, self.wire.secrets.of[ours], True)
                and direction_begin(&self.opening, chacha, self.wire.secrets.of[CLIENT + SERVER - ours], False))
        OPENSSL_cleanse(&self.wire.secrets, sizeof(self.wire.secrets))
        if not done:
            self.fail(Alert.INTERNAL_ERROR, "no keys")
            raise PeerError(CloseCode.ENCRYPTION, self.why())
        self.finished = True

    def _lend(self, bytes data):
        self.wire.arrived = <const uint8_t *>PyBytes_AS_STRING(data)
        self.wire.arrived_bytes = len(data)

    def _rest(self, bytes data):
        """What is left of `data` after the handshake."""
        cdef size_t left = self.wire.arrived_bytes
        if self.wire.arrived == NULL:
            return data
        self.wire.arrived = NULL
        self.wire.arrived_bytes = 0
        return data[len(data) - left:]

    # ---- for the carrier

    cdef long open_in_place(self, uint8_t *buffer, size_t length) noexcept:
        """Open `length` sealed bytes at buffer + OPEN_MARGIN_BYTES; afterwards the plain ones are at `buffer`.

        Returns their number, or -1 if there are none and the connection is `broken` or `ended`. Why one may overwrite
        the other: the kept beginning of a record is put in front, and the margin is longer than that and another
        record, so opened bytes never reach those that are still sealed.
        """
        cdef uint8_t *at = buffer + OPEN_MARGIN_BYTES - self.kept_bytes
        cdef size_t left = self.kept_bytes + length, made = 0, sealed
        cdef long plain
        cdef int type
        if self.broken or self.ended:
            return -1
        if self.kept_bytes > 0:
            memcpy(at, self.kept, self.kept_bytes)
        while True:
            sealed = record_length(at, left)
            if sealed == 0:
                self.fail(Alert.UNEXPECTED_MESSAGE, "not a record")
                break
            if sealed > left:
                self.keep(at, left)
                break
            plain = record_open(&self.opening, at, sealed, buffer + made, &type)
            if plain < 0:
                self.fail(Alert.BAD_RECORD_MAC, "a record that is not authentic")
                break
            at += sealed
            left -= sealed
            if type == RecordType.DATA:
                made += plain
            elif not self.take_message(type, buffer + made, plain):
                break
        return <long>made if made > 0 or not (self.broken or self.ended) else -1

    cdef void keep(self, const uint8_t *data, size_t length) noexcept:
        """Keep the beginning of a record until the rest arrives."""
        if length > 0 and self.kept == NULL:
            self.kept = <uint8_t *>malloc(MAX_SEALED_BYTES)
            if self.kept == NULL:
                self.fail(Alert.INTERNAL_ERROR, "out of memory")
                return
        self.kept_bytes = length
        if length > 0:
            memcpy(self.kept, data, length)
        else:
            free(self.kept)
            self.kept = NULL

    cdef bint take_message(self, int type, const uint8_t *data, size_t length) noexcept:
        """Act on a record that is not data: a key update or an alert; false if nothing may follow it."""
        if type == RecordType.HANDSHAKE and length == 5 and memcmp(data, KEY_UPDATE, 4) == 0 and data[4] <= 1:
            self.update_due |= data[4] == 1
            if not direction_update(&self.opening):
                self.fail(Alert.INTERNAL_ERROR, "out of memory")
        elif type == RecordType.ALERT and length == 2:
            if data[1] == Alert.CLOSE_NOTIFY:
                self.ended = True
                return False
            if data[1] != Alert.USER_CANCELED:
                self.fail(Alert.CLOSE_NOTIFY, "the peer gave up")
        else:
            self.fail(Alert.UNEXPECTED_MESSAGE, "a message that has no place here")
        return not self.broken

    cdef void fail(self, int alert, const char *reason) noexcept:
        """End the connection; `seal_end` tells the peer."""
        self.broken = True
        self.alert = alert
        self.reason = reason

    cdef size_t seal_parts(self, iovec *parts, int count) noexcept:
        """Seal as much of the parts as there is room for and advance them past it; returns how many plain bytes.

        0 if the storage is full, or the connection is `broken`.
        """
        cdef size_t done = 0
        cdef int i = 0
        while not self.broken:
            while i < count and parts[i].iov_len == 0:
                i += 1
            if i == count or not wire_has_room(&self.wire, RECORD_BYTES + SPARE_BYTES):
                break
            if self.update_due or self.sealing.number >= self.records_a_key:
                self.seal_update()
            done += self.seal_record(RecordType.DATA, parts + i, count - i)
        return done

    cdef size_t seal_record(self, int type, iovec *parts, int count) noexcept:
        """Seal one record, for which there is room; returns the plain bytes in it."""
        cdef size_t length = record_seal(&self.sealing, type, parts, count, self.wire.out + self.wire.out_end)
        if length == 0:
            self.fail(Alert.INTERNAL_ERROR, "sealing failed")
            return 0
        self.wire.out_end += <uint32_t>length
        return length - SEAL_BYTES

    cdef void seal_update(self) noexcept:
        """Change the key for what is sealed from here on, and tell the peer (RFC 8446, section 4.6.3)."""
        self.seal_message(RecordType.HANDSHAKE, KEY_UPDATE, 5)
        self.update_due = False
        if not direction_update(&self.sealing):
            self.fail(Alert.INTERNAL_ERROR, "out of memory")

    cdef void seal_message(self, int type, const char *data, size_t length) noexcept:
        cdef iovec part
        part.iov_base = <void *>data
        part.iov_len = length
        if wire_has_room(&self.wire, length + SEAL_BYTES):
            self.seal_record(type, &part, 1)

    cdef size_t unsent(self) noexcept:
        """How many sealed bytes wait to be sent."""
        return self.wire.out_end - self.wire.out_first if self.wire.out != NULL else 0

    cdef const uint8_t *out_view(self) noexcept:
        """Where they are."""
        return self.wire.out + self.wire.out_first if self.wire.out != NULL else NULL

    cdef void out_sent(self, size_t length) noexcept:
        """The carrier took `length` of them; after the last their storage is given back."""
        cdef Wire *wire = &self.wire
        wire.out_first += <uint32_t>length
        if wire.out != NULL and wire.out_first == wire.out_end:
            pool_return(wire.block, wire.out_size)
            wire.out = NULL

    cdef void seal_end(self) noexcept:
        """Seal the alert that nothing follows (close_notify), or why (RFC 8446, section 6)."""
        cdef char message[2]
        message[0] = 2 if self.broken else 1  # fatal, warning
        message[1] = <char>self.alert
        if self.finished and not (self.broken and self.alert == Alert.CLOSE_NOTIFY):
            self.seal_message(RecordType.ALERT, message, 2)

    cdef str why(self):
        """Why the connection is `broken` or `ended`."""
        return "closed by the peer" if self.ended else f"TLS: {self.reason.decode()}"
