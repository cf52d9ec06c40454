"""PROXY protocol headers, both versions, both ways. Strangers send them: every length is checked before its use."""

from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memset

from mproxy.ground._sockaddr cimport (
    AF_INET, AF_INET6, htons, inet_ntop, inet_pton, is_mapped, map_v4, sockaddr_in, sockaddr_in6, take_address,
)


cdef enum:
    LONGEST_LINE_BYTES = 107     # version 1, with CR LF (section 2.1)
    LONGEST_ADDRESS = 45         # INET6_ADDRSTRLEN less the NUL
    FIXED_BYTES = 16             # version 2: signature, command, family, length
    SIGNATURE_BYTES = 12
    LOCAL_COMMAND = 0x20         # the proxy speaks for itself
    PROXY_COMMAND = 0x21
    OVER_TCP4 = 0x11
    OVER_TCP6 = 0x21
    OVER_UDP4 = 0x12
    OVER_UDP6 = 0x22
    TCP4_BYTES = 12
    TCP6_BYTES = 36
    ZERO = 48   # ASCII digits
    NINE = 57

cdef const uint8_t *SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


# ---- addresses

cdef void origin_set(Origin *origin, const sockaddr *source, const sockaddr *destination) noexcept nogil:
    """Make an Origin of two socket addresses. If both are IPv4-mapped it is an IPv4 one."""
    memset(origin, 0, sizeof(Origin))
    if not take_address(source, origin.source, &origin.source_port) \
            or not take_address(destination, origin.destination, &origin.destination_port):
        return
    origin.family = <uint16_t>AF_INET6
    if is_mapped(origin.source) and is_mapped(origin.destination):
        origin.family = <uint16_t>AF_INET
        memcpy(origin.source, origin.source + 12, 4)
        memcpy(origin.destination, origin.destination + 12, 4)


cdef void origin_source(const Origin *origin, sockaddr_storage *out) noexcept nogil:
    """The client's address, as a socket would give it; family 0 when it is not known."""
    memset(out, 0, sizeof(sockaddr_storage))
    out.ss_family = origin.family
    if origin.family == AF_INET:
        (<sockaddr_in *>out).sin_port = htons(origin.source_port)
        memcpy(&(<sockaddr_in *>out).sin_addr, origin.source, 4)
    elif origin.family == AF_INET6:
        (<sockaddr_in6 *>out).sin6_port = htons(origin.source_port)
        memcpy(&(<sockaddr_in6 *>out).sin6_addr, origin.source, 16)


# ---- writing

def make_header(int version, origin, bint datagram=False):
    """The header, as bytes, for (source, destination), each (host, port, ...); None: not known. `datagram`: of UDP, and
    version 2."""
    cdef Origin found
    cdef uint8_t out[OWN_HEADER_BYTES]
    memset(&found, 0, sizeof(found))
    if origin is not None:
        source, destination = origin
        found.source_port, found.destination_port = source[1], destination[1]
        is_v4 = put_host(source[0], found.source) + put_host(destination[0], found.destination) == 2
        found.family = <uint16_t>AF_INET6
        if is_v4:
            found.family = <uint16_t>AF_INET
            memcpy(found.source, found.source + 12, 4)
            memcpy(found.destination, found.destination + 12, 4)
    if datagram:
        return (<char *>out)[:datagram_header_write(out, &found)]
    return (<char *>out)[:header_write(out, version, &found)]


cdef bint put_host(str host, uint8_t *out) except -1:
    """A numeric address in the form of IPv6; whether it is one of IPv4."""
    cdef uint8_t v4[4]
    text = host.partition("%")[0].encode()
    if inet_pton(AF_INET, text, v4) == 1:
        map_v4(out, v4)
    elif inet_pton(AF_INET6, text, out) != 1:
        raise ValueError(f"not an address: {host}")
    return is_mapped(out)


