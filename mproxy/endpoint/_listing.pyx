"""Streams as JSON. What for: _listing.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strchr

from mproxy._ring cimport iovec, ring_used, ring_view
from mproxy._session cimport Session
from mproxy._state cimport FORGOTTEN_TARGET, StreamState, opened_here
from mproxy._stream cimport Stream, table_find
from mproxy.carrier._carrier cimport PathReport
from mproxy.endpoint._app cimport App
from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.ground._sockaddr cimport AF_INET, AF_INET6, ntohs, sockaddr, sockaddr_in, sockaddr_storage, socklen_t
from mproxy.io._socket cimport Target, getpeername, getsockname


cdef extern from "<string.h>" nogil:
    char *stpcpy(char *out, const char *text)

cdef extern from "<netdb.h>" nogil:
    int NI_NUMERICHOST, NI_NUMERICSERV
    int getnameinfo(const sockaddr *address, socklen_t length, char *host, socklen_t host_size, char *service,
                    socklen_t service_size, int flags)

cdef enum:
    HOST_BYTES = 64         # a numeric address with its scope
    PORT_BYTES = 8
    TARGET_BYTES = 2048     # a target of 300 bytes, each of them escaped
    TEXT_BYTES = 3072       # with what is around it
    TOGETHER = 16           # streams of which a text is made at once


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
    cdef char text[TOGETHER * TEXT_BYTES]
    cdef char *at = text
    cdef bint path_busy = is_path_busy(endpoint)
    for number in ids:
        stream = table_find(&endpoint.session.streams.table, number)
        if stream == NULL or stream.state.aborted or stream.state.retired:
            continue
        if at + TEXT_BYTES > text + TOGETHER * TEXT_BYTES:
            found.append(text[:at - text].decode("ascii"))
            at = text
        if at != text or found:
            at = stpcpy(at, ",")
        at = put_stream(at, endpoint.session, stream, endpoint.loop.now_us, path_busy)
    found.append(text[:at - text].decode("ascii"))
    return "".join(found)


cdef char *put_stream(char *at, Session session, const Stream *stream, int64_t now, bint path_busy):
    """One stream. Written by hand: the library's printf takes three times as long, for thousands of streams."""
    cdef const StreamState *state = stream.state
    cdef Ends ends
    find_ends(<const App *>stream.owner, &ends)
    at = put_number(stpcpy(at, '{"stream":'), state.id)
    at = stpcpy(stpcpy(at, ',"state":"'), state_of(stream))
    at = put_target(stpcpy(at, '","target":'), session, stream, &ends)
    at = put_application(stpcpy(at, ',"application":'), &ends)
    at = put_age(stpcpy(at, ',"age_s":'), now, stream.began_at)
    at = put_number(stpcpy(at, ',"sent_bytes":'), state.out.tail)
    at = put_number(stpcpy(at, ',"received_bytes":'), state.inp.tail)
    at = put_number(stpcpy(at, ',"unacknowledged_bytes":'), ring_used(&state.out))
    at = put_number(stpcpy(at, ',"undelivered_bytes":'), ring_used(&state.inp))
    at = stpcpy(stpcpy(at, ',"slow":'), who_is_slow(session, stream, path_busy))
    return stpcpy(at, "}")


cdef char *put_number(char *out, uint64_t number) noexcept:
    """Write it in decimal; returns where it ends, as all that write here do."""
    cdef char digits[20]
    cdef int first = sizeof(digits)
    while first == sizeof(digits) or number:
        first -= 1
        digits[first] = c"0" + <char>(number % 10)
        number //= 10
    memcpy(out, &digits[first], sizeof(digits) - first)
    return out + sizeof(digits) - first


