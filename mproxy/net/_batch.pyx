"""Batches of UDP packets. What the structures hold: _batch.pxd."""

import socket as _python_socket

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from mproxy.net._socket cimport SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, set_option, setsockopt, sockaddr


cdef extern from "<sys/socket.h>" nogil:
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *control)
    uint8_t *CMSG_DATA(cmsghdr *control)
    size_t CMSG_SPACE(size_t length)
    size_t CMSG_LEN(size_t length)
    int AF_INET, AF_INET6, SOCK_DGRAM, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC
    int SO_RCVBUF, SO_SNDBUF, SO_RCVBUFFORCE, SO_SNDBUFFORCE
    int socket(int domain, int type, int protocol)
    int bind(int fd, const sockaddr *address, socklen_t length)
    int connect(int fd, const sockaddr *address, socklen_t length)
    int getsockname(int fd, sockaddr *address, socklen_t *length)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP
    int IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_V6ONLY
    int IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE
    uint16_t ntohs(uint16_t)

cdef extern from *:
    """
    #include <netinet/udp.h>
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    """
    int UDP_SEGMENT, UDP_GRO
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout) nogil
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags) nogil

cdef enum:
    REFUSAL_US = 10000000  # a route may change; a try every ten seconds costs nothing

cdef uint8_t[12] MAPPED  # ::ffff:0:0/96
memset(MAPPED, 0, 10)
MAPPED[10] = MAPPED[11] = 0xFF


# ---- receiving

cdef int receiver_init(Receiver *receiver) noexcept nogil:
    """Take the memory; -1 when there is none."""
    cdef int i
    memset(receiver, 0, sizeof(Receiver))
    receiver.buffers = <uint8_t *>malloc(RECEIVES * RECEIVE_BYTES)
    if receiver.buffers == NULL:
        return -1
    for i in range(RECEIVES):
        receiver.parts[i].iov_base = receiver.buffers + i * RECEIVE_BYTES
        receiver.parts[i].iov_len = RECEIVE_BYTES
    return 0


cdef void receiver_free(Receiver *receiver) noexcept nogil:
    free(receiver.buffers)
    receiver.buffers = NULL


cdef int receive_batch(Receiver *receiver, int fd) noexcept nogil:
    """Receive what there is; number of messages for `received`, or -1 with errno."""
    cdef int i
    for i in range(RECEIVES):
        receiver.messages[i].msg_hdr.msg_name = &receiver.names[i]
        receiver.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
        receiver.messages[i].msg_hdr.msg_iov = &receiver.parts[i]
        receiver.messages[i].msg_hdr.msg_iovlen = 1
        receiver.messages[i].msg_hdr.msg_control = receiver.controls[i]
        receiver.messages[i].msg_hdr.msg_controllen = CONTROL_BYTES
    return recvmmsg(fd, receiver.messages, RECEIVES, MSG_DONTWAIT, NULL)


cdef void received(Receiver *receiver, int index, Received *out) noexcept nogil:
    """Describe message `index` of the last batch."""
    cdef msghdr *message = &receiver.messages[index].msg_hdr
    cdef cmsghdr *control = CMSG_FIRSTHDR(message)
    cdef in6_pktinfo *info
    out.data = <uint8_t *>receiver.parts[index].iov_base
    out.length = receiver.messages[index].msg_len
    out.segment_bytes = out.length
    out.cut_off = (message.msg_flags & MSG_TRUNC) != 0
    address_set(&out.from_address, <sockaddr_storage *>&receiver.names[index])
    while control != NULL:
        if control.cmsg_level == IPPROTO_UDP and control.cmsg_type == UDP_GRO:
            out.segment_bytes = <uint32_t>(<int *>CMSG_DATA(control))[0]
        elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
            info = <in6_pktinfo *>CMSG_DATA(control)
            memcpy(out.from_address.local, &info.ipi6_addr, 16)
            if out.from_address.local[0] == 0xFE and out.from_address.local[1] & 0xC0 == 0x80:
                out.from_address.interface = info.ipi6_ifindex
        elif control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
            memcpy(out.from_address.local, MAPPED, 12)
            memcpy(out.from_address.local + 12, &(<in_pktinfo *>CMSG_DATA(control)).ipi_addr, 4)
        control = CMSG_NXTHDR(message, control)


