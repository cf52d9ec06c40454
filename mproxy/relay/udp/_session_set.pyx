"""The sessions of a UDP relay: _session_set.pxd."""

import os
from functools import partial

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EADDRINUSE, EAGAIN, EDESTADDRREQ
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc

from mproxy.io._loop cimport EPOLLERR, EPOLLET, EPOLLIN, Source
from mproxy.io._socket cimport Target, close
from mproxy.relay._balance cimport Balance
from mproxy.relay._circle cimport own_forget, own_has, own_note
from mproxy.relay._hops cimport set_hops
from mproxy.relay.udp._batch cimport FEW_SLOTS, NOWHERE
from mproxy.relay.udp._ports cimport port_rest
from mproxy.relay.udp._runs cimport ANY_SEGMENT
from mproxy.relay.udp._sessions cimport Entry, Group, group_ended
from mproxy.relay.udp._udp_dial cimport is_shortage, udp_dial
from mproxy.relay.udp._udp_rule cimport TELL_US
from mproxy.relay.udp._udp_session cimport (
    PATIENCE_US, ready_add, ready_remove, session_begin, session_heard, session_is_owed, session_may_leave,
    session_rest_us, session_without_debt,
)


cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)

cdef enum:
    MOST_ATTEMPTS = 8            # addresses tried for a packet, when they fail at once
    MOST_VICTIMS = 4             # for one newcomer: somebody else may have the port that was left
    NO_PORT_US = 10000           # between two looks for a port that has rested, when there was none: they take time
    ENDS_A_TURN = 1000           # idle sessions closed in one go: about 5 ms
    TIMER_US = 20000             # the timer's grain


cdef void session_ready(Source *source, uint32_t events) noexcept:
    cdef Session *session = <Session *>source.owner
    if events & EPOLLERR:
        session.failed = True
    (<SessionSet>session.owner).enqueue(session)


cdef class SessionSet:
    """At most `most` sessions, of all rules together. Who reads their replies fills in `replies`."""

    def __init__(self, Loop loop, observer, most):
        self.loop = loop
        self.observer = observer
        self.table = SessionTable(most, os.urandom(16))
        self.batch = Batch()

    cdef void end_all(self) noexcept:
        """End every session."""
        while self.table.roll.count:
            self.end(<Session *>self.table.some())
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    # ---- one begins

    cdef Session *open(self, UdpListener listener, Slot *slot, Key *key) noexcept:
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

    cdef void enter(self, Session *session, UdpListener listener, Slot *slot) noexcept:
        """The session is in the table: fill in the rest."""
        cdef Group *group = session.entry.group
        session.source.ready = session_ready
        session.source.owner = session
        session.owner = <void *>self
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
        listener.rule.began()
        if group.idle_us:
            self.look_at(self.loop.now_us + group.idle_us)

    cdef void asks(self, Session *session, Backend backend) noexcept:
        """The session begins to ask an address."""
        Py_INCREF(backend)
        session.backend = <void *>backend
        backend.connections += 1
        (<UdpListener>session.listener).rule.balance.asks(backend, self.loop.now_us)
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
            self.tell_refused(rule, rule.targets_text, -fd)
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

    # ---- it goes on

    cdef void enqueue(self, Session *session) noexcept:
        """The session has replies."""
        if ready_add(&self.ready, session):
            self.loop.schedule(&self.replies)

    cdef void heard(self, Session *session, const Slot *slots, int count) noexcept:
        """Replies came, in so many slots."""
        cdef UdpRule rule = (<UdpListener>session.listener).rule
        cdef Backend backend = <Backend>session.backend
        session_heard(session, slots, count)
        self.table.answers(&session.entry, session.owed == 0, self.loop.now_us)
        rule.balance.answers(backend, self.loop.now_us)
        if backend.failures and rule.balance.worked(backend):
            self.tell(partial(self.observer.on_target_up, rule.key, backend.text))

    cdef void move(self, Session *session) noexcept:
        """Go on with another address, if there is a reason and a better one; the rules: _udp_session.pxd."""
        cdef UdpRule rule = (<UdpListener>session.listener).rule
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

    cdef void hand_over(self, Session *session, UdpListener listener) noexcept:
        """The session belongs to another rule from now on."""
        cdef Group *former = session.entry.group
        self.table.remove(&session.entry)
        session.listener = <void *>listener
        if self.table.insert(&session.entry, &listener.rule.group, session.entry.used_at) < 0:
            self.table.insert(&session.entry, former, session.entry.used_at)

    # ---- it ends

    cdef void let_go(self, Session *session) noexcept:
        """Leave the address, and let the port rest until nothing can come any more."""
        cdef Backend backend = <Backend>session.backend
        cdef Balance balance = (<UdpListener>session.listener).rule.balance
        port_rest(session.port, self.loop.now_us, session_rest_us(session, balance, self.loop.now_us),
                  session_is_owed(session, self.loop.now_us))
        own_forget(session.port)
        self.loop.close(&session.source)
        backend.connections -= 1
        Py_DECREF(backend)

    cdef void evict(self, Session *session) noexcept:
        """Somebody else needs the room; what it sent in this batch still goes, whatever becomes of that."""
        (<UdpListener>session.listener).rule.counts.evicted += 1
        if session.first_slot != NOWHERE:
            self.batch.send_in(session, self.loop.now_us)
        self.end(session)

    cdef void fail(self, Session *session, int error) noexcept:
        """The target, or the way to it, refused (ICMP, or no route): this session is over, the others go on."""
        cdef UdpRule rule = (<UdpListener>session.listener).rule
        cdef Backend backend = <Backend>session.backend
        cdef int64_t began = session.asked_at or self.loop.now_us
        rule.counts.errors += 1
        self.end(session)
        self.failed(rule, backend, began, error)
        self.tell_refused(rule, backend.text, error)

    cdef void end(self, Session *session) noexcept:
        """Give back everything that the session has."""
        cdef UdpRule rule = (<UdpListener>session.listener).rule
        ready_remove(&self.ready, session)
        self.let_go(session)
        self.table.remove(&session.entry)
        self.loop.free_later(session)
        if rule.leaving is not None and rule.group.roll.count == 0:
            rule.dissolve()

    cdef void look_at(self, int64_t at) noexcept:
        """Look for idle sessions then, or before; at < 0: no need to."""
        if at < 0 or self.timer is not None and self.timer.at <= at:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(max(at, self.loop.now_us + TIMER_US), self.end_idle)

    def end_idle(self):
        """End the sessions whose time is over; called by the loop."""
        cdef Group *group = self.table.active
        cdef Group *next_group
        cdef Entry *entry
        cdef int left = ENDS_A_TURN
        self.timer = None
        while group != NULL and left > 0:
            next_group = group.next
            while left > 0:
                entry = group_ended(group, self.loop.now_us)
                if entry == NULL:
                    break
                left -= 1
                (<UdpListener>(<Session *>entry).listener).rule.counts.expired += 1
                self.end(<Session *>entry)
            group = next_group
        self.look_at(self.table.next_end())

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