cdef int header_write(uint8_t *out, int version, const Origin *origin) noexcept nogil:
    """Write a header of version 1 or 2 into OWN_HEADER_BYTES of room; returns its length."""
    return write_line(<char *>out, origin) if version == 1 else write_binary(out, origin, OVER_TCP4, OVER_TCP6)


cdef int datagram_header_write(uint8_t *out, const Origin *origin) noexcept nogil:
    """Likewise for a datagram, in version 2."""
    return write_binary(out, origin, OVER_UDP4, OVER_UDP6)


cdef int write_line(char *out, const Origin *origin) noexcept nogil:
    cdef char source[LONGEST_ADDRESS + 1]
    cdef char destination[LONGEST_ADDRESS + 1]
    if origin.family == 0:
        return snprintf(out, OWN_HEADER_BYTES, b"PROXY UNKNOWN\r\n")
    inet_ntop(origin.family, origin.source, source, sizeof(source))
    inet_ntop(origin.family, origin.destination, destination, sizeof(destination))
    return snprintf(
        out, OWN_HEADER_BYTES, b"PROXY TCP%d %s %s %u %u\r\n", <int>(4 if origin.family == AF_INET else 6),
        source, destination, <unsigned int>origin.source_port, <unsigned int>origin.destination_port)


cdef int write_binary(uint8_t *out, const Origin *origin, int over4, int over6) noexcept nogil:
    cdef int size = 4 if origin.family == AF_INET else 16 if origin.family == AF_INET6 else 0
    cdef int length = 2 * size + 4 if size else 0
    memcpy(out, SIGNATURE, SIGNATURE_BYTES)
    out[12] = PROXY_COMMAND
    out[13] = <uint8_t>(over4 if size == 4 else over6 if size == 16 else 0)
    put_port(out + 14, <uint16_t>length)
    if size:
        memcpy(out + FIXED_BYTES, origin.source, size)
        memcpy(out + FIXED_BYTES + size, origin.destination, size)
        put_port(out + FIXED_BYTES + 2 * size, origin.source_port)
        put_port(out + FIXED_BYTES + 2 * size + 2, origin.destination_port)
    return FIXED_BYTES + length


cdef inline void put_port(uint8_t *out, uint16_t value) noexcept nogil:
    out[0] = <uint8_t>(value >> 8)
    out[1] = <uint8_t>(value & 0xFF)


cdef inline uint16_t get_port(const uint8_t *data) noexcept nogil:
    return <uint16_t>((data[0] << 8) | data[1])


# ---- reading

def read_header(bytes data):
    """(length of the header that the bytes begin with, client): as `header_parse`; the client is (host, port), or None
    when the header does not name one."""
    cdef Origin found
    cdef char text[LONGEST_ADDRESS + 1]
    cdef int length = header_parse(data, <int>min(len(data), 1 << 20), &found)
    if length <= 0 or found.family == 0:
        return length, None
    if found.family == AF_INET6 and is_mapped(found.source):
        inet_ntop(AF_INET, found.source + 12, text, sizeof(text))
    else:
        inet_ntop(found.family, found.source, text, sizeof(text))
    return length, (text.decode(), found.source_port)


cdef int header_parse(const uint8_t *data, int length, Origin *origin) noexcept nogil:
    """Length of the header that the bytes begin with; 0: there is more to come; -1: there is none, or a wrong one.

    `origin` is unknown (family 0) after LOCAL, UNKNOWN, and families that are not TCP: then the connection's own
    addresses count.
    """
    memset(origin, 0, sizeof(Origin))
    if length == 0:
        return 0
    if data[0] == SIGNATURE[0]:
        return parse_binary(data, length, origin, OVER_TCP4, OVER_TCP6)
    return parse_line(<const char *>data, length, origin)


cdef int datagram_header_parse(const uint8_t *data, int length, Origin *origin) noexcept nogil:
    """Likewise for a datagram, which has the whole header: -1 if not."""
    cdef int found = 0
    memset(origin, 0, sizeof(Origin))
    if length >= FIXED_BYTES:
        found = parse_binary(data, length, origin, OVER_UDP4, OVER_UDP6)
    return found if found > 0 else -1


