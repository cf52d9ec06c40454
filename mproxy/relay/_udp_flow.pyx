"""UDP relay.

Life of a packet to the target: the listener's socket is ready, or a stream has gathered there (_gather.pyx); one
recvmmsg fills the inbox; each message finds its session (or opens one); what a session got is joined to trains and
leaves through its own connected socket.

Life of a reply: the session's socket is ready; recvmmsg; trains again; they wait in the outbox beside the replies of
other sessions, and one sendmmsg through the listener's socket sends them all, each from the address its client knows.

Nothing waits: what the kernel has no room for is dropped and counted. Python runs when a session begins with a target
that does not answer, and by one timer; not for a packet.
"""

import os
from functools import partial

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EMFILE, EMSGSIZE, ENFILE, ENOBUFS, ENOMEM, EPERM, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy, memset

from mproxy.net._loop cimport EPOLLERR, EPOLLET, EPOLLIN, read_clock
from mproxy.net._packets cimport (
    AF_INET, SLOTS, dropped_packets, packet_count, receive_trains, report_local_address,
)
from mproxy.net._socket cimport (
    SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, Target, close, connect, is_spare, set_option, sockaddr,
    set_receive_queue, socket, socklen_t,
)
from mproxy.relay._gather cimport gather_full, gather_is_due, gather_judge
from mproxy.relay._runs cimport ANY_SEGMENT, Run, run_next
from mproxy.relay._sessions cimport Group
from mproxy.relay._udp_rule cimport AVOID_US, TELL_US


cdef extern from "<sys/socket.h>" nogil:
    int SOCK_DGRAM, SO_RCVBUF
    int getsockname(int fd, sockaddr *address, socklen_t *length)

cdef enum:
    BATCHES_A_TURN = 4           # of one listener, before others get their turn
    FEW_SLOTS = 8                # for trains: 512 KiB, about what a cache holds
    TRAIN_BYTES = 8192           # messages longer than this on average are trains
    LISTENER_BUFFER = 4194304    # bytes of a listener's queue; without privileges it may be less (net.core.rmem_max)
    SESSION_BUFFER = 1048576     # of a session's: a few trains
    NOWHERE = -1

# Errors of sending that say nothing about the session: no room, a filter in our own host, a packet too long.
cdef bint is_passing(int error) noexcept nogil:
    return error in (EAGAIN, ENOBUFS, ENOMEM, EPERM, EMSGSIZE, EINTR)


