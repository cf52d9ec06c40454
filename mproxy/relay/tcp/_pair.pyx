"""A client and the server that it is relayed to. What the fields mean: _pair.pxd; what happens: _relaying.pyx."""

from cpython.ref cimport PyObject, Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, errno

from mproxy._ring cimport Ring, iovec, ring_append, ring_release, ring_used, ring_view
from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage, socklen_t
from mproxy.ground._stores cimport stores_done
from mproxy.io._socket cimport (
    MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, getpeername, getsockname, recv, send, send_parts, ssize_t,
)
from mproxy.relay._circle cimport SAMPLE, Finding, Place, find_circle, place_of_own, place_of_peer
from mproxy.relay._proxy_header cimport (
    LONGEST_HEADER_BYTES, OWN_HEADER_BYTES, Origin, header_parse, header_write, origin_set, origin_source,
)
from mproxy.relay.tcp._dial cimport acknowledge_at_once
from mproxy.relay.tcp._mover cimport SMALL_READ_BYTES
from mproxy.relay.tcp._pair_record cimport note_copying


cdef void side_init(Side *side, Pair *pair, Side *other, int fd, void (*ready)(Source *, uint32_t) noexcept) noexcept:
    side.record = &pair.record.client if side == &pair.client else &pair.record.server
    side.source.fd = fd
    side.source.ready = ready
    side.source.owner = pair
    side.other = other


cdef void read_early(Pair *pair, uint8_t *buffer) noexcept:
    """Take what the client has already sent, as those that speak first mostly have. It goes with the handshake."""
    cdef ssize_t n
    note_copying(&pair.record.server)
    n = recv(pair.client.source.fd, buffer, SMALL_READ_BYTES, MSG_DONTWAIT)
    if n < 0:
        pair.client.failed = errno != EAGAIN and errno != EINTR  # an error is reported only once
    elif n > 0 and ring_append(&pair.record.server.waiting, buffer, <uint32_t>n, NULL) < 0:
        pair.client.failed = True  # no memory: the bytes are lost, and with them the connection


cdef int send_early(Pair *pair, Mover mover, uint64_t *count) noexcept:
    """Pass on what was read early; 0: done, the target has answered; else errno, EAGAIN: not yet."""
    cdef int error
    cdef iovec parts[2]
    cdef Ring *ring = &pair.record.server.waiting
    cdef ssize_t n
    if ring_used(ring) == 0:
        return EAGAIN
    name_server(pair)
    n = send_parts(pair.server.source.fd, True, parts, ring_view(ring, ring.head, ring_used(ring), parts))
    if n < 0:
        error = errno
        unname_server(pair)
        return error
    acknowledge_at_once(pair.server.source.fd)
    ring_release(ring, ring.head + n, NULL)
    count[0] += n
    mover.moved += n
    if pair.noted != NULL:
        pair.noted.bytes_in += n
    return 0


cdef HeaderOutcome take_header(
        Pair *pair, uint8_t *buffer, CidrSet deny, bint keep, sockaddr_storage *out_client) noexcept:
    """Take the PROXY header that the client begins with; with `keep`, `origin` then has what it says. `out_client`:
    whom it names, family 0: nobody."""
    cdef int fd = pair.client.source.fd
    cdef Origin origin
    cdef int length
    cdef ssize_t n = recv(fd, buffer, LONGEST_HEADER_BYTES, MSG_PEEK | MSG_DONTWAIT)
    if n < 0 and (errno == EAGAIN or errno == EINTR):
        return SHORT
    if n <= 0:
        pair.client.failed = n < 0  # else it came and went without a byte: somebody checks whether we are alive
        return LEFT
    length = header_parse(buffer, <int>n, &origin)
    if length == 0 and n < LONGEST_HEADER_BYTES and not pair.client.hung_up:
        return SHORT
    if length <= 0:
        return WRONG
    origin_source(&origin, out_client)
    if origin.family and deny is not None and deny.has(<sockaddr *>out_client):
        return WRONG
    if origin.family and pair.noted != NULL:
        pair.noted.client = out_client[0]
    if keep or pair.noted != NULL:
        pair.record.origin = origin
    pair.record.client.prelude = <uint32_t>length
    stores_done()
    return TAKEN if recv(fd, buffer, length, MSG_DONTWAIT) == length else WRONG


cdef void hold_address(Pair *pair, TargetAddress address) noexcept:
    Py_INCREF(address)
    pair.address = <void *>address
    address.connections += 1


cdef void drop_address(Pair *pair) noexcept:
    if pair.address != NULL:
        (<TargetAddress>pair.address).connections -= 1
        Py_XDECREF(<PyObject *>pair.address)
        pair.address = NULL


cdef void name_server(Pair *pair) noexcept:
    """From now on bytes may move there."""
    pair.record.server.fd = pair.server.source.fd + 1
    stores_done()


cdef void unname_server(Pair *pair) noexcept:
    """No byte has moved; the socket may be closed."""
    pair.record.server.fd = 0
    stores_done()


cdef bint send_header(Pair *pair, int version) noexcept:
    """Tell the target who the client is; a new connection always has room for the header."""
    cdef uint8_t header[OWN_HEADER_BYTES]
    cdef sockaddr_storage source, destination
    cdef socklen_t source_length = sizeof(source), destination_length = sizeof(destination)
    cdef Origin origin
    cdef int length
    if pair.record.origin.family:
        origin = pair.record.origin
    elif getpeername(pair.client.source.fd, <sockaddr *>&source, &source_length) < 0 \
            or getsockname(pair.client.source.fd, <sockaddr *>&destination, &destination_length) < 0:
        return False  # the client has reset the connection
    else:
        origin_set(&origin, <sockaddr *>&source, <sockaddr *>&destination)
    length = header_write(header, version, &origin)
    pair.record.server.prelude = <uint32_t>length
    name_server(pair)
    return send(pair.server.source.fd, header, length, MSG_DONTWAIT | MSG_NOSIGNAL) == length


cdef bint has_spoken(Pair *pair) noexcept:
    """Whether a client with an error to report had sent something before: then the server gets it all the same."""
    cdef uint8_t first
    return ring_used(&pair.record.server.waiting) > 0 or (
        pair.state != GREETING and recv(pair.client.source.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) > 0)


cdef int64_t next_look(Pair *pair) noexcept:
    """When an open pair is looked at next: it may then have been silent too long, or its peers may have vanished."""
    return min(pair.look_at, pair.since + pair.idle_us) if pair.idle_us else pair.look_at


cdef Finding come_back(Pair *youngest, list clients) noexcept:
    """Whether the newest pairs come from those made before them. `clients` gets (the client's port, the address that it
    came to in its IPv6 form, its port) of each."""
    cdef Place peers[SAMPLE]
    cdef Place met[SAMPLE]
    cdef Place ours[SAMPLE]
    cdef Place far[SAMPLE]
    cdef Pair *pair = youngest
    cdef int count = 0
    while pair != NULL and count < SAMPLE:
        if pair.server.source.fd >= 0:
            place_of_peer(pair.client.source.fd, &peers[count])
            place_of_own(pair.client.source.fd, &met[count])
            place_of_own(pair.server.source.fd, &ours[count])
            place_of_peer(pair.server.source.fd, &far[count])
            clients.append((peers[count].port, (<char *>met[count].address)[:16], met[count].port))
            count += 1
        pair = <Pair *>pair.in_all.next
    return find_circle(peers, met, ours, far, count)