cdef char *put_age(char *out, int64_t now, int64_t began_at) noexcept:
    """Seconds to the millisecond; null: it has not begun."""
    cdef uint64_t ms = <uint64_t>max(now - began_at, 0) // 1000
    if not began_at:
        return stpcpy(out, "null")
    out = put_number(out, ms // 1000)
    out[0] = c"."
    out[1] = c"0" + <char>(ms // 100 % 10)
    out[2] = c"0" + <char>(ms // 10 % 10)
    out[3] = c"0" + <char>(ms % 10)
    return out + 4


cdef char *put_application(char *out, const Ends *ends) noexcept:
    """The two ends of its connection; null: it has none."""
    if not ends.here[0]:
        return stpcpy(out, "null")
    out = stpcpy(stpcpy(stpcpy(stpcpy(out, '{"local":["'), ends.here), '",'), ends.here_port)
    out = stpcpy(stpcpy(stpcpy(stpcpy(out, '],"peer":["'), ends.host), '",'), ends.port)
    return stpcpy(out, "]}")


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


cdef char *put_target(char *out, Session session, const Stream *stream, const Ends *ends):
    """Which daemon: what the one side asks for, where the other is connected to; null: sproxy's default, or not yet."""
    cdef const App *app = <const App *>stream.owner
    cdef bint dialled = not opened_here(session.lasting, stream.state.id)
    cdef iovec parts[2]
    if stream.state.target_bytes and not (dialled and ends.here[0]) and (
            stream.state.target != FORGOTTEN_TARGET):
        ring_view(&session.lasting.targets, stream.state.target, stream.state.target_bytes, parts)  # in one piece
        return put_quoted(out, (<const char *>parts[0].iov_base)[:stream.state.target_bytes].decode(errors="replace"))
    if dialled and app != NULL and app.target != NULL:
        return put_quoted(out, (<Target>app.target).text)
    if not dialled or not ends.here[0]:
        return stpcpy(out, "null")
    out = put_host(stpcpy(out, '"'), ends.host)
    return stpcpy(stpcpy(stpcpy(out, ":"), ends.port), '"')


cdef char *put_host(char *out, const char *host) noexcept:
    """An address as it stands before a port."""
    if strchr(host, c":") == NULL:
        return stpcpy(out, host)
    return stpcpy(stpcpy(stpcpy(out, "["), host), "]")


cdef char *put_quoted(char *out, str text):
    import json
    cdef bytes quoted = json.dumps(text).encode()
    return stpcpy(out, quoted) if len(quoted) < TARGET_BYTES else stpcpy(out, "null")


cdef void find_ends(const App *app, Ends *ends) noexcept:
    """Both addresses of an application's connection; empty for pipes, and for what is not connected (any more)."""
    ends.here[0] = ends.host[0] = 0
    if app == NULL or app.connecting or not app.is_socket or app.source.fd < 0:
        return
    if not name_of(app.source.fd, getpeername, ends.host, ends.port) or (
            not name_of(app.source.fd, getsockname, ends.here, ends.here_port)):
        ends.here[0] = 0


cdef bint name_of(int fd, int (*ask)(int, sockaddr *, socklen_t *) noexcept nogil, char *host, char *port) noexcept:
    cdef sockaddr_storage address
    cdef sockaddr_in *v4 = <sockaddr_in *>&address
    cdef const uint8_t *octets
    cdef socklen_t length = sizeof(address)
    cdef int number
    if ask(fd, <sockaddr *>&address, &length) < 0:
        return False
    if address.ss_family == AF_INET:  # the library takes thirty times as long
        octets = <const uint8_t *>&v4.sin_addr
        for number in range(4):
            host = put_number(host, octets[number])
            host[0] = c"." if number < 3 else 0
            host += 1
        put_number(port, ntohs(v4.sin_port))[0] = 0
        return True
    if address.ss_family != AF_INET6:
        return False
    return getnameinfo(<sockaddr *>&address, length, host, HOST_BYTES, port, PORT_BYTES,
                       NI_NUMERICHOST | NI_NUMERICSERV) == 0