# ---- sending

cdef void sender_init(Sender *sender, int fd, bint connected) noexcept nogil:
    """Begin without messages."""
    cdef sockaddr_storage own
    cdef socklen_t length = sizeof(own)
    memset(sender, 0, sizeof(Sender))
    sender.fd = fd
    sender.connected = connected
    sender.v4 = getsockname(fd, <sockaddr *>&own, &length) == 0 and own.ss_family == AF_INET


cdef bint send_add(Sender *sender, const Address *address, const void *data, uint32_t length,
                   uint32_t segment_bytes, int64_t now) noexcept nogil:
    """Gather a packet, or a run of packets of `segment_bytes` (the last one may be shorter), at most SEGMENTS and
    PIECE_BYTES; the memory must stay until `send_batch` has sent it. False: full, send first."""
    cdef int last = sender.count - 1
    cdef uint32_t packets = (length + segment_bytes - 1) // segment_bytes if length else 1
    if sender.part_count == SEND_PARTS:
        return False
    if (last >= 0 and not sender.closed[last] and packets == 1 and length <= sender.segment_bytes[last] and length > 0
            and sender.packets[last] < SEGMENTS and sender.bytes[last] + length <= PIECE_BYTES
            and address_same(&sender.addresses[last], address) and not is_refused(sender, address, now)):
        sender.messages[last].msg_hdr.msg_iovlen += 1
    else:
        if sender.count == SENDS:
            return False
        last = sender.count
        sender.count += 1
        memset(&sender.messages[last], 0, sizeof(mmsghdr))
        sender.messages[last].msg_hdr.msg_iov = &sender.parts[sender.part_count]
        sender.messages[last].msg_hdr.msg_iovlen = 1
        sender.addresses[last] = address[0]
        sender.segment_bytes[last] = min(segment_bytes, length)
        sender.packets[last] = 0
        sender.bytes[last] = 0
    sender.parts[sender.part_count].iov_base = <void *>data
    sender.parts[sender.part_count].iov_len = length
    sender.part_count += 1
    sender.packets[last] += packets
    sender.bytes[last] += length
    sender.closed[last] = length == 0 or length % sender.segment_bytes[last] != 0
    return True


