"""UDP relay.

Life of a packet to the target: the listener's socket is ready, or a stream has gathered there (_gather.pyx); one
recvmmsg fills the inbox; each message finds its session (or opens one); what a session got is joined to trains and
leaves through its own connected socket.

Life of a reply: the session's socket is ready; recvmmsg; trains again; they wait in the outbox beside the replies of
other sessions, and one sendmmsg through the listener's socket sends them all, each from the address its client knows.

Nothing waits: what the kernel has no room for is dropped and counted. Python runs when a session begins, or looks for
another address, and by one timer; not for a packet.
"""

import os
from functools import partial

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EADDRINUSE, EAGAIN, EDESTADDRREQ, EINTR, EMSGSIZE, errno
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memset

from mproxy.io._loop cimport EPOLLERR, EPOLLET, EPOLLIN, read_clock
from mproxy.io._packets cimport (
    AF_INET, SLOTS, Address, Message, Slot, dropped_packets, packet_count, receive_trains, report_hops,
    report_local_address,
)
from mproxy.io._socket cimport Target, close, set_receive_queue, sockaddr, socklen_t
from mproxy.relay._balance cimport Backend, Balance
from mproxy.relay._circle cimport own_forget, own_has, own_note
from mproxy.relay.udp._gather cimport gather_full, gather_is_due, gather_judge
from mproxy.relay._hops cimport set_hops
from mproxy.relay.udp._packer cimport Packer
from mproxy.relay.udp._ports cimport port_rest
from mproxy.relay.udp._runs cimport ANY_SEGMENT
from mproxy.relay.udp._sessions cimport Group, Key
from mproxy.relay.udp._udp_dial cimport is_passing, is_shortage, udp_dial
from mproxy.relay.udp._udp_rule cimport TELL_US
from mproxy.relay.udp._udp_session cimport (
    PATIENCE_US, ready_add, ready_remove, session_begin, session_heard, session_is_due, session_is_owed, session_key,
    session_may_leave, session_rest_us, session_sent, session_without_debt,
)


cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)

cdef extern from "<sys/socket.h>" nogil:
    int getsockname(int fd, sockaddr *address, socklen_t *length)

cdef enum:
    MOST_ATTEMPTS = 8            # addresses tried for a packet, when they fail at once
    MOST_VICTIMS = 4             # for one newcomer: somebody else may have the port that was left
    NO_PORT_US = 10000           # between two looks for a port that has rested, when there was none: they take time
    BATCHES_A_TURN = 4           # of one listener, before others get their turn
    FEW_SLOTS = 8                # for trains: 512 KiB, about what a cache holds
    TRAIN_BYTES = 8192           # messages longer than this on average are trains
    LISTENER_BUFFER = 4194304    # bytes of a listener's queue; without privileges it may be less (net.core.rmem_max)
    NOWHERE = -1

cdef inline int adapt(int most, int n, size_t length) noexcept nogil:
    """How many slots to read into next time, after `n` messages of so many bytes together."""
    if length > <size_t>n * TRAIN_BYTES:
        return FEW_SLOTS
    return SLOTS if n == most else most


