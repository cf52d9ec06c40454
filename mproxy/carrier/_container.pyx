"""What an X.509 certificate contains: _container.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING

from mproxy.carrier._openssl cimport (
    ASN1_OBJECT, ASN1_OCTET_STRING, EVP_PKEY, EVP_PKEY_ED25519, X509_EXTENSION, X509_PUBKEY, ASN1_OCTET_STRING_free,
    ASN1_OCTET_STRING_new, ASN1_OCTET_STRING_set, ASN1_STRING_get0_data, ASN1_STRING_length, ERR_clear_error,
    EVP_PKEY_get_base_id, OBJ_txt2obj, SSL_CTX_get0_certificate, SSL_CTX_get0_privatekey, SSL_CTX_use_certificate,
    X509_EXTENSION_create_by_OBJ, X509_EXTENSION_free, X509_EXTENSION_get_data, X509_add_ext, X509_delete_ext, X509_dup,
    X509_free, X509_get0_pubkey, X509_get_X509_PUBKEY, X509_get_ext, X509_get_ext_by_OBJ, X509_sign, i2d_X509_PUBKEY,
)

# Our extension: below 2.25 everybody may use a UUID as a name (ITU-T X.667), be02c6ad-bd12-4c42-a645-cef9e1459865.
cdef ASN1_OBJECT *extension_name = OBJ_txt2obj(b"2.25.252567733474939511155761045913087613029", 1)


cdef bytes spki_of(X509 *container):
    """The public key of an Ed25519 certificate as SubjectPublicKeyInfo (RFC 8410), else None."""
    cdef EVP_PKEY *key = X509_get0_pubkey(container)
    cdef unsigned char *der = NULL
    cdef unsigned char encoded[64]
    cdef X509_PUBKEY *encoder = X509_get_X509_PUBKEY(container)
    if key == NULL or EVP_PKEY_get_base_id(key) != EVP_PKEY_ED25519:
        return None
    if i2d_X509_PUBKEY(encoder, NULL) > <int>sizeof(encoded):
        return None
    der = encoded
    return (<char *>encoded)[:i2d_X509_PUBKEY(encoder, &der)]


cdef bytes carried_in(X509 *container):
    """What it carries besides the key: at most MAX_CARRIED_BYTES; nothing if that is longer, or there is nothing."""
    cdef int place = X509_get_ext_by_OBJ(container, extension_name, -1)
    cdef ASN1_OCTET_STRING *data
    if place < 0:
        return b""
    data = X509_EXTENSION_get_data(X509_get_ext(container, place))
    if data == NULL or not 0 < ASN1_STRING_length(data) <= MAX_CARRIED_BYTES:
        return b""
    return (<const char *>ASN1_STRING_get0_data(data))[:ASN1_STRING_length(data)]


cdef bint put_in(SSL_CTX *context, bytes carried):
    """Have the container of our key carry that, in place of what it carried; whether it does. Connections that have
    begun are not touched."""
    cdef X509 *container = X509_dup(SSL_CTX_get0_certificate(context))
    cdef ASN1_OCTET_STRING *data = ASN1_OCTET_STRING_new()
    cdef X509_EXTENSION *extension = NULL
    cdef int place
    cdef bint done = container != NULL and data != NULL
    if done:
        place = X509_get_ext_by_OBJ(container, extension_name, -1)
        if place >= 0:
            X509_EXTENSION_free(X509_delete_ext(container, place))
        if carried:
            done = ASN1_OCTET_STRING_set(
                data, <const unsigned char *>PyBytes_AS_STRING(carried), <int>len(carried)) == 1
            extension = X509_EXTENSION_create_by_OBJ(NULL, extension_name, 0, data) if done else NULL
            done = extension != NULL and X509_add_ext(container, extension, -1) == 1
        done = (done and X509_sign(container, SSL_CTX_get0_privatekey(context), NULL) > 0
                and SSL_CTX_use_certificate(context, container) == 1)
    X509_EXTENSION_free(extension)
    ASN1_OCTET_STRING_free(data)
    X509_free(container)
    ERR_clear_error()
    return done
