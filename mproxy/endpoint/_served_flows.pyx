"""sproxy's side of datagrams: _served_flows.pxd."""

from functools import partial

from libc.errno cimport EAGAIN, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, errno

from mproxy.endpoint._flow_side cimport BATCH, MOST_FLOWS, facts_of, facts_of_flow, flow_inbox, put_slot
from mproxy.io._loop cimport EPOLLET, EPOLLIN
from mproxy.io._packets cimport Inbox
from mproxy.io._ports cimport port_rest
from mproxy.io._socket cimport MSG_DONTWAIT, MSG_NOSIGNAL, send as send_call, set_errno, ssize_t
from mproxy.io._udp_dial cimport is_shortage, udp_dial


cdef void flow_ready(Source *source, uint32_t events) noexcept:
    cdef ServedFlow flow = <ServedFlow>source.owner
    if not flow.is_queued:
        flow.is_queued = True
        flow.flows.ready.append(flow)
        flow.flows.loop.schedule(&flow.flows.work)


cdef void run_served_flows(Work *work) noexcept:
    (<ServedFlows>work.owner).read()


cdef class ServedFlow(SessionFlow):
    """One flow and its socket. Made by ServedFlows."""


cdef class ServedFlows(FlowSide):
    """All flows of a session."""

    def __init__(self, Loop loop not None, Endpoint endpoint not None, int64_t idle_us):
        self.init(loop, idle_us)
        self.endpoint = endpoint
        self.targets = {}
        self.expected = {}
        self.ready = []
        self.credit = MOST_FLOWS
        self.credit_at = loop.now_us
        self.work.run = run_served_flows
        self.work.owner = <void *>self
        _open.add(self)

    def expect(self, int association):
        """The target of datagrams with that number is being looked up: a few of them may wait for it."""
        if association not in self.targets:
            self.expected.setdefault(association, [])

    def associate(self, int association, Target target):
        """Send datagrams with that number there from now on; None: nowhere. Flows that led elsewhere end."""
        cdef ServedFlow flow
        cdef bytes data
        former = self.targets.pop(association, None)
        waiting = self.expected.pop(association, ())
        if target is not None and not self.closed:
            self.targets[association] = target
            for number, data in waiting:
                self.arrived(number, association, data, <uint32_t>len(data))
        if former is not None and (target is None or former.text != target.text):
            for flow in [each for each in self.by_number.values() if (<ServedFlow>each).association == association]:
                self.end(flow)

    def close(self):
        self.closed = True
        self.targets.clear()
        self.expected.clear()
        while self.used.count > 0:
            self.end_oldest()
        self.loop.unschedule(&self.work)
        self.loop.soon.append(partial(_open.discard, self))

    def facts(self, int most):
        cdef ServedFlow flow
        if self.endpoint.session.transmitter.datagrams.received + self.refused == 0:
            return None
        return facts_of(self.endpoint.session, self.refused, self.used.count, [
            facts_of_flow(&flow.use, flow.target.text, None, self.loop.now_us) for flow in self.newest(most)])

    # ---- towards targets

    cdef void arrived(self, uint32_t flow, int association, const uint8_t *data, uint32_t length) noexcept:
        cdef ServedFlow found = self.by_number.get(flow)
        if found is None and association in self.expected:
            self.note_early(association, flow, (<const char *>data)[:length])
            return
        if found is None:
            found = self.begin(flow, association)
        if found is None or found.association != association:
            self.refused += 1
            return
        self.note_use(found)
        found.use.received += 1
        found.use.received_bytes += length
        found.owes = True
        if not found.is_heard and found.address + 1 < found.target.count:
            found.last = (<const char *>data)[:length]
        self.send(found, data, length)

    def note_early(self, int association, uint32_t flow, bytes data):
        """One that came before its target was known; only so many are kept."""
        cdef list kept = self.expected[association]
        if len(kept) < EARLY and len(data) <= EARLY_BYTES:
            kept.append((flow, data))
        else:
            self.refused += 1

    cdef ServedFlow begin(self, uint32_t number, int association):
        """A flow's first datagram. The flow that has been unused for longest gives its place up, if there is none
        left. None: the flow cannot be had."""
        cdef ServedFlow flow = ServedFlow()
        flow.target = self.targets.get(association)
        if flow.target is None or not self.has_credit():
            return None
        if self.used.count >= MOST_FLOWS or self.may_open is not None and not self.loop.guard(self.may_open, None):
            if self.used.count == 0:
                return None
            self.end_oldest()
        flow.flows = self
        flow.use.number = number
        flow.association = association
        flow.source.fd = -1
        if not self.dial(flow):
            if not is_shortage(errno) or self.used.count == 0:
                return None
            self.end_oldest()
            if not self.dial(flow):
                return None
        self.keep(flow)
        return flow

    cdef bint has_credit(self) noexcept:
        """Take the right to open a flow, if there is one."""
        cdef int64_t now = self.loop.now_us
        self.credit = min(<double>MOST_FLOWS, self.credit + (now - self.credit_at) * FLOWS_A_SECOND / 1e6)
        self.credit_at = now
        if self.credit < 1:
            return False
        self.credit -= 1
        return True

    cdef bint dial(self, ServedFlow flow) noexcept:
        """Have a socket to the first address, from the present one on, to which there can be one; False with errno."""
        cdef int fd = -ECONNREFUSED
        while flow.address < flow.target.count:
            flow.port = 0
            fd = udp_dial(flow.target, flow.address, self.loop.now_us, &flow.port)
            if fd >= 0:
                break
            if is_shortage(-fd) or flow.address + 1 == flow.target.count:
                break
            flow.address += 1
        if fd < 0:
            set_errno(-fd)
            return False
        flow.source = Source(fd, flow_ready, <void *>flow)
        if self.loop.add(&flow.source, EPOLLIN | EPOLLET) < 0:
            self.loop.close(&flow.source)
            return False
        _sockets.add(flow)
        return True

    cdef void hang_up(self, ServedFlow flow) noexcept:
        """Close the socket, and let its port rest."""
        self.loop.close(&flow.source)
        port_rest(flow.port, self.loop.now_us, REST_OWED_US if flow.owes else REST_US, flow.owes)

    cdef void send(self, ServedFlow flow, const uint8_t *data, uint32_t length) noexcept:
        """An error is that of an earlier datagram; with any other this one is lost, as datagrams are."""
        cdef ssize_t n = send_call(flow.source.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n < 0 and is_nobody(errno):
            if not self.try_next(flow):
                send_call(flow.source.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)

    cdef bint try_next(self, ServedFlow flow) noexcept:
        """Nobody is there. If nothing ever came back go on to the next address, with what was sent last."""
        if flow.is_heard or flow.address + 1 >= flow.target.count:
            return False
        self.hang_up(flow)
        flow.address += 1
        if not self.dial(flow):
            self.end(flow)
            return True
        if flow.last is not None:
            send_call(flow.source.fd, <const char *>flow.last, len(flow.last), MSG_DONTWAIT | MSG_NOSIGNAL)
        return True

    cdef void end(self, SessionFlow flow) noexcept:
        self.hang_up(<ServedFlow>flow)
        self.forget(flow)
        # An event of this turn may still point there.
        self.loop.soon.append(partial(_sockets.discard, flow))

    # ---- towards the peer

    cdef void read(self) noexcept:
        """Take what the sockets have, a batch of each."""
        cdef ServedFlow flow
        cdef list ready = self.ready
        self.ready = []
        for flow in ready:
            flow.is_queued = False
            if flow.source.fd >= 0 and self.read_flow(flow):
                flow_ready(&flow.source, EPOLLIN)
        self.loop.schedule(&self.endpoint.work)

    cdef bint read_flow(self, ServedFlow flow) noexcept:
        """A batch. Whether there may be more."""
        cdef Inbox inbox = flow_inbox()
        cdef int i, n = inbox.receive(flow.source.fd, 0, BATCH, False)
        if n < 0:
            if errno == EAGAIN:
                return False
            if is_nobody(errno):
                self.try_next(flow)
            return True
        flow.is_heard, flow.owes, flow.last = True, False, None
        self.note_use(flow)
        for i in range(n):
            put_slot(self.endpoint.session, self.loop.now_us, &flow.use, flow.association, &inbox.slots[i])
        return n == BATCH


cdef inline bint is_nobody(int error) noexcept nogil:
    """Whether a host, or one on the way, has said that nobody takes what was sent."""
    return error in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH)


_open = set()     # alive until `close`: the loop holds pointers to them
_sockets = set()  # the same, until the end of the turn in which they were closed
