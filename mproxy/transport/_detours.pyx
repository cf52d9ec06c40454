"""Packets on their way to another worker: _detours.pxd."""

import os
import socket

from libc.errno cimport errno
from libc.string cimport memset

from mproxy._ring cimport iovec
from mproxy.io._loop cimport EPOLLET, EPOLLIN
from mproxy.io._packets cimport SLOT_BYTES
from mproxy.io._socket cimport MSG_DONTWAIT, msghdr, recvmsg, sendmsg
from mproxy.io._udp_socket cimport udp_buffers
from mproxy.transport._packet cimport PacketType, packet_id, packet_type


cdef enum:
    QUEUE_BYTES = 8388608  # as of a UDP socket


cdef class Detours:
    """For one port of a server; made before there is any worker."""

    def __init__(self, Routing routing):
        self.routing = routing
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(routing.workers)]
        self.outs = [out.fileno() for _inbox, out in self.pairs]
        for out in self.outs:
            udp_buffers(out, QUEUE_BYTES)

    cdef open(self, Loop loop, Work *work):
        """Do that work when something has come for this worker; until `close`."""
        self.loop, self.work = loop, work
        self.source.fd = os.dup(self.pairs[self.routing.own][0].fileno())
        self.source.ready = something_came
        self.source.owner = <void *>self
        if loop.add(&self.source, EPOLLIN | EPOLLET) < 0:
            raise OSError(errno, os.strerror(errno))

    cdef void close(self) noexcept:
        self.loop.close(&self.source)

    cdef bint take(self, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source) noexcept:
        """Have another worker take packets that are its; false: they are ours. Whoever dials has no id yet."""
        cdef int worker
        if packet_type(slot.data + begin, min(slot.segment, end - begin)) == PacketType.SYN:
            return False
        worker = self.routing.worker_of(packet_id(slot.data + begin))
        if worker == self.routing.own:
            return False
        if worker < self.routing.workers:
            self.send(worker, slot, begin, end, source)
        return True

    cdef void send(self, int worker, const Slot *slot, uint32_t begin, uint32_t end,
                   const PeerAddress *source) noexcept:
        """Send a part of what has come to another worker."""
        cdef DetourHead head
        cdef iovec parts[2]
        cdef msghdr message
        memset(&message, 0, sizeof(message))
        head.source = source[0]
        head.local = slot.local
        head.segment = slot.segment
        parts[0].iov_base = &head
        parts[0].iov_len = sizeof(head)
        parts[1].iov_base = slot.data + begin
        parts[1].iov_len = end - begin
        message.msg_iov = parts
        message.msg_iovlen = 2
        if sendmsg(<int>self.outs[worker], &message, MSG_DONTWAIT) < 0:
            self.lost += 1
        else:
            self.sent += 1

    cdef bint receive(self, Slot *slot, PeerAddress *source) noexcept:
        """Read what another worker has sent here; false: there is nothing."""
        cdef DetourHead head
        cdef iovec parts[2]
        cdef msghdr message
        cdef ssize_t got
        if not self.readable:
            return False
        memset(&message, 0, sizeof(message))
        parts[0].iov_base = &head
        parts[0].iov_len = sizeof(head)
        parts[1].iov_base = slot.data
        parts[1].iov_len = SLOT_BYTES
        message.msg_iov = parts
        message.msg_iovlen = 2
        got = recvmsg(self.source.fd, &message, MSG_DONTWAIT)
        if got <= <ssize_t>sizeof(head):
            self.readable = False
            return False
        source[0] = head.source
        slot.local = head.local
        slot.segment = head.segment
        slot.length = <uint32_t>(got - sizeof(head))
        return True


cdef void something_came(Source *source, uint32_t _events) noexcept:
    cdef Detours detours = <Detours>source.owner
    detours.readable = True
    detours.loop.schedule(detours.work)
