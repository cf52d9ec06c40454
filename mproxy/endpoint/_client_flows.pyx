"""cproxy's side of datagrams: _client_flows.pxd."""

import os
from functools import partial

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t

from mproxy.endpoint._flow_side cimport BATCH, MOST_FLOWS, facts_of, facts_of_flow, flow_inbox, put_slot
from mproxy.io._loop cimport EPOLLET, EPOLLIN
from mproxy.io._packets cimport Inbox, SocketAddress
from mproxy.io._udp_socket cimport peer_name, peer_of, peer_pair, udp_is_v4


cdef void entrance_ready(Source *source, uint32_t events) noexcept:
    cdef UdpEntrance entrance = <UdpEntrance>source.owner
    entrance.readable = True
    entrance.flows.loop.schedule(&entrance.flows.work)


cdef void run_client_flows(Work *work) noexcept:
    (<ClientFlows>work.owner).read()


cdef class UdpEntrance:
    """A socket at which datagrams come in. Made by ClientFlows."""


cdef class ClientFlow(SessionFlow):
    """One address that datagrams come from. Made by ClientFlows."""


cdef class ClientFlows(FlowSide):
    """All flows of a cproxy, over all its sessions. `waiting()`: a dial may help now."""

    def __init__(self, Loop loop not None, Endpoint endpoint not None, int64_t idle_us, waiting):
        self.init(loop, idle_us)
        self.endpoint = endpoint
        self.waiting = waiting
        self.entrances = []
        self.by_peer = {}
        # The session may outlive this process, and sproxy remembers the flows of the one before.
        self.first_number = self.last_number = <uint32_t>int.from_bytes(os.urandom(4), "big")
        self.outbox = Outbox()
        self.work.run = run_client_flows
        self.work.owner = <void *>self

    def listen(self, int fd, int association, str target):
        """Read a socket, which stays the caller's, and has to be open until `close`. OSError."""
        cdef UdpEntrance entrance = UdpEntrance()
        entrance.flows = self
        entrance.association = association
        entrance.target = target
        entrance.is_v4 = udp_is_v4(fd)
        entrance.source.fd = fd
        entrance.source.ready = entrance_ready
        entrance.source.owner = <void *>entrance
        if self.loop.add(&entrance.source, EPOLLIN | EPOLLET) < 0:
            raise OSError(errno, os.strerror(errno))
        self.entrances.append(entrance)
        _open.add(entrance)

    def close(self):
        cdef UdpEntrance entrance
        for entrance in self.entrances:
            self.loop.remove(&entrance.source)
            self.loop.soon.append(partial(_open.discard, entrance))
        self.entrances.clear()
        self.loop.unschedule(&self.work)
        while self.used.count > 0:
            self.end_oldest()

    def facts(self, int most):
        cdef ClientFlow flow
        if self.last_number == self.first_number:
            return None
        return facts_of(self.endpoint.session, 0, self.used.count, [
            facts_of_flow(&flow.use, flow.entrance.target, peer_pair(&flow.peer), self.loop.now_us)
            for flow in self.newest(most)])

    # ---- towards the peer

    cdef void read(self) noexcept:
        """Take what the sockets have, a batch of each."""
        cdef Inbox inbox = flow_inbox()
        cdef UdpEntrance entrance
        cdef bint again = False
        cdef int i, n
        for entrance in self.entrances:
            if not entrance.readable:
                continue
            n = inbox.receive(entrance.source.fd, 0, BATCH, True)
            entrance.readable = n == BATCH or n < 0 and errno == EINTR
            again |= entrance.readable
            for i in range(n):
                self.take(entrance, &inbox.slots[i])
        if again:
            self.loop.schedule(&self.work)
        self.loop.schedule(&self.endpoint.work)
        if not self.endpoint.attached and self.loop.now_us - self.told_at > WAITING_US:
            self.told_at = self.loop.now_us
            self.loop.guard(self.waiting, None)

    cdef void take(self, UdpEntrance entrance, const Slot *slot) noexcept:
        cdef Peer peer
        cdef ClientFlow flow
        cdef bytes key
        peer_of(&peer, slot)
        key = (<const char *>&peer)[:sizeof(Peer)] + (<const char *>&entrance.source.fd)[:sizeof(int)]
        flow = self.by_peer.get(key)
        if flow is None:
            flow = self.begin(entrance, &peer, key)
        self.note_use(flow)
        put_slot(self.endpoint.session, self.loop.now_us, &flow.use, entrance.association, slot)

    cdef ClientFlow begin(self, UdpEntrance entrance, const Peer *peer, bytes key):
        """A new address: the flow that has been unused for longest gives its place up, if there is none left."""
        cdef ClientFlow flow = ClientFlow()
        if self.used.count >= MOST_FLOWS:
            self.end_oldest()
        self.last_number += 1
        while self.last_number == 0 or self.last_number in self.by_number:
            self.last_number += 1
        flow.use.number = self.last_number
        flow.entrance = entrance
        flow.peer = peer[0]
        flow.key = key
        self.by_peer[key] = flow
        self.keep(flow)
        return flow

    cdef void end(self, SessionFlow flow) noexcept:
        self.forget(flow)
        del self.by_peer[(<ClientFlow>flow).key]

    # ---- towards applications

    cdef void arrived(self, uint32_t flow, int association, const uint8_t *data, uint32_t length) noexcept:
        cdef ClientFlow found = self.by_number.get(flow)
        cdef SocketAddress receiver
        if found is None:
            return
        self.note_use(found)
        found.use.received += 1
        found.use.received_bytes += length
        self.outbox.add(&receiver, peer_name(&found.peer, found.entrance.is_v4, &receiver), &found.peer.local)
        self.outbox.add_part(<uint8_t *>data, length)
        self.outbox.finish(0, False)
        self.outbox.flush(found.entrance.source.fd, False)
        self.outbox.clear()


_open = set()  # the loop holds pointers to them until the end of the turn in which they were closed
