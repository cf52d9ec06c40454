"""Streams as JSON. What for: _listing.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from mproxy._ring cimport iovec, ring_used, ring_view
from mproxy._session cimport Session
from mproxy._state cimport StreamState
from mproxy._stream cimport Stream, table_find
from mproxy.carrier._carrier cimport PathReport
from mproxy.endpoint._app cimport App
from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.ground._sockaddr cimport AF_INET, ntohs, sockaddr, sockaddr_in, sockaddr_storage, socklen_t
from mproxy.io._socket cimport Target, getpeername, getsockname


cdef extern from "<netdb.h>" nogil:
    int NI_NUMERICHOST, NI_NUMERICSERV
    int getnameinfo(const sockaddr *address, socklen_t length, char *host, socklen_t host_size, char *service,
                    socklen_t service_size, int flags)

cdef enum:
    HOST_BYTES = 64         # a numeric address with its scope
    PORT_BYTES = 8
    APPLICATION_BYTES = 192
    TEXT_BYTES = 2560       # a target of 300 bytes, each of them escaped, and what is around it


cdef struct Ends:
    char here[HOST_BYTES]       # our address; empty: not connected
    char here_port[PORT_BYTES]  # our port
    char host[HOST_BYTES]       # the application's address
    char port[PORT_BYTES]       # its port


def stream_ids(Endpoint endpoint not None, uint32_t after, int most):
    """Return the ids of up to `most` open streams, oldest first: of those behind `after`, or of all when that is 0, or
    has gone."""
    cdef const Stream *stream = table_find(&endpoint.session.streams.table, after) if after else NULL
    cdef list ids = []
    if stream != NULL and not stream.state.retired:
        stream = <const Stream *>stream.in_all.next
    else:
        stream = <const Stream *>endpoint.session.streams.open_list.first
    while stream != NULL and len(ids) < most:
        ids.append(stream.state.id)
        stream = <const Stream *>stream.in_all.next
    return ids


def say_streams(Endpoint endpoint not None, list ids):
    """Return the JSON objects of those streams that are still open, with commas between them."""
    cdef const Stream *stream
    cdef list found = []
    cdef bint path_busy = is_path_busy(endpoint)
    for number in ids:
        stream = table_find(&endpoint.session.streams.table, number)
        if stream != NULL and not stream.state.aborted and not stream.state.retired:
            found.append(say_stream(endpoint.session, stream, endpoint.loop.now_us, path_busy))
    return ",".join(found)


cdef str say_stream(Session session, const Stream *stream, int64_t now, bint path_busy):
    cdef const StreamState *state = stream.state
    cdef Ends ends
    cdef char application[APPLICATION_BYTES]
    cdef char age[32]
    cdef char text[TEXT_BYTES]
    cdef bytes target
    cdef int length
    find_ends(<const App *>stream.owner, &ends)
    target = say_target(session, stream, &ends)
    snprintf(application, sizeof(application), "null")
    if ends.here[0]:
        snprintf(application, sizeof(application), '{"local":["%s",%s],"peer":["%s",%s]}',
                 ends.here, ends.here_port, ends.host, ends.port)
    snprintf(age, sizeof(age), "null")
    if stream.began_at:
        snprintf(age, sizeof(age), "%.3f", (now - stream.began_at) / 1e6)
    length = snprintf(
        text, sizeof(text),
        '{"stream":%u,"state":"%s","target":%.*s,"application":%s,"age_s":%s,"sent_bytes":%llu,"received_bytes":%llu,'
        '"unacknowledged_bytes":%u,"undelivered_bytes":%u,"slow":%s}',
        state.id, state_of(stream), <int>len(target), <const char *>target, application, age,
        <unsigned long long>state.out.tail, <unsigned long long>state.inp.tail, ring_used(&state.out),
        ring_used(&state.inp), who_is_slow(session, stream, path_busy))
    return text[:length].decode("ascii")


cdef const char *state_of(const Stream *stream) noexcept:
    """One of the states in docs/status.md."""
    cdef const App *app = <const App *>stream.owner
    if app == NULL:
        return "left" if stream.began_at else "connecting"
    if app.connecting:
        return "connecting"
    return "half-closed" if stream.state.out_ended or stream.state.in_ended else "open"


cdef const char *who_is_slow(Session session, const Stream *stream, bint path_busy) noexcept:
    """Who is waited for: the application here, the path, or the peer's application; JSON.

    `path_busy`: it has bytes on it that have not arrived, or there is no path.
    """
    cdef const StreamState *state = stream.state
    if ring_used(&state.inp) > 0:
        return '"application"'
    if ring_used(&state.out) > 0 and not session.streams.active:
        return '"path"'
    if state.sent < state.out.tail and state.sent - state.out.head < session.streams.send_window:
        return '"path"'  # the peer could be given more
    if state.sent < state.out.tail or stream.blocked:
        return '"path"' if path_busy else '"peer"'  # it was given all that it may have, and its application takes none
    return "null"


cdef bint is_path_busy(Endpoint endpoint) noexcept:
    """Packets are on the carrier that the peer's system has not acknowledged, or the carrier is gone."""
    cdef PathReport path
    memset(&path, 0, sizeof(path))
    return endpoint.carrier is None or endpoint.forsaken or (endpoint.carrier.report(&path) and path.in_flight > 0)