# Errors of opening a socket for which an older session can make room (EAGAIN: no port is left, connect(2)).
cdef bint is_shortage(int error) noexcept nogil:
    return error in (EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN)


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
        cdef int i
        self.touched_count = 0
        for i in range(count):
            slot = &self.inbox.slots[i]
            if slot.cut:
                listener.rule.counts.errors += 1
                continue
            listener.make_key(slot, &key)
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
                self.table.touch(&session.entry, self.loop.now_us)
            else:
                self.next_slot[session.last_slot] = i
            session.last_slot = i
        for i in range(self.touched_count):
            if self.touched[i] != NULL:
                self.send_in(self.touched[i])
        self.touched_count = 0

    cdef void send_in(self, Session *session) noexcept:
        """Send the session's packets of the inbox to its target."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        cdef int slot = session.first_slot, count = 0, i, error = 0
        cdef Message *message
        while slot != NOWHERE:
            self.pieces[count].data = self.inbox.slots[slot].data
            self.pieces[count].length = self.inbox.slots[slot].length
            self.pieces[count].segment = self.inbox.slots[slot].segment
            count += 1
            slot = self.next_slot[slot]
        session.first_slot = NOWHERE
        self.touched[session.touched_index] = NULL
        self.pack(session, count, True)
        self.outbox.flush(session.source.fd, False)
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            rule.counts.packets_in += message.sent
            rule.counts.bytes_in += message.sent_bytes
            if message.fell_back:
                session.in_limit = min(session.in_limit, message.segment)
            if message.error and is_passing(message.error):
                rule.counts.errors += message.packets - message.sent
            elif message.error:
                error = message.error
        self.outbox.clear()
        if error:
            self.fail(session, error)

    cdef void pack(self, Session *session, int count, bint inward) noexcept:
        """Put the first `count` pieces into the outbox, joined to trains."""
        cdef uint32_t limit = session.in_limit if inward else session.out_limit
        cdef Message *message
        cdef Run run
        cdef int done = 0, i
        while done < count:
            run_next(&self.pieces[done], count - done, limit, &run)
            if inward:
                message = self.outbox.add(NULL, 0, NULL)
            else:
                message = self.outbox.add(&session.client, session.client_bytes, &session.local)
            message.owner = session
            for i in range(done, done + run.pieces):
                self.outbox.add_part(self.pieces[i].data, self.pieces[i].length)
            self.outbox.finish(run.segment, run.one_by_one)
            done += run.pieces

    # ---- towards the client

    cdef void read_replies(self) noexcept:
        """One read of every session that is ready now."""
        cdef Session *session
        cdef Listener listener = None
        cdef uint32_t left = self.queued
        cdef int used = 0, n
        self.loop.light_turns = 0  # as in `read_batch`
        while left > 0 and self.first != NULL:
            left -= 1
            session = self.first
            self.dequeue(session)
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
        if self.first != NULL:
            self.loop.schedule(&self.work)

    cdef int read_reply(self, Session *session, int first) noexcept:
        """Read into the slots from `first` on, and pack; returns how many, or -1 with errno when the session failed."""
        cdef Slot *slot
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
            slot = &self.inbox.slots[first + i]
            self.pieces[i].data = slot.data
            self.pieces[i].length = slot.length
            self.pieces[i].segment = slot.segment
            length += slot.length
        session.most_slots = adapt(session.most_slots, n, length)
        self.pack(session, n, False)
        self.table.touch(&session.entry, self.loop.now_us)
        if (<Destination>session.destination).avoid_until:
            self.recovered(session)
        return n

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
        cdef Destination destination
        cdef int fd
        if not rule.admits(&slot.sender.any):
            return NULL
        destination = rule.choose(self.loop.now_us)
        if destination is None:
            if rule.destinations:
                self.tell_refused(rule, rule.destinations[0], 0)
            return NULL
        self.make_room(rule, key)
        fd = self.dial(destination)
        if fd < 0 and is_shortage(-fd) and self.table.line.first != NULL:
            self.evict(<Session *>self.table.line.first)
            fd = self.dial(destination)
        if fd < 0:
            rule.counts.errors += 1
            self.refused(rule, destination, -fd)
            return NULL
        session = <Session *>calloc(1, sizeof(Session))
        if session == NULL:
            close(fd)
            return NULL
        session.entry.key = key[0]
        session.source.fd = fd
        session.destination = <void *>destination
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
        Py_INCREF(<object>session.destination)
        (<Destination>session.destination).sessions += 1
        listener.rule.counts.total += 1
        if group.idle_us:
            self.idle_at(self.loop.now_us + group.idle_us)

    cdef int make_room(self, UdpRule rule, const Key *key) noexcept:
        """Evict until the bounds let one more in; returns how many went."""
        cdef Session *victim = <Session *>self.table.victim(&rule.group, key)
        cdef int gone = 0
        while victim != NULL:
            self.evict(victim)
            gone += 1
            victim = <Session *>self.table.victim(&rule.group, key)
        return gone

    cdef int dial(self, Destination destination) noexcept:
        """A socket connected to the first address that works; or -errno."""
        cdef Target target = destination.target
        cdef int fd, index, error = 0
        for index in range(target.count):
            fd = socket(target.addresses[index].ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
            if fd < 0:
                return -errno
            if is_spare(fd):
                close(fd)
                return -EMFILE
            if connect(fd, <sockaddr *>&target.addresses[index], target.lengths[index]) == 0:
                receive_trains(fd)
                set_option(fd, SOL_SOCKET, SO_RCVBUF, SESSION_BUFFER)
                return fd
            error = errno
            close(fd)
        return -error

    cdef void evict(self, Session *session) noexcept:
        """Somebody else needs the room; what it sent in this batch still goes."""
        (<Listener>session.listener).rule.counts.evicted += 1
        if session.first_slot != NOWHERE:
            self.send_in(session)
        self.end(session)

    cdef void fail(self, Session *session, int error) noexcept:
        """The target, or the way to it, refused (ICMP, or no route): this session is over, the others go on."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        destination = <Destination>session.destination
        rule.counts.errors += 1
        self.end(session)
        self.refused(rule, destination, error)

    cdef void end(self, Session *session) noexcept:
        """Give back everything that the session has."""
        cdef UdpRule rule = (<Listener>session.listener).rule
        self.dequeue(session)
        self.table.remove(&session.entry)
        self.loop.close(&session.source)
        (<Destination>session.destination).sessions -= 1
        Py_DECREF(<object>session.destination)
        self.loop.free_later(session)
        if rule.leaving and rule.group.line.count == 0:
            self.rule_ended(rule)

    cdef void enqueue(self, Session *session) noexcept:
        """The session has replies."""
        if session.queued:
            return
        session.queued = True
        session.next = NULL
        session.prev = self.last
        if self.last != NULL:
            self.last.next = session
        else:
            self.first = session
        self.last = session
        self.queued += 1
        self.loop.schedule(&self.work)

    cdef void dequeue(self, Session *session) noexcept:
        if not session.queued:
            return
        session.queued = False
        if session.prev != NULL:
            session.prev.next = session.next
        else:
            self.first = session.next
        if session.next != NULL:
            session.next.prev = session.prev
        else:
            self.last = session.prev
        self.queued -= 1

    # ---- who is told

    cdef void refused(self, UdpRule rule, Destination destination, int error) noexcept:
        """A session failed: prefer other targets for a while, and say so."""
        cdef int64_t now = self.loop.now_us
        if len(rule.destinations) > 1:
            if destination.avoid_until == 0:
                self.tell("on_target_down", (rule.key, destination.target.text))
            destination.avoid_until = now + AVOID_US
        self.tell_refused(rule, destination, error)

    cdef void tell_refused(self, UdpRule rule, Destination destination, int error) noexcept:
        """A session could not be had; error 0: no address is known."""
        cdef int64_t now = self.loop.now_us
        if rule.told_at == 0 or now - rule.told_at >= TELL_US:
            rule.told_at = now
            self.tell("on_refused", (rule.key, destination.target.text, error))

    cdef void recovered(self, Session *session) noexcept:
        """A target that refused answers again."""
        destination = <Destination>session.destination
        destination.avoid_until = 0
        self.tell("on_target_up", ((<Listener>session.listener).rule.key, destination.target.text))

    cdef void tell(self, str event, tuple arguments) noexcept:
        self.loop.guard(partial(getattr(self.observer, event), *arguments), None)


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

    cdef void make_key(self, const Slot *slot, Key *out) noexcept:
        """Whose session a packet belongs to."""
        cdef const Address *sender = &slot.sender
        memset(out, 0, sizeof(Key))
        if sender.any.sa_family == AF_INET:
            out.client[10] = out.client[11] = 0xFF
            memcpy(&out.client[12], &sender.v4.sin_addr, 4)
            out.client_port = sender.v4.sin_port
        else:
            memcpy(out.client, &sender.v6.sin6_addr, 16)
            out.client_port = sender.v6.sin6_port
            out.scope = sender.v6.sin6_scope_id
        if self.is_wildcard:
            memcpy(out.local, slot.local.bytes, 16)
        elif self.bound.any.sa_family == AF_INET:
            memcpy(out.local, &self.bound.v4.sin_addr, 4)
        else:
            memcpy(out.local, &self.bound.v6.sin6_addr, 16)
        out.local_port = self.bound.v4.sin_port  # at the same place in both families