cdef int send_batch(Sender *sender, int64_t now) noexcept nogil:
    """Send what was gathered; 0 when nothing is left, -1 when `blocked`: call again when the socket is writable."""
    cdef int i, n, ready = sender.next
    sender.blocked = False
    while sender.next < sender.count:
        i = sender.next
        if sender.packets[i] > 1 and is_refused(sender, &sender.addresses[i], now):
            if not send_singly(sender, i):
                return -1
            sender.next += 1
            continue
        while ready < sender.count and not (
                sender.packets[ready] > 1 and is_refused(sender, &sender.addresses[ready], now)):
            prepare(sender, ready)
            ready += 1
        n = sendmmsg(sender.fd, &sender.messages[i], ready - i, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n > 0:
            for i in range(i, i + n):
                sender.sent += sender.packets[i]
            sender.next += n
        elif errno == EAGAIN:
            sender.blocked = True
            return -1
        elif errno in (EIO, EMSGSIZE, EINVAL) and sender.packets[i] > 1:
            refuse(sender, &sender.addresses[i], now)
            ready = i
        elif errno != EINTR:
            give_up(sender, sender.packets[i])
            sender.next += 1
        ready = max(ready, sender.next)
    sender.count = sender.part_count = sender.next = 0
    return 0


cdef void give_up(Sender *sender, uint32_t packets) noexcept nogil:
    """The kernel does not take them; a network that loses packets does the same."""
    sender.error = errno
    sender.dropped += packets
    if errno == EMSGSIZE:
        sender.too_large += packets


cdef bint send_singly(Sender *sender, int index) noexcept nogil:
    """Send the packets of a message one by one; false when the socket blocked (what was sent is sent again then)."""
    cdef msghdr *message = &sender.messages[index].msg_hdr
    cdef mmsghdr single[64]
    cdef iovec parts[64]
    cdef uint32_t segment_bytes = sender.segment_bytes[index]
    cdef size_t i, offset
    cdef int count = 0, done = 0, n
    sender.packets[index] = 1  # `prepare`: no segment size
    prepare(sender, index)
    for i in range(message.msg_iovlen):
        offset = 0
        while offset < message.msg_iov[i].iov_len and count < 64:
            parts[count].iov_base = <uint8_t *>message.msg_iov[i].iov_base + offset
            parts[count].iov_len = min(<size_t>segment_bytes, message.msg_iov[i].iov_len - offset)
            single[count].msg_hdr = message[0]
            single[count].msg_hdr.msg_iov = &parts[count]
            single[count].msg_hdr.msg_iovlen = 1
            offset += segment_bytes
            count += 1
    sender.packets[index] = count
    while done < count:
        n = sendmmsg(sender.fd, &single[done], count - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n > 0:
            done += n
            sender.sent += n
        elif errno == EAGAIN:
            sender.blocked = True
            return False
        elif errno != EINTR:
            give_up(sender, 1)
            done += 1
    return True


cdef void prepare(Sender *sender, int index) noexcept nogil:
    """Fill in what the kernel wants to know about message `index`."""
    cdef msghdr *message = &sender.messages[index].msg_hdr
    cdef Address *address = &sender.addresses[index]
    cdef uint8_t *control = sender.controls[index]
    cdef size_t length = 0
    cdef sockaddr_in *v4
    cdef in6_pktinfo info
    cdef in_pktinfo info4
    cdef uint16_t segment = <uint16_t>sender.segment_bytes[index]
    if not sender.connected:
        message.msg_name = &address.name
        message.msg_namelen = sizeof(sockaddr_in6)
        if sender.v4 and address.name.sin6_family == AF_INET6:
            v4 = <sockaddr_in *>&address.name
            memcpy(&v4.sin_addr, address.name.sin6_addr.s6_addr + 12, 4)
            v4.sin_family = AF_INET
        if sender.v4:
            message.msg_namelen = sizeof(sockaddr_in)
        if has_local(address) and sender.v4:
            memset(&info4, 0, sizeof(info4))
            memcpy(&info4.ipi_spec_dst, address.local + 12, 4)
            length = put_control(control, 0, IPPROTO_IP, IP_PKTINFO, &info4, sizeof(info4))
        elif has_local(address):
            memcpy(&info.ipi6_addr, address.local, 16)
            info.ipi6_ifindex = address.interface
            length = put_control(control, 0, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info))
    if sender.packets[index] > 1:
        length = put_control(control, length, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment))
    message.msg_control = control if length else NULL
    message.msg_controllen = length


cdef size_t put_control(uint8_t *control, size_t at, int level, int kind, const void *data, size_t length) noexcept \
        nogil:
    """Write a control message; returns where the next one goes."""
    cdef cmsghdr *header = <cmsghdr *>(control + at)
    memset(header, 0, CMSG_SPACE(length))
    header.cmsg_len = CMSG_LEN(length)
    header.cmsg_level = level
    header.cmsg_type = kind
    memcpy(CMSG_DATA(header), data, length)
    return at + CMSG_SPACE(length)


cdef bint is_refused(Sender *sender, const Address *address, int64_t now) noexcept nogil:
    cdef uint64_t hashed = address_hash(address)
    return sender.refused[hashed % REFUSALS] == hashed and now < sender.refused_until[hashed % REFUSALS]


cdef void refuse(Sender *sender, const Address *address, int64_t now) noexcept nogil:
    """A device on the way to this address cannot cut: packets go there one by one for a while."""
    cdef uint64_t hashed = address_hash(address)
    sender.refused[hashed % REFUSALS] = hashed
    sender.refused_until[hashed % REFUSALS] = now + REFUSAL_US


# ---- addresses

cdef inline bint has_local(const Address *address) noexcept nogil:
    cdef uint64_t halves[2]
    memcpy(halves, address.local, 16)
    return (halves[0] | halves[1]) != 0