cdef int parse_binary(const uint8_t *data, int length, Origin *origin, int over4, int over6) noexcept nogil:
    cdef int rest, size
    if memcmp(data, SIGNATURE, min(length, <int>SIGNATURE_BYTES)) != 0:
        return -1
    if length < FIXED_BYTES:
        return 0
    rest = get_port(data + 14)
    if data[12] != LOCAL_COMMAND and data[12] != PROXY_COMMAND:
        return -1
    if data[13] >> 4 > 3 or data[13] & 0xF > 2 or FIXED_BYTES + rest > LONGEST_HEADER_BYTES:
        return -1
    size = 4 if data[13] == over4 else 16 if data[13] == over6 else 0
    if data[12] == PROXY_COMMAND and size:
        if rest < (TCP4_BYTES if size == 4 else TCP6_BYTES):
            return -1
        if length >= FIXED_BYTES + rest:
            origin.family = <uint16_t>(AF_INET if size == 4 else AF_INET6)
            memcpy(origin.source, data + FIXED_BYTES, size)
            memcpy(origin.destination, data + FIXED_BYTES + size, size)
            origin.source_port = get_port(data + FIXED_BYTES + 2 * size)
            origin.destination_port = get_port(data + FIXED_BYTES + 2 * size + 2)
    return FIXED_BYTES + rest if length >= FIXED_BYTES + rest else 0


cdef int parse_line(const char *data, int length, Origin *origin) noexcept nogil:
    cdef char line[LONGEST_LINE_BYTES + 1]
    cdef const char *end = <const char *>memchr(data, b'\n', min(length, <int>LONGEST_LINE_BYTES))
    cdef const char *at = line
    cdef int size
    if memcmp(data, b"PROXY ", min(length, 6)) != 0:
        return -1
    if end == NULL:
        return 0 if length < LONGEST_LINE_BYTES else -1
    size = <int>(end - data) - 1  # without CR LF
    if size < 0 or data[size] != b'\r' or memchr(data, 0, size) != NULL:
        return -1
    memcpy(line, data, size)
    line[size] = 0
    at += 6
    if memcmp(at, b"UNKNOWN", 7) == 0 and (at[7] == 0 or at[7] == b' '):
        return size + 2
    if memcmp(at, b"TCP", 3) != 0 or (at[3] != b'4' and at[3] != b'6') or at[4] != b' ':
        return -1
    origin.family = <uint16_t>(AF_INET if at[3] == b'4' else AF_INET6)
    at += 5
    if not (parse_address(&at, origin.family, origin.source) and parse_address(&at, origin.family, origin.destination)
            and parse_port(&at, b' ', &origin.source_port) and parse_port(&at, 0, &origin.destination_port)):
        return -1
    return size + 2


cdef bint parse_address(const char **at, int family, uint8_t *out) noexcept nogil:
    """Take an address and the blank after it."""
    cdef char text[LONGEST_ADDRESS + 1]
    cdef int size = 0
    while at[0][size] != b' ':
        if at[0][size] == 0 or size == LONGEST_ADDRESS:
            return False
        text[size] = at[0][size]
        size += 1
    text[size] = 0
    at[0] += size + 1
    return inet_pton(family, text, out) == 1


cdef bint parse_port(const char **at, char end, uint16_t *out) noexcept nogil:
    """Take a decimal number of up to 65535 and the `end` after it."""
    cdef int value = 0, size = 0
    while at[0][size] >= ZERO and at[0][size] <= NINE and size < 5:
        value = value * 10 + at[0][size] - ZERO
        size += 1
    if size == 0 or value > 65535 or at[0][size] != end:
        return False
    at[0] += size + (end != 0)
    out[0] = <uint16_t>value
    return True
