"""The way of packets through a UDP relay.

To the target: the listener's socket is ready, or a stream has gathered there (_gather.pyx); one recvmmsg fills the
inbox; each message finds its session (or opens one); what a session got is joined to trains and leaves through its own
connected socket.

To the client: the session's socket is ready; recvmmsg; trains again; they wait in the outbox beside the replies of
other sessions, and one sendmmsg through the listener's socket sends them all, each from the address its client knows.

Nothing waits: what the kernel has no room for is dropped and counted. Python runs when a session begins, or looks for
another address, and by one timer; not for a packet.
"""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp

from mproxy.io._loop cimport read_clock
from mproxy.io._packets cimport SLOTS, Slot, packet_count
from mproxy.relay.udp._batch cimport slots_next_time
from mproxy.relay.udp._gather cimport gather_is_due, gather_judge
from mproxy.relay.udp._sessions cimport Key
from mproxy.relay.udp._udp_session cimport ready_remove, session_is_due, session_key


cdef enum:
    BATCHES_A_TURN = 4           # of one listener, before others get their turn


cdef void run_listener(Work *work) noexcept:
    cdef UdpListener listener = <UdpListener>work.owner
    (<Forwarder>listener.forwarder).read(listener)


cdef void run_gathering(Work *work) noexcept:
    """Read all listeners whose packets gather: the alarm rings for the first of them."""
    cdef Forwarder forwarder = <Forwarder>work.owner
    for listener in list(forwarder.gathering):
        forwarder.read(<UdpListener>listener)


cdef void run_replies(Work *work) noexcept:
    (<Forwarder>work.owner).read_replies()


cdef class Forwarder:
    """`sessions`, which has their replies read here from now on. Whoever makes it keeps it until its loop has done a
    turn after `close`."""

    def __init__(self, SessionSet sessions):
        self.loop = sessions.loop
        self.sessions = sessions
        self.batch = sessions.batch
        sessions.replies.run = run_replies
        sessions.replies.owner = <void *>self
        self.look.run = run_gathering
        self.look.owner = <void *>self
        self.alarm = Alarm()
        self.gathering = [] if self.alarm.open(self.loop, &self.look) == 0 else None

    cdef void close(self) noexcept:
        """Read nothing any more."""
        self.alarm.close()
        self.loop.unschedule(&self.look)
        self.loop.unschedule(&self.sessions.replies)

    cdef void listen(self, UdpListener listener) noexcept:
        """Have the listener read here."""
        listener.gathering = self.gathering
        listener.forwarder = <void *>self
        listener.work.run = run_listener
        listener.work.owner = <void *>listener

    # ---- towards the target

    cdef void read(self, UdpListener listener) noexcept:
        """Read until the socket is empty, or others should have their turn; then wait for more, or let it gather."""
        cdef int _batch
        cdef bint more = True
        cdef int64_t now = self.loop.now_us
        for _batch in range(BATCHES_A_TURN):
            more = self.read_batch(listener)
            if not more:
                break
        if listener.source.fd < 0:
            return
        if gather_is_due(&listener.gather, now):
            if listener.gathers:
                listener.count_dropped()
            gather_judge(&listener.gather, now, listener.rule.counts.packets_out, listener.dropped)
            listener.set_gathering(listener.gather.wait_us > 0)
        if more:
            self.loop.schedule(&listener.work)
        elif listener.gathers:
            self.alarm.set(min(self.alarm.at, read_clock() + listener.gather.wait_us))

    cdef bint read_batch(self, UdpListener listener) noexcept:
        """Relay what one call receives; false when the socket was empty, or was closed."""
        cdef int n, i
        cdef size_t length = 0
        cdef int most = listener.most_slots
        if listener.source.fd < 0:
            return False
        self.loop.light_turns = 0  # the loop's looking for an answer would cost more than it gives
        n = self.batch.inbox.receive(listener.source.fd, 0, most, True)
        if n < 0:
            return errno != EAGAIN
        for i in range(n):
            length += self.batch.inbox.slots[i].length
        listener.most_slots = slots_next_time(most, n, length)
        listener.gather.came += n
        self.deliver(listener, n)
        return n == most

    cdef void deliver(self, UdpListener listener, int count) noexcept:
        """Send on what the inbox holds."""
        cdef Batch batch = self.batch
        cdef SessionSet sessions = self.sessions
        cdef Session *session = NULL
        cdef Slot *slot
        cdef Key key
        cdef int i, error
        batch.touched_count = 0
        for i in range(count):
            slot = &batch.inbox.slots[i]
            if slot.cut:
                listener.rule.counts.errors += 1
                continue
            session_key(slot, &listener.bound, listener.is_wildcard, &key)
            # Packets of one client tend to come together.
            if session == NULL or memcmp(&session.entry.key, &key, sizeof(Key)) != 0:
                session = <Session *>sessions.table.find(&key)
                if session == NULL:
                    session = sessions.open(listener, slot, &key)
                    if session == NULL:
                        listener.rule.counts.refused += packet_count(slot.length, slot.segment)
                        continue
            if batch.put(session, i):
                sessions.table.asks(&session.entry, self.loop.now_us)
        for i in range(batch.touched_count):
            session = batch.touched[i]
            if session == NULL:
                continue
            if session_is_due(session, self.loop.now_us):
                sessions.move(session)
            error = batch.send_in(session, self.loop.now_us)
            if error:
                sessions.fail(session, error)
        batch.touched_count = 0

    # ---- towards the client

    cdef void read_replies(self) noexcept:
        """One read of every session that is ready now."""
        cdef SessionSet sessions = self.sessions
        cdef Session *session
        cdef UdpListener listener = None
        cdef uint32_t left = sessions.ready.count
        cdef int used = 0, n
        self.loop.light_turns = 0  # as in `read_batch`
        while left > 0 and sessions.ready.first != NULL:
            left -= 1
            session = sessions.ready.first
            ready_remove(&sessions.ready, session)
            if self.batch.outbox.count and (
                    <void *>listener != session.listener or used + session.most_slots > SLOTS):
                self.batch.flush_out(listener)
            if self.batch.outbox.count == 0:
                used = 0
            listener = <UdpListener>session.listener
            n = self.read_reply(session, used)
            if n < 0:
                n = errno
                self.batch.flush_out(listener)
                sessions.fail(session, n)
            else:
                used += n
        if self.batch.outbox.count:
            self.batch.flush_out(listener)
        if sessions.ready.first != NULL:
            self.loop.schedule(&sessions.replies)

    cdef int read_reply(self, Session *session, int first) noexcept:
        """Read into the slots from `first` on, and pack; returns how many, or -1 with errno when the session failed."""
        cdef int n = self.batch.inbox.receive(session.source.fd, first, session.most_slots, False)
        if n < 0:
            if errno == EAGAIN:
                session.failed = False
                return 0
            if errno != EINTR and errno != EMSGSIZE:  # EMSGSIZE: an ICMP told the kernel the path's MTU
                return -1
            n = 0
            session.failed = True
        if n == session.most_slots or session.failed:
            self.sessions.enqueue(session)
        if n == 0:
            return 0
        self.batch.pack_out(session, first, n)
        self.sessions.heard(session, &self.batch.inbox.slots[first], n)
        return n
