"""What mproxy uses of OpenSSL 3.0 and later (its manual pages are the reference)."""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t


cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL:
        pass
    const SSL_METHOD *TLS_client_method()
    const SSL_METHOD *TLS_server_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *context)
    int TLS1_3_VERSION
    int SSL_CTX_set_min_proto_version(SSL_CTX *context, int version)
    int SSL_CTX_set_max_proto_version(SSL_CTX *context, int version)
    uint64_t SSL_OP_NO_TICKET, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_CIPHER_SERVER_PREFERENCE
    uint64_t SSL_OP_PRIORITIZE_CHACHA, SSL_OP_ENABLE_MIDDLEBOX_COMPAT
    uint64_t SSL_CTX_set_options(SSL_CTX *context, uint64_t options)
    uint64_t SSL_CTX_clear_options(SSL_CTX *context, uint64_t options)
    long SSL_MODE_RELEASE_BUFFERS
    long SSL_CTX_set_mode(SSL_CTX *context, long mode)
    int SSL_SESS_CACHE_OFF
    long SSL_CTX_set_session_cache_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_num_tickets(SSL_CTX *context, size_t count)
    int SSL_CTX_set_ciphersuites(SSL_CTX *context, const char *names)
    long SSL_CTX_set1_groups_list(SSL_CTX *context, const char *names)
    long SSL_CTX_set1_sigalgs_list(SSL_CTX *context, const char *names)
    long SSL_CTX_set1_client_sigalgs_list(SSL_CTX *context, const char *names)
    long SSL_CTX_set_max_cert_list(SSL_CTX *context, long size)
    int SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    void SSL_CTX_set_verify(SSL_CTX *context, int mode, void *callback)
    void SSL_CTX_set_cert_verify_callback(
        SSL_CTX *context, int (*callback)(X509_STORE_CTX *store, void *argument) noexcept, void *argument)
    int SSL_CTX_use_certificate(SSL_CTX *context, X509 *certificate)
    int SSL_CTX_use_PrivateKey(SSL_CTX *context, EVP_PKEY *key)
    X509 *SSL_CTX_get0_certificate(const SSL_CTX *context)
    EVP_PKEY *SSL_CTX_get0_privatekey(const SSL_CTX *context)

    SSL *SSL_new(SSL_CTX *context)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *read_from, BIO *write_to)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    int SSL_do_handshake(SSL *ssl)
    void SSL_CTX_set_keylog_callback(SSL_CTX *context, void (*callback)(const SSL *ssl, const char *line) noexcept)
    BIO *SSL_get_rbio(const SSL *ssl)
    int SSL_ERROR_WANT_READ
    int SSL_get_error(const SSL *ssl, int result)
    X509 *SSL_get1_peer_certificate(const SSL *ssl)
    const char *SSL_get_cipher_name(const SSL *ssl)
    int SSL_export_keying_material(
        SSL *ssl, unsigned char *out, size_t out_bytes, const char *label, size_t label_bytes,
        const unsigned char *context, size_t context_bytes, int use_context)

cdef extern from "<openssl/asn1.h>" nogil:
    ctypedef struct ASN1_OBJECT:
        pass
    ctypedef struct ASN1_OCTET_STRING:
        pass
    ASN1_OBJECT *OBJ_txt2obj(const char *text, int no_name)
    ASN1_OCTET_STRING *ASN1_OCTET_STRING_new()
    void ASN1_OCTET_STRING_free(ASN1_OCTET_STRING *data)
    int ASN1_OCTET_STRING_set(ASN1_OCTET_STRING *data, const unsigned char *bytes, int length)
    const unsigned char *ASN1_STRING_get0_data(const ASN1_OCTET_STRING *data)
    int ASN1_STRING_length(const ASN1_OCTET_STRING *data)

cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_PUBKEY:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    void X509_free(X509 *certificate)
    X509_PUBKEY *X509_get_X509_PUBKEY(const X509 *certificate)
    EVP_PKEY *X509_get0_pubkey(const X509 *certificate)
    int i2d_X509_PUBKEY(const X509_PUBKEY *key, unsigned char **out)
    ctypedef struct X509_EXTENSION:
        pass
    X509 *X509_dup(const X509 *certificate)
    int X509_sign(X509 *certificate, EVP_PKEY *key, const void *hash)
    int X509_get_ext_by_OBJ(const X509 *certificate, const ASN1_OBJECT *name, int after)
    X509_EXTENSION *X509_get_ext(const X509 *certificate, int place)
    X509_EXTENSION *X509_delete_ext(X509 *certificate, int place)
    int X509_add_ext(X509 *certificate, X509_EXTENSION *extension, int place)
    X509_EXTENSION *X509_EXTENSION_create_by_OBJ(
        X509_EXTENSION **extension, const ASN1_OBJECT *name, int critical, ASN1_OCTET_STRING *data)
    ASN1_OCTET_STRING *X509_EXTENSION_get_data(X509_EXTENSION *extension)
    void X509_EXTENSION_free(X509_EXTENSION *extension)

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    int EVP_PKEY_ED25519
    int EVP_PKEY_get_base_id(const EVP_PKEY *key)
    void EVP_PKEY_free(EVP_PKEY *key)

cdef extern from "<openssl/pem.h>" nogil:
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **key, void *callback, void *password)
    X509 *PEM_read_bio_X509(BIO *bio, X509 **certificate, void *callback, void *password)

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int kind, const char *name)
    int BIO_meth_set_write_ex(
        BIO_METHOD *method, int (*write)(BIO *bio, const char *data, size_t length, size_t *written) noexcept)
    int BIO_meth_set_read_ex(
        BIO_METHOD *method, int (*read)(BIO *bio, char *data, size_t room, size_t *length) noexcept)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*control)(BIO *bio, int command, long number, void *data) noexcept)
    BIO *BIO_new(const BIO_METHOD *method)
    BIO *BIO_new_mem_buf(const void *data, int length)
    int BIO_free(BIO *bio)
    void BIO_set_init(BIO *bio, int value)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_retry_read(BIO *bio)
    void BIO_set_retry_write(BIO *bio)
    void BIO_clear_retry_flags(BIO *bio)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *memory, size_t length)

cdef extern from "<openssl/err.h>" nogil:
    unsigned long ERR_peek_last_error()
    const char *ERR_reason_error_string(unsigned long error)
    void ERR_clear_error()