cdef bytes say_target(Session session, const Stream *stream, const Ends *ends):
    """Which daemon: what cproxy asks for, where sproxy is connected to; JSON, null: sproxy's default, or not yet."""
    cdef const App *app = <const App *>stream.owner
    cdef iovec parts[2]
    if not session.is_server:
        if stream.state.target_bytes == 0:
            return b"null"
        ring_view(&session.lasting.targets, stream.state.target, stream.state.target_bytes, parts)  # in one piece
        return quoted((<const char *>parts[0].iov_base)[:stream.state.target_bytes].decode(errors="replace"))
    if app != NULL and app.target != NULL:
        return quoted((<Target>app.target).text)
    if not ends.here[0]:
        return b"null"
    host = <bytes>ends.host
    return b'"[%b]:%b"' % (host, <bytes>ends.port) if b":" in host else b'"%b:%b"' % (host, <bytes>ends.port)


cdef bytes quoted(str text):
    import json
    return json.dumps(text).encode()


cdef void find_ends(const App *app, Ends *ends) noexcept:
    """Both addresses of an application's connection; empty for pipes, and for what is not connected (any more)."""
    memset(ends, 0, sizeof(ends[0]))
    if app == NULL or app.connecting or not app.is_socket or app.source.fd < 0:
        return
    if not name_of(app.source.fd, getpeername, ends.host, ends.port) or (
            not name_of(app.source.fd, getsockname, ends.here, ends.here_port)):
        ends.here[0] = 0


cdef bint name_of(int fd, int (*ask)(int, sockaddr *, socklen_t *) noexcept nogil, char *host, char *port) noexcept:
    cdef sockaddr_storage address
    cdef sockaddr_in *v4 = <sockaddr_in *>&address
    cdef const uint8_t *at
    cdef socklen_t length = sizeof(address)
    if ask(fd, <sockaddr *>&address, &length) < 0:
        return False
    if address.ss_family == AF_INET:  # by hand: the library takes ten times as long, for thousands of streams
        at = <const uint8_t *>&v4.sin_addr
        snprintf(host, HOST_BYTES, "%u.%u.%u.%u", at[0], at[1], at[2], at[3])
        snprintf(port, PORT_BYTES, "%u", ntohs(v4.sin_port))
        return True
    return getnameinfo(<sockaddr *>&address, length, host, HOST_BYTES, port, PORT_BYTES,
                       NI_NUMERICHOST | NI_NUMERICSERV) == 0
