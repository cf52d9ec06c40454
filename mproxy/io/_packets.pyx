"""UDP packets in batches. Every descriptor here is non-blocking."""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, errno
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from mproxy.ground._sockaddr cimport AF_INET, in6_addr, in_addr, is_link_local, map_v4
from mproxy.io._socket cimport (
    IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IP_TTL, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, SOL_SOCKET, getsockopt,
    set_option,
)
from mproxy.io._socket cimport send as send_call


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **out, size_t alignment, size_t size)
    void free(void *memory)

cdef extern from "<sys/socket.h>" nogil:
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int SO_MEMINFO
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *control)
    uint8_t *CMSG_DATA(cmsghdr *control)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IP_PKTINFO, IPV6_PKTINFO, IPV6_RECVPKTINFO, IP_RECVTTL, IPV6_HOPLIMIT, IPV6_RECVHOPLIMIT

cdef extern from "<netinet/udp.h>" nogil:
    int SOL_UDP, UDP_SEGMENT, UDP_GRO


cdef enum:
    # Slots that are a power of two apart would compete for the same few lines of every cache.
    SLOT_STRIDE = SLOT_BYTES + 1536
    CACHE_LINE_BYTES = 64
    SOCKET_VALUES = 16  # room for the values of SO_MEMINFO: more than there are (linux/sock_diag.h)
    DROPS = 8           # SK_MEMINFO_DROPS


cdef uint32_t packet_count(uint32_t length, uint32_t segment) noexcept nogil:
    """Packets in a train of `length` bytes; an empty packet is one too."""
    return 1 if length <= segment else (length + segment - 1) // segment


cdef void receive_trains(int fd) noexcept nogil:
    """Let the kernel deliver coalesced packets as one message (UDP_GRO); an old kernel goes on without."""
    set_option(fd, IPPROTO_UDP, UDP_GRO, 1)


cdef void report_local_address(int fd, int family) noexcept nogil:
    """Have every packet say which local address it was sent to: for sockets bound to all addresses."""
    if family == AF_INET:
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)
    else:
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)


cdef void report_hops(int fd, bint on) noexcept nogil:
    """Have every packet say how many hops it has left, or stop that. An IPv6 socket may get both kinds."""
    set_option(fd, IPPROTO_IP, IP_RECVTTL, on)
    set_option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, on)


cdef uint32_t dropped_packets(int fd) noexcept:
    """How many packets the kernel has dropped at this socket, mostly for want of room; modulo 2**32.

    SO_RXQ_OVFL would tell with every packet, and cost each of them 5 % more.
    """
    cdef uint32_t values[SOCKET_VALUES]
    cdef socklen_t length = sizeof(values)
    memset(values, 0, sizeof(values))
    getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length)
    return values[DROPS]


cdef class Inbox:
    """Receives up to SLOTS messages with one call. The contents of a slot are valid until it is received into again."""

    def __cinit__(self):
        cdef int i
        if posix_memalign(<void **>&self.storage, CACHE_LINE_BYTES, SLOTS * SLOT_STRIDE) != 0:
            self.storage = NULL
            raise MemoryError
        for i in range(SLOTS):
            self.slots[i].data = self.storage + i * SLOT_STRIDE
            self.parts[i].iov_base = self.slots[i].data
            self.parts[i].iov_len = SLOT_BYTES
            self.headers[i].msg_hdr.msg_iov = &self.parts[i]
            self.headers[i].msg_hdr.msg_iovlen = 1
            self.headers[i].msg_hdr.msg_control = self.controls[i]

    def __dealloc__(self):
        free(self.storage)

    cdef int receive(self, int fd, int first, int most, bint with_sender) noexcept:
        """Receive into slots [first, first + most); returns how many messages came, or -1 with errno.

        Fewer than `most`: the socket is empty, or its error comes next. A connected socket needs no `with_sender`.
        """
        cdef msghdr *header
        cdef Slot *slot
        cdef int i, n
        for i in range(first, first + most):
            header = &self.headers[i].msg_hdr
            header.msg_name = &self.slots[i].sender if with_sender else NULL
            header.msg_namelen = sizeof(SocketAddress) if with_sender else 0
            header.msg_controllen = CONTROL_BYTES
        n = recvmmsg(fd, &self.headers[first], most, MSG_DONTWAIT, NULL)
        for i in range(first, first + n):
            header = &self.headers[i].msg_hdr
            slot = &self.slots[i]
            slot.length = slot.segment = self.headers[i].msg_len
            slot.sender_bytes = header.msg_namelen
            slot.cut = header.msg_flags & MSG_TRUNC
            slot.hops = 0
            memset(&slot.local, 0, sizeof(LocalAddress))
            if header.msg_controllen:
                read_controls(slot, header)
        return n