cdef uint64_t address_hash(const Address *address) noexcept nogil:
    """Of the peer's address and port (the finaliser of MurmurHash3, public domain, over both halves)."""
    cdef uint64_t halves[2]
    cdef uint64_t value
    memcpy(halves, &address.name.sin6_addr, 16)
    value = halves[0] ^ (halves[1] * <uint64_t>0x9E3779B97F4A7C15) ^ (<uint64_t>address.name.sin6_port << 17)
    value = (value ^ (value >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    value = (value ^ (value >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return value ^ (value >> 33)


cdef bint address_same(const Address *one, const Address *other) noexcept nogil:
    """The same peer, and the same address of ours."""
    return (one.name.sin6_port == other.name.sin6_port and one.interface == other.interface
            and memcmp(&one.name.sin6_addr, &other.name.sin6_addr, 16) == 0
            and memcmp(one.local, other.local, 16) == 0)


cdef void address_set(Address *address, const sockaddr_storage *name) noexcept nogil:
    """Take a socket address of either family."""
    cdef sockaddr_in *v4 = <sockaddr_in *>name
    memset(address, 0, sizeof(Address))
    if name.ss_family == AF_INET:
        address.name.sin6_family = AF_INET6
        address.name.sin6_port = v4.sin_port
        memcpy(&address.name.sin6_addr, MAPPED, 12)
        memcpy(address.name.sin6_addr.s6_addr + 12, &v4.sin_addr, 4)
    elif name.ss_family == AF_INET6:
        memcpy(&address.name, name, sizeof(sockaddr_in6))
        address.name.sin6_flowinfo = 0
        if address.name.sin6_addr.s6_addr[0] == 0xFE and address.name.sin6_addr.s6_addr[1] & 0xC0 == 0x80:
            address.interface = address.name.sin6_scope_id


cdef tuple address_pair(const Address *address):
    """(host as text, port) of the peer."""
    cdef bytes raw = (<char *>&address.name.sin6_addr)[:16]
    if raw.startswith((<char *>MAPPED)[:12]):
        return _python_socket.inet_ntop(_python_socket.AF_INET, raw[12:]), ntohs(address.name.sin6_port)
    return _python_socket.inet_ntop(_python_socket.AF_INET6, raw), ntohs(address.name.sin6_port)


# ---- sockets

cdef int udp_socket(bint any_family) noexcept nogil:
    """A UDP socket for IPv6 and IPv4, or for IPv4 alone where there is no IPv6; -1 with errno."""
    cdef int fd = -1
    if any_family:
        fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd >= 0:
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)
    set_option(fd, IPPROTO_UDP, UDP_GRO, 1)
    return fd


cdef int own_form(int fd, const Address *address, sockaddr_storage *out) noexcept nogil:
    """The address in the form of the socket's family; its length."""
    cdef sockaddr_storage own
    cdef socklen_t length = sizeof(own)
    cdef sockaddr_in *v4 = <sockaddr_in *>out
    memset(out, 0, sizeof(sockaddr_storage))
    if getsockname(fd, <sockaddr *>&own, &length) == 0 and own.ss_family == AF_INET:
        v4.sin_family = AF_INET
        v4.sin_port = address.name.sin6_port
        memcpy(&v4.sin_addr, address.name.sin6_addr.s6_addr + 12, 4)
        return sizeof(sockaddr_in)
    memcpy(out, &address.name, sizeof(sockaddr_in6))
    return sizeof(sockaddr_in6)


cdef int udp_bind(int fd, const Address *address) noexcept nogil:
    """bind(2); -1 with errno."""
    cdef sockaddr_storage name
    cdef int length = own_form(fd, address, &name)
    return bind(fd, <sockaddr *>&name, length)


cdef int udp_connect(int fd, const Address *address) noexcept nogil:
    """connect(2); -1 with errno."""
    cdef sockaddr_storage name
    cdef int length = own_form(fd, address, &name)
    return connect(fd, <sockaddr *>&name, length)


cdef void udp_fragment(int fd, bint allowed) noexcept nogil:
    """Let routers cut packets up (ip(7), IP_MTU_DISCOVER), or have what is too large dropped, whatever the kernel has
    heard about the path: RFC 8899 section 4.1 wants this for probes."""
    cdef int how = IP_PMTUDISC_DONT if allowed else IP_PMTUDISC_PROBE
    set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, how)
    set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)


cdef void udp_buffers(int fd, int size) noexcept nogil:
    """Ask for socket buffers of `size` bytes each; without privileges the system grants what it likes."""
    if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0:
        set_option(fd, SOL_SOCKET, SO_RCVBUF, size)
    if setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0:
        set_option(fd, SOL_SOCKET, SO_SNDBUF, size)
