"""One bound socket of a UDP rule. Who reads it: _forwarder.pyx."""

import os
from functools import partial

from libc.errno cimport errno
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memset

from mproxy.ground._sockaddr cimport AF_INET, socklen_t
from mproxy.io._loop cimport EPOLLET, EPOLLIN
from mproxy.io._packets cimport SLOTS, dropped_packets, receive_trains, report_hops, report_local_address
from mproxy.io._socket cimport close, getsockname, set_option, set_receive_queue
from mproxy.relay.udp._gather cimport gather_full


cdef extern from "<netinet/udp.h>" nogil:
    int SOL_UDP, UDP_GRO

cdef enum:
    LISTENER_BUFFER = 4194304    # bytes of a listener's queue; without privileges it may get less (net.core.rmem_max)

_listeners = set()  # the loop holds pointers to them until the end of the turn in which they were closed


cdef void listener_ready(Source *source, uint32_t events) noexcept:
    cdef UdpListener listener = <UdpListener>source.owner
    listener.loop.schedule(&listener.work)


cdef class UdpListener:
    """Has a duplicate of the socket `fd`; OSError. Whoever reads it fills in `work` before anything else runs."""

    def __cinit__(self, Loop loop, UdpRule rule, int fd):
        cdef socklen_t length = sizeof(SocketAddress)
        cdef uint8_t zeros[16]
        self.loop = loop
        self.rule = rule
        self.source.fd = -1
        if getsockname(fd, &self.bound.any, &length) < 0:
            raise OSError(errno, os.strerror(errno))
        self.source.ready = listener_ready
        self.source.owner = <void *>self
        self.most_slots = SLOTS
        memset(zeros, 0, sizeof(zeros))
        if self.bound.any.sa_family == AF_INET:
            self.is_wildcard = self.bound.v4.sin_addr.s_addr == 0
        else:
            self.is_wildcard = memcmp(&self.bound.v6.sin6_addr, zeros, sizeof(zeros)) == 0
        if self.is_wildcard:
            report_local_address(fd, self.bound.any.sa_family)
        self.source.fd = fd
        self.follow_rule()
        self.gather.full = gather_full(set_receive_queue(fd, LISTENER_BUFFER))
        self.source.fd = os.dup(fd)
        if loop.add(&self.source, EPOLLIN | EPOLLET) < 0:
            error = errno
            os.close(self.source.fd)
            raise OSError(error, os.strerror(error))
        _listeners.add(self)

    def follow_rule(self):
        """Packets that have a PROXY header each come one by one, all others in trains."""
        if self.rule.accept_proxy:
            set_option(self.source.fd, SOL_UDP, UDP_GRO, 0)
        else:
            receive_trains(self.source.fd)

    def stop(self):
        """Close the socket."""
        cdef int fd = self.source.fd
        if fd < 0:
            return
        self.count_dropped()
        self.set_gathering(False)
        self.loop.unschedule(&self.work)
        self.loop.remove(&self.source)
        close(fd)
        self.loop.soon.append(partial(_listeners.discard, self))

    def count_hops(self, bint on):
        """Have packets say how many hops they have left, or no more."""
        report_hops(self.source.fd, on)

    cdef void set_gathering(self, bint on) noexcept:
        """Set whether an alarm has the socket read."""
        if on == self.gathers or on and self.gathering is None:
            return
        self.gathers = on
        if on:
            self.gathering.append(self)
        else:
            self.gathering.remove(self)
        self.loop.modify(&self.source, EPOLLET | (0 if on else EPOLLIN))

    cdef void count_dropped(self) noexcept:
        """Take over the kernel's count of packets dropped at this socket."""
        cdef uint32_t dropped
        if self.source.fd >= 0:
            dropped = dropped_packets(self.source.fd)
            self.rule.counts.dropped += <uint32_t>(dropped - self.dropped)
            self.dropped = dropped