cdef void read_controls(Slot *slot, msghdr *header) noexcept:
    cdef cmsghdr *control = CMSG_FIRSTHDR(header)
    cdef void *data
    cdef int segment
    while control != NULL:
        data = CMSG_DATA(control)
        if control.cmsg_level == SOL_UDP and control.cmsg_type == UDP_GRO:
            memcpy(&segment, data, sizeof(segment))
            if 0 < segment < <int>slot.length:
                slot.segment = segment
        elif control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
            map_v4(slot.local.bytes, &(<in_pktinfo *>data).ipi_spec_dst)
        elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
            read_local6(&slot.local, <in6_pktinfo *>data)
        elif (control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_TTL
              or control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_HOPLIMIT):
            memcpy(&slot.hops, data, sizeof(int))
        control = CMSG_NXTHDR(header, control)


cdef void read_local6(LocalAddress *local, const in6_pktinfo *info) noexcept:
    """A multicast address cannot be a sender: then the route decides."""
    if info.ipi6_addr.s6_addr[0] == 0xFF:
        return
    memcpy(local.bytes, &info.ipi6_addr, 16)
    if is_link_local(info.ipi6_addr.s6_addr):
        local.interface = info.ipi6_ifindex


cdef class Outbox:
    """Messages for one socket: `add`, `add_part` once or more, `finish`; then `flush`, read the results, `clear`.

    A train that the kernel refuses as such (no checksum offload on the way: EIO; longer than the path allows: EMSGSIZE,
    EINVAL) goes packet by packet. What finds no room in the kernel's buffers is dropped, as UDP may do, or waits.
    """

    def __cinit__(self):
        cdef int i
        for i in range(SLOTS):
            self.single_headers[i].msg_hdr.msg_iov = &self.single_parts[i]
            self.single_headers[i].msg_hdr.msg_iovlen = 1

    cdef bint has_room(self, int parts) noexcept:
        """Whether one more message of that many parts fits."""
        return self.count < SLOTS and self.part_count + parts <= PARTS

    cdef Message *add(self, SocketAddress *receiver, socklen_t receiver_bytes, const LocalAddress *local) noexcept:
        """Begin a message. receiver NULL: the socket is connected. local NULL, or zeros: the route decides the sender.

        `receiver` must stay until `flush`.
        """
        cdef int index = self.count
        cdef Message *message = &self.messages[index]
        cdef msghdr *header = &self.headers[index].msg_hdr
        memset(message, 0, sizeof(Message))
        message.first_part = self.part_count
        header.msg_name = receiver
        header.msg_namelen = receiver_bytes
        header.msg_iov = &self.parts[self.part_count]
        header.msg_control = NULL
        header.msg_controllen = 0
        if local != NULL and local.bytes[0] | local.bytes[10] | local.bytes[15]:
            put_local(header, self.controls[index], receiver.any.sa_family, local)
        self.count += 1
        return message

    cdef void add_part(self, uint8_t *data, uint32_t length) noexcept:
        """Append memory to the message; it must stay until `flush`."""
        cdef iovec *part = &self.parts[self.part_count]
        part.iov_base = data
        part.iov_len = length
        self.part_count += 1
        self.messages[self.count - 1].part_count += 1
        self.messages[self.count - 1].length += length

    cdef void finish(self, uint32_t segment, bint one_by_one) noexcept:
        """The message is complete; segment 0, or at least its length: it is one packet.

        Every part but the last must be a multiple of `segment`. one_by_one: do not try to send it as a train.
        """
        cdef int index = self.count - 1
        cdef Message *message = &self.messages[index]
        cdef msghdr *header = &self.headers[index].msg_hdr
        header.msg_iovlen = message.part_count
        message.packets = 1
        if segment == 0 or message.length <= segment:
            return
        message.segment = segment
        message.packets = packet_count(message.length, segment)
        if one_by_one:
            message.fell_back = True
        else:
            put_segment(header, self.controls[index], segment)

    cdef void clear(self) noexcept:
        """Forget the messages."""
        self.count = 0
        self.part_count = 0
        self.next = 0

    cdef bint flush(self, int fd, bint waits) noexcept:
        """Send everything; `sent`, `sent_bytes`, `error` and `fell_back` of each message tell what became of it.

        `waits`: if the socket has no room, return false; the rest stays for another flush, once it is writable.
        """
        cdef int taken
        cdef Message *message
        while self.next < self.count:
            message = &self.messages[self.next]
            if message.fell_back:
                if not self.send_one_by_one(fd, self.next, waits):
                    return False
                self.next += 1
                continue
            taken = self.send(fd, self.next)
            self.next += taken
            if taken > 0:
                continue
            if message.segment and errno in (EIO, EMSGSIZE, EINVAL):
                message.fell_back = True
            elif errno == EMSGSIZE and message.error != EMSGSIZE:
                message.error = EMSGSIZE  # perhaps an ICMP's, about an earlier packet: then the next try succeeds
            elif errno == EAGAIN and waits:
                return False
            elif errno != EINTR:
                message.error = errno
                self.next += 1
        return True

    cdef int send(self, int fd, int first) noexcept:
        """Send messages from `first` on, up to one that goes packet by packet; returns how many went, 0 with errno."""
        cdef int last = first, i, n
        cdef msghdr *header = &self.headers[first].msg_hdr
        while last < self.count and not self.messages[last].fell_back:
            last += 1
        if last == first + 1 and header.msg_name == NULL and header.msg_control == NULL and header.msg_iovlen == 1:
            n = 1 if send_call(fd, header.msg_iov.iov_base, header.msg_iov.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 \
                else -1
        else:
            n = sendmmsg(fd, &self.headers[first], last - first, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n < 0:
            return 0
        for i in range(first, first + n):
            self.messages[i].sent = self.messages[i].packets
            self.messages[i].sent_bytes = self.messages[i].length
            self.messages[i].error = 0
        return n

    cdef bint send_one_by_one(self, int fd, int index, bint waits) noexcept:
        """Send the packets of a train after the `tried` ones singly; false: see `flush`. The kernel fragments what is
        too long for the path, if the socket allows it."""
        cdef Message *message = &self.messages[index]
        cdef msghdr *header = &self.headers[index].msg_hdr
        cdef uint32_t skip = message.tried
        cdef int part, count = 0
        cdef size_t at
        cdef iovec *whole
        take_segment_back(header)
        for part in range(message.first_part, message.first_part + message.part_count):
            whole = &self.parts[part]
            at = 0
            while at < whole.iov_len:
                if skip > 0:
                    skip -= 1
                    at += message.segment
                    continue
                self.single_parts[count].iov_base = <uint8_t *>whole.iov_base + at
                self.single_parts[count].iov_len = min(<size_t>message.segment, whole.iov_len - at)
                at += message.segment
                self.single_headers[count].msg_hdr.msg_name = header.msg_name
                self.single_headers[count].msg_hdr.msg_namelen = header.msg_namelen
                self.single_headers[count].msg_hdr.msg_control = header.msg_control
                self.single_headers[count].msg_hdr.msg_controllen = header.msg_controllen
                count += 1
                if count == SLOTS:
                    if not self.send_singles(fd, message, count, waits):
                        return False
                    count = 0
        return self.send_singles(fd, message, count, waits)

    cdef bint send_singles(self, int fd, Message *message, int count, bint waits) noexcept:
        """Send `count` packets; what the kernel does not take counts as the message's error. False: see `flush`."""
        cdef int done = 0, i, n
        cdef bint again = False
        while done < count:
            n = sendmmsg(fd, &self.single_headers[done], count - done, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n > 0:
                for i in range(done, done + n):
                    message.sent_bytes += <uint32_t>self.single_parts[i].iov_len
                message.sent += n
                message.tried += n
                done += n
                again = False
            elif errno == EMSGSIZE and not again:
                again = True  # as in `flush`
            elif errno == EAGAIN and waits:
                return False
            elif errno != EINTR:
                message.error = errno
                if errno == EAGAIN:
                    break
                message.tried += 1
                done += 1
                again = False
        return True


cdef void put_local(msghdr *header, uint8_t *controls, int family, const LocalAddress *local) noexcept:
    """First control message: the address to send from."""
    cdef cmsghdr *control = <cmsghdr *>controls
    cdef in_pktinfo *info4
    cdef in6_pktinfo *info6
    header.msg_control = controls
    if family == AF_INET:
        control.cmsg_level = IPPROTO_IP
        control.cmsg_type = IP_PKTINFO
        control.cmsg_len = CMSG_LEN(sizeof(in_pktinfo))
        info4 = <in_pktinfo *>CMSG_DATA(control)
        memset(info4, 0, sizeof(in_pktinfo))
        memcpy(&info4.ipi_spec_dst, &local.bytes[12], 4)
        header.msg_controllen = CMSG_SPACE(sizeof(in_pktinfo))
    else:
        control.cmsg_level = IPPROTO_IPV6
        control.cmsg_type = IPV6_PKTINFO
        control.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
        info6 = <in6_pktinfo *>CMSG_DATA(control)
        memcpy(&info6.ipi6_addr, local.bytes, 16)
        info6.ipi6_ifindex = local.interface
        header.msg_controllen = CMSG_SPACE(sizeof(in6_pktinfo))


cdef void put_segment(msghdr *header, uint8_t *controls, uint32_t segment) noexcept:
    """Last control message: how to segment the train."""
    cdef cmsghdr *control = <cmsghdr *>(controls + header.msg_controllen)
    cdef uint16_t value = <uint16_t>segment
    header.msg_control = controls
    control.cmsg_level = SOL_UDP
    control.cmsg_type = UDP_SEGMENT
    control.cmsg_len = CMSG_LEN(sizeof(value))
    memcpy(CMSG_DATA(control), &value, sizeof(value))
    header.msg_controllen += CMSG_SPACE(sizeof(value))


cdef void take_segment_back(msghdr *header) noexcept:
    """Drop all but the address to send from."""
    cdef cmsghdr *control = <cmsghdr *>header.msg_control
    if control == NULL:
        return
    if control.cmsg_level == SOL_UDP:
        header.msg_control = NULL
        header.msg_controllen = 0
    else:
        header.msg_controllen = CMSG_SPACE(control.cmsg_len - CMSG_LEN(0))