cdef class UdpFlow:
    """What happens to packets; rules come and go in UdpRelay. `max_sessions`: of all rules together."""

    def __init__(self, Loop loop, observer, max_sessions):
        self.loop = loop
        self.observer = observer
        self.table = SessionTable(max_sessions, os.urandom(16))
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.packer = Packer(self.outbox)
        self.work.run = run_replies
        self.work.owner = <void *>self
        self.look.run = run_gathering
        self.look.owner = <void *>self
        self.gathering = []
        self.alarm = Alarm()
        self.can_gather = self.alarm.open(loop, &self.look) == 0

    cdef void rule_ended(self, UdpRule rule) noexcept:
        """The last session of a removed rule has ended."""

    cdef void idle_at(self, int64_t at) noexcept:
        """A session may be idle then."""

    # ---- towards the target

    cdef void deliver(self, Listener listener, int count) noexcept:
        """Send on what the inbox holds."""
        cdef Session *session = NULL
        cdef Slot *slot
        cdef Key key
        cdef int i, error
        self.touched_count = 0
        for i in range(count):
            slot = &self.inbox.slots[i]
            if slot.cut:
                listener.rule.counts.errors += 1
                continue
            session_key(slot, &listener.bound, listener.is_wildcard, &key)
            # Packets of one client tend to come together.
            if session == NULL or memcmp(&session.entry.key, &key, sizeof(Key)) != 0:
                session = <Session *>self.table.find(&key)
                if session == NULL:
                    session = self.open(listener, slot, &key)
                    if session == NULL:
                        listener.rule.counts.refused += packet_count(slot.length, slot.segment)
                        continue
            self.next_slot[i] = NOWHERE
            if session.first_slot == NOWHERE:
                session.first_slot = i
                session.touched_index = self.touched_count
                self.touched[self.touched_count] = session
                self.touched_count += 1
                self.table.asks(&session.entry, self.loop.now_us)
            else:
                self.next_slot[session.last_slot] = i
            session.last_slot = i
        for i in range(self.touched_count):
            session = self.touched[i]
            if session != NULL:
                if session_is_due(session, self.loop.now_us):
                    self.move(session)
                if (error := self.send_in(session)):
                    self.fail(session, error)
        self.touched_count = 0

    cdef int send_in(self, Session *session) noexcept:
        """Send the session's packets of the inbox to its target; 0, or the errno with which it has failed."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        cdef int slot = session.first_slot, i, error = 0
        cdef uint32_t sent = 0
        cdef Message *message
        while slot != NOWHERE:
            self.packer.take(self.inbox, slot)
            slot = self.next_slot[slot]
        session.first_slot = NOWHERE
        self.touched[session.touched_index] = NULL
        self.packer.pack(session, True)
        self.outbox.flush(session.source.fd, False)
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            sent += message.sent
            rule.counts.bytes_in += message.sent_bytes
            if message.fell_back:
                session.in_limit = min(session.in_limit, message.segment)
            if message.error and is_passing(message.error):
                rule.counts.errors += message.packets - message.sent
            elif message.error:
                error = message.error
        self.outbox.clear()
        rule.counts.packets_in += sent
        session_sent(session, sent, self.loop.now_us)
        return error

    # ---- towards the client

    cdef void read_replies(self) noexcept:
        """One read of every session that is ready now."""
        cdef Session *session
        cdef Listener listener = None
        cdef uint32_t left = self.ready.count
        cdef int used = 0, n
        self.loop.light_turns = 0  # as in `read_batch`
        while left > 0 and self.ready.first != NULL:
            left -= 1
            session = self.ready.first
            ready_remove(&self.ready, session)
            if self.outbox.count and (<void *>listener != session.listener or used + session.most_slots > SLOTS):
                self.flush_out(listener)
            if self.outbox.count == 0:
                used = 0
            listener = <Listener>session.listener
            n = self.read_reply(session, used)
            if n < 0:
                n = errno
                self.flush_out(listener)
                self.fail(session, n)
            else:
                used += n
        if self.outbox.count:
            self.flush_out(listener)
        if self.ready.first != NULL:
            self.loop.schedule(&self.work)

    cdef int read_reply(self, Session *session, int first) noexcept:
        """Read into the slots from `first` on, and pack; returns how many, or -1 with errno when the session failed."""
        cdef size_t length = 0
        cdef int i, n
        n = self.inbox.receive(session.source.fd, first, session.most_slots, False)
        if n < 0:
            if errno == EAGAIN:
                session.failed = False
                return 0
            if errno != EINTR and errno != EMSGSIZE:  # EMSGSIZE: an ICMP told the kernel the path's MTU
                return -1
            n = 0
            session.failed = True
        if n == session.most_slots or session.failed:
            self.enqueue(session)
        if n == 0:
            return 0
        for i in range(n):
            self.packer.take(self.inbox, first + i)
            length += self.inbox.slots[first + i].length
        session.most_slots = adapt(session.most_slots, n, length)
        self.packer.pack(session, False)
        self.heard(session, first, n)
        return n

    cdef void heard(self, Session *session, int first, int count) noexcept:
        """Replies came, in so many slots."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        cdef Backend backend = <Backend>session.backend
        session_heard(session, &self.inbox.slots[first], count)
        self.table.answers(&session.entry, session.owed == 0, self.loop.now_us)
        rule.balance.answers(backend, self.loop.now_us)
        if backend.failures and rule.balance.worked(backend):
            self.tell(partial(self.observer.on_target_up, rule.key, backend.text))

    cdef void flush_out(self, Listener listener) noexcept:
        """Send the replies in the outbox."""
        cdef Message *message
        cdef Session *session
        cdef int i
        self.outbox.flush(listener.source.fd, False)
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            session = <Session *>message.owner
            listener.rule.counts.packets_out += message.sent
            listener.rule.counts.bytes_out += message.sent_bytes
            if message.fell_back:
                session.out_limit = min(session.out_limit, message.segment)
            if message.error:
                listener.rule.counts.errors += message.packets - message.sent
        self.outbox.clear()

    # ---- life of a session

    cdef Session *open(self, Listener listener, Slot *slot, Key *key) noexcept:
        """A new session for the sender of this packet, or NULL: it is not let in, or can't be had."""
        cdef UdpRule rule = listener.rule
        cdef Session *session
        cdef uint16_t port = 0
        cdef int fd
        if not rule.admits(&slot.sender.any):
            return NULL
        if own_has(key.client, ntohs(key.client_port)) or rule.goes_round(slot, key):
            self.tell(partial(self.observer.on_circle, rule.key))
            return NULL
        self.make_room(rule, key)
        fd = self.find_room(rule, &port)
        if fd < 0:
            return NULL
        session = <Session *>calloc(1, sizeof(Session))
        if session == NULL:
            close(fd)
            return NULL
        session.entry.key = key[0]
        session.source.fd = fd
        session.port = port
        session.backend = <void *>self.dialled
        if slot.hops:
            set_hops(fd, self.dialled.target.addresses[self.dialled.index].ss_family, slot.hops - 1)
        if self.loop.add(&session.source, EPOLLIN | EPOLLET) < 0 or \
                self.table.insert(&session.entry, &rule.group, self.loop.now_us) < 0:
            close(fd)
            self.loop.free_later(session)
            return NULL
        self.enter(session, listener, slot)
        return session

    cdef void enter(self, Session *session, Listener listener, Slot *slot) noexcept:
        """The session is in the table: fill in the rest."""
        cdef Group *group = session.entry.group
        session.source.ready = session_ready
        session.source.owner = session
        session.listener = <void *>listener
        session.client = slot.sender
        session.client_bytes = slot.sender_bytes
        session.local = slot.local
        session.in_limit = session.out_limit = ANY_SEGMENT
        session.most_slots = FEW_SLOTS
        session.first_slot = NOWHERE
        session.patience_us = PATIENCE_US
        self.asks(session, <Backend>session.backend)
        own_note(session.port, session.source.fd)
        if listener.rule.began():
            for each in listener.rule.listeners:
                report_hops((<Listener>each).source.fd, listener.rule.hops.counting)
        if group.idle_us:
            self.idle_at(self.loop.now_us + group.idle_us)

    cdef void asks(self, Session *session, Backend backend) noexcept:
        """The session begins to ask an address."""
        Py_INCREF(backend)
        session.backend = <void *>backend
        backend.connections += 1
        (<Listener>session.listener).rule.balance.asks(backend, self.loop.now_us)
        session_begin(session)

    cdef int make_room(self, UdpRule rule, const Key *key) noexcept:
        """Evict until the bounds let one more in; returns how many went."""
        cdef Session *victim = <Session *>self.table.victim(&rule.group, key)
        cdef int gone = 0
        while victim != NULL:
            self.evict(victim)
            gone += 1
            victim = <Session *>self.table.victim(&rule.group, key)
        return gone

    cdef int find_room(self, UdpRule rule, uint16_t *port) noexcept:
        """`dial`, and when the system has no descriptor or port left, in the place of another session. Or -errno."""
        cdef int fd = -EADDRINUSE, _attempt
        if self.loop.now_us >= self.no_port_until or not rule.balance.backends:
            fd = self.dial(rule, port)
        for _attempt in range(MOST_VICTIMS):
            if not (fd == -EADDRINUSE or fd < 0 and is_shortage(-fd)) or not self.give_way(-fd, port):
                break
            fd = self.dial(rule, port)
        if fd == -EADDRINUSE or fd < 0 and is_shortage(-fd):
            rule.counts.errors += 1
            self.tell_refused(rule, rule.rule.targets_text, -fd)
        return fd

    cdef bint give_way(self, int error, uint16_t *port) noexcept:
        """Evict somebody for the sake of what is short; true when that may help. `port`: the one that is free now."""
        cdef Session *victim
        if error == EADDRINUSE or error == EAGAIN:
            victim = session_without_debt(&self.table.roll, self.loop.now_us)
            port[0] = victim.port if victim != NULL else 0
        else:
            victim = <Session *>self.table.some()
            port[0] = 0
        if victim != NULL:
            self.evict(victim)
        return victim != NULL

    cdef int dial(self, UdpRule rule, uint16_t *port) noexcept:
        """A socket connected to an address of the rule, `dialled`, or the next where that one can't be reached. Or
        -errno: of a shortage, which is the caller's to tell, or because nothing is left to try."""
        cdef Balance balance = rule.balance
        cdef int fd = 0
        for _attempt in range(min(len(balance.backends), MOST_ATTEMPTS)):
            self.dialled = balance.choose(self.loop.now_us, None)
            if self.dialled.failures:
                self.tell_down(rule, self.dialled)
            fd = self.connect(self.dialled, port)
            if fd >= 0 or fd == -EADDRINUSE or is_shortage(-fd):
                return fd
            self.failed(rule, self.dialled, self.loop.now_us, -fd)
        if fd < 0:
            rule.counts.errors += 1
            self.tell_refused(rule, self.dialled.text, -fd)
        elif balance.targets:
            self.tell_refused(rule, (<Target>balance.targets[0]).text, 0)
        return fd or -EDESTADDRREQ

    cdef int connect(self, Backend backend, uint16_t *port) noexcept:
        """A socket connected to an address; or -errno, EADDRINUSE: all ports seem to rest."""
        cdef int fd = udp_dial(backend.target, backend.index, self.loop.now_us, port)
        if fd == -EADDRINUSE:
            self.no_port_until = self.loop.now_us + NO_PORT_US
        return fd

    cdef void let_go(self, Session *session) noexcept:
        """Leave the address, and let the port rest until nothing can come any more."""
        cdef Backend backend = <Backend>session.backend
        cdef Balance balance = (<Listener>session.listener).rule.balance
        port_rest(session.port, self.loop.now_us, session_rest_us(session, balance, self.loop.now_us),
                  session_is_owed(session, self.loop.now_us))
        own_forget(session.port)
        self.loop.close(&session.source)
        backend.connections -= 1
        Py_DECREF(backend)

    # ---- another address

    cdef void move(self, Session *session) noexcept:
        """Go on with another address, if there is a reason and a better one; the rules: _udp_session.pxd."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        cdef Backend former = <Backend>session.backend
        cdef Backend backend = None
        cdef uint16_t port = 0
        cdef int fd
        if session_may_leave(session, rule.balance, self.loop.now_us):
            backend = rule.balance.choose(self.loop.now_us, [former])
        if backend is None:
            session.asked_at = self.loop.now_us  # look again when patience has ended again
            return
        if backend.failures:
            self.tell_down(rule, backend)
        fd = self.connect(backend, &port)
        if fd < 0:
            if fd != -EADDRINUSE and not is_shortage(-fd):
                self.failed(rule, backend, self.loop.now_us, -fd)
            session.asked_at = self.loop.now_us
            return
        if not former.gone:
            rule.balance.asks(former, self.loop.now_us)  # who asks again counts as another who was not answered
        self.let_go(session)
        self.asks(session, backend)
        session.in_limit = ANY_SEGMENT
        session.port = port
        own_note(port, fd)
        session.source.fd = fd
        if self.loop.add(&session.source, EPOLLIN | EPOLLET) < 0:
            session.failed = True
            self.enqueue(session)

    cdef void evict(self, Session *session) noexcept:
        """Somebody else needs the room; what it sent in this batch still goes, whatever becomes of that."""
        (<Listener>session.listener).rule.counts.evicted += 1
        if session.first_slot != NOWHERE:
            self.send_in(session)
        self.end(session)

    cdef void fail(self, Session *session, int error) noexcept:
        """The target, or the way to it, refused (ICMP, or no route): this session is over, the others go on."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        cdef Backend backend = <Backend>session.backend
        cdef int64_t began = session.asked_at or self.loop.now_us
        rule.counts.errors += 1
        self.end(session)
        self.failed(rule, backend, began, error)
        self.tell_refused(rule, backend.text, error)

    cdef void end(self, Session *session) noexcept:
        """Give back everything that the session has."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        ready_remove(&self.ready, session)
        self.let_go(session)
        self.table.remove(&session.entry)
        self.loop.free_later(session)
        if rule.leaving and rule.group.roll.count == 0:
            self.rule_ended(rule)

    cdef void enqueue(self, Session *session) noexcept:
        """The session has replies."""
        if ready_add(&self.ready, session):
            self.loop.schedule(&self.work)

    # ---- who is told

    cdef void failed(self, UdpRule rule, Backend backend, int64_t began, int error) noexcept:
        """A session failed that asked since `began`: prefer other addresses for a while, and say so."""
        if rule.balance.failed(backend, began, self.loop.now_us, error):
            self.tell(partial(self.observer.on_target_down, rule.key, backend.text, error))

    cdef void tell_down(self, UdpRule rule, Backend backend) noexcept:
        """A session tries an address that was left out: nobody who tried before was answered."""
        if rule.balance.is_news(backend):
            self.tell(partial(self.observer.on_target_down, rule.key, backend.text, backend.error))

    cdef void tell_refused(self, UdpRule rule, str target, int error) noexcept:
        """A session could not be had; error 0: no address is known."""
        cdef int64_t now = self.loop.now_us
        if rule.told_at == 0 or now - rule.told_at >= TELL_US:
            rule.told_at = now
            self.tell(partial(self.observer.on_refused, rule.key, target, error))

    cdef void tell(self, event) noexcept:
        self.loop.guard(event, None)


_listeners = set()  # the loop holds pointers to them, to the end of the turn in which they were closed


cdef void run_replies(Work *work) noexcept:
    (<UdpFlow>work.owner).read_replies()


cdef void session_ready(Source *source, uint32_t events) noexcept:
    cdef Session *session = <Session *>source.owner
    if events & EPOLLERR:
        session.failed = True
    (<Listener>session.listener).flow.enqueue(session)


cdef void listener_ready(Source *source, uint32_t events) noexcept:
    cdef Listener listener = <Listener>source.owner
    listener.flow.loop.schedule(&listener.work)


cdef void run_gathering(Work *work) noexcept:
    """Read all listeners whose packets gather: the alarm rings for the first of them."""
    cdef UdpFlow flow = <UdpFlow>work.owner
    for listener in list(flow.gathering):
        (<Listener>listener).read()


cdef void run_listener(Work *work) noexcept:
    (<Listener>work.owner).read()


cdef class Listener:
    """One bound socket of a rule: a duplicate of `fd`."""

    def __cinit__(self, UdpFlow flow, UdpRule rule, int fd):
        cdef socklen_t length = sizeof(Address)
        cdef uint8_t zeros[16]
        self.flow = flow
        self.rule = rule
        if getsockname(fd, &self.bound.any, &length) < 0:
            raise OSError(errno, os.strerror(errno))
        self.source.fd = os.dup(fd)
        self.source.ready = listener_ready
        self.source.owner = <void *>self
        self.work.run = run_listener
        self.work.owner = <void *>self
        self.most_slots = SLOTS
        memset(zeros, 0, sizeof(zeros))
        if self.bound.any.sa_family == AF_INET:
            self.is_wildcard = self.bound.v4.sin_addr.s_addr == 0
        else:
            self.is_wildcard = memcmp(&self.bound.v6.sin6_addr, zeros, sizeof(zeros)) == 0
        if self.is_wildcard:
            report_local_address(fd, self.bound.any.sa_family)
        receive_trains(fd)
        self.gather.full = gather_full(set_receive_queue(fd, LISTENER_BUFFER))
        if flow.loop.add(&self.source, EPOLLIN | EPOLLET) < 0:
            os.close(self.source.fd)
            raise OSError(errno, os.strerror(errno))
        _listeners.add(self)

    def stop(self):
        """Close the socket."""
        cdef int fd = self.source.fd
        if fd < 0:
            return
        self.count_dropped()
        self.set_gathering(False)
        self.flow.loop.unschedule(&self.work)
        self.flow.loop.remove(&self.source)
        close(fd)
        self.flow.loop.soon.append(partial(_listeners.discard, self))

    cdef void read(self) noexcept:
        """Read until the socket is empty, or others should have their turn; then wait for more, or let it gather."""
        cdef int _batch
        cdef bint more = True
        cdef int64_t now = self.flow.loop.now_us
        for _batch in range(BATCHES_A_TURN):
            more = self.read_batch()
            if not more:
                break
        if self.source.fd < 0:
            return
        if gather_is_due(&self.gather, now):
            if self.gathers:
                self.count_dropped()
            gather_judge(&self.gather, now, self.rule.counts.packets_out, self.dropped)
            self.set_gathering(self.gather.wait_us > 0)
        if more:
            self.flow.loop.schedule(&self.work)
        elif self.gathers:
            self.flow.alarm.set(min(self.flow.alarm.at, read_clock() + self.gather.wait_us))

    cdef void set_gathering(self, bint on) noexcept:
        """Whether the alarm, in place of arriving packets, has the socket read."""
        if on == self.gathers or on and not self.flow.can_gather:
            return
        self.gathers = on
        if on:
            self.flow.gathering.append(self)
        else:
            self.flow.gathering.remove(self)
        self.flow.loop.modify(&self.source, EPOLLET | (0 if on else EPOLLIN))

    cdef bint read_batch(self) noexcept:
        """Relay what one call receives; false when the socket was empty, or was closed."""
        cdef int n, i
        cdef size_t length = 0
        cdef int most = self.most_slots
        if self.source.fd < 0:
            return False
        self.flow.loop.light_turns = 0  # the loop's looking for an answer would cost more than it gives
        n = self.flow.inbox.receive(self.source.fd, 0, most, True)
        if n < 0:
            return errno != EAGAIN
        for i in range(n):
            length += self.flow.inbox.slots[i].length
        self.most_slots = adapt(most, n, length)
        self.gather.came += n
        self.flow.deliver(self, n)
        return n == most

    cdef void count_dropped(self) noexcept:
        """Take over the kernel's count of packets dropped at this socket."""
        cdef uint32_t dropped
        if self.source.fd >= 0:
            dropped = dropped_packets(self.source.fd)
            self.rule.counts.dropped += <uint32_t>(dropped - self.dropped)
            self.dropped = dropped
