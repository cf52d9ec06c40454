"""Sending on a carrier. What for: _send.pxd."""

from libc.errno cimport EAGAIN, EINTR, EPROTO, errno

from mproxy.io._socket cimport send_bytes, send_parts, ssize_t


cdef size_t send_frames(int fd, Tls tls, iovec *parts, int count, size_t offered, int *error) noexcept:
    """Offer the parts, `offered` bytes, to the carrier; returns how much is on its way.

    With TLS some of it may be sealed and still here. `error` is set when the carrier is lost (EPROTO: ask TLS why).
    """
    cdef ssize_t n
    cdef size_t sealed, done = 0
    if tls is None:
        n = send_parts(fd, True, parts, count)
        while n < 0 and errno == EINTR:
            n = send_parts(fd, True, parts, count)
        if n < 0 and errno != EAGAIN:
            error[0] = errno
        return max(n, <ssize_t>0)
    while error[0] == 0 and tls.unsent() == 0:
        sealed = tls.seal_parts(parts, count)
        if sealed == 0:
            break
        done += sealed
        error[0] = send_sealed(fd, tls, done < offered)
    if tls.broken:
        error[0] = EPROTO
    return done


cdef int send_sealed(int fd, Tls tls, bint more) noexcept:
    """Send what is sealed, as far as the socket takes it; returns 0, or errno when the carrier is lost.

    With `more` the next call follows at once.
    """
    cdef size_t left = tls.unsent()
    cdef ssize_t n
    if left == 0:
        return 0
    n = send_bytes(fd, tls.out_view(), left, more)
    if n < 0 and errno != EAGAIN:
        return errno
    tls.out_sent(max(n, <ssize_t>0))
    return 0
