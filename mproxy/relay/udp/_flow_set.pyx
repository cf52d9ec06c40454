"""The flows of a UDP relay: _flow_set.pxd."""

import os
from functools import partial

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EADDRINUSE, EAGAIN, EDESTADDRREQ
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mproxy.ground._sockaddr cimport ntohs, sockaddr, sockaddr_storage, socklen_t
from mproxy.io._loop cimport EPOLLERR, EPOLLET, EPOLLIN, Source
from mproxy.io._packets cimport SocketAddress
from mproxy.io._ports cimport port_rest
from mproxy.io._socket cimport Target, close, getpeername
from mproxy.io._udp_dial cimport is_shortage, port_of, udp_dial
from mproxy.relay._accounts cimport MADE_ROOM, SILENT, STOPPED, TARGET_BROKE, Noted, account_of
from mproxy.relay._balance cimport Balance
from mproxy.relay._circle cimport own_forget, own_has, own_note
from mproxy.relay._hops cimport set_hops
from mproxy.relay._newcomers cimport LIMITED_TELL_US, source_text
from mproxy.relay._proxy_header cimport origin_source
from mproxy.relay.udp._batch cimport FEW_SLOTS, NOWHERE
from mproxy.relay.udp._flow cimport (
    PATIENCE_US, ready_add, ready_remove, flow_begin, flow_head, flow_heard, flow_is_owed, flow_key, flow_may_leave,
    flow_rest_us, flow_without_debt,
)
from mproxy.relay.udp._flow_record cimport (
    FlowRecord, flow_record_at, flow_record_claim, flow_record_free, flow_record_give_up, flow_record_new,
)
from mproxy.relay.udp._flow_table cimport FlowEntry, FlowGroup, group_ended, roll_victim
from mproxy.relay.udp._runs cimport ANY_SEGMENT
from mproxy.relay.udp._udp_rule cimport TELL_US


cdef enum:
    MOST_ATTEMPTS = 8            # addresses tried for a packet, when they fail at once
    MOST_VICTIMS = 4             # for one newcomer: somebody else may have the port that was left
    NO_PORT_US = 10000           # from one search for a rested port that found none to the next: it takes time
    ENDS_A_TURN = 1000           # most idle flows closed in one go: about 5 ms
    TIMER_US = 20000             # the timer's grain


cdef void flow_ready(Source *source, uint32_t events) noexcept:
    cdef Flow *flow = <Flow *>source.owner
    if events & EPOLLERR:
        flow.failed = True
    (<FlowSet>flow.owner).enqueue(flow)


cdef TargetAddress target_of(Balance balance, int fd):
    """Which address of the rule the socket is connected to; None: none, or it is no such socket."""
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    if getpeername(fd, <sockaddr *>&peer, &length) == 0:
        for address in balance.addresses:
            if (<TargetAddress>address).leads_to(&peer):
                return address
    return None


cdef class FlowSet:
    """At most `most` flows, of all rules together; a rule's own bound holds for all workers that count in `tally`. Who
    reads their replies fills in `replies`."""

    def __init__(self, Loop loop, observer, most, Tally tally):
        self.loop = loop
        self.observer = observer
        self.table = FlowTable(most, os.urandom(16))
        self.batch = Batch()
        self.tally = tally

    cdef void end_all(self) noexcept:
        """End every flow."""
        while self.table.roll.count:
            self.end(<Flow *>self.table.some(), STOPPED, 0)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    # ---- one begins

    cdef Flow *open(self, UdpListener listener, Slot *slot, FlowKey *key, const Origin *origin) noexcept:
        """A new flow for the sender of this packet, or for whom its PROXY header names: `origin`, or NULL. NULL: it is
        not let in, or there is no room."""
        cdef UdpRule rule = listener.rule
        cdef Flow *flow
        cdef sockaddr_storage client
        if not rule.admits(&slot.sender.any):
            return NULL
        if own_has(key.client, ntohs(key.client_port)) or rule.goes_round(slot, key):
            self.tell(partial(self.observer.on_circle, rule.key))
            return NULL
        memcpy(&client, &slot.sender, sizeof(SocketAddress))
        if origin != NULL and origin.family:
            origin_source(origin, &client)
        if rule.new_interval_ns and self.comes_too_often(rule, <sockaddr *>&client):
            return NULL
        self.tally.enter(rule.slot, 0)  # before looking: if workers do so at the same time none admits one too many
        flow = self.begin(listener, slot, key, origin)
        if flow == NULL:
            self.tally.leave(rule.slot)
        elif rule.most and self.tally.sum(rule.slot) > rule.most:
            self.tell(partial(self.observer.on_crowded, rule.key))
        return flow

    cdef Flow *begin(self, UdpListener listener, Slot *slot, FlowKey *key, const Origin *origin) noexcept:
        """The same of one that may come, and was counted."""
        cdef UdpRule rule = listener.rule
        cdef Flow *flow
        cdef uint16_t port = 0
        cdef int fd
        self.share(rule)
        self.make_room(rule, key)
        fd = self.find_room(rule, &port)
        if fd < 0:
            return NULL
        flow = <Flow *>calloc(1, sizeof(Flow))
        if flow == NULL:
            close(fd)
            return NULL
        flow.entry.key = key[0]
        flow.source.fd = fd
        flow.port = port
        if slot.hops:
            set_hops(fd, self.dialled.target.addresses[self.dialled.index].ss_family, slot.hops - 1)
        if self.loop.add(&flow.source, EPOLLIN | EPOLLET) < 0 or \
                self.table.insert(&flow.entry, &rule.group, self.loop.now_us) < 0:
            close(fd)
            self.loop.free_later(flow)
            return NULL
        self.enter(flow, listener, slot, origin)
        self.asks(flow, self.dialled)
        listener.rule.began()
        if not listener.rule.accept_proxy:  # else the header would have to be kept, too
            flow.record = flow_record_new()
            self.record(flow)
        return flow

    cdef bint take_in(self, UdpListener listener, uint32_t number) noexcept:
        """Go on with a flow of another worker, of which a record of this listener is left; false when that cannot be:
        then the socket is still open."""
        cdef FlowRecord *record = flow_record_at(number)
        cdef TargetAddress address = target_of(listener.rule.balance, record.fd)
        cdef uint16_t port = port_of(record.fd)
        cdef Slot slot
        cdef FlowKey key
        cdef Flow *flow
        if address is None or port == 0 or listener.rule.accept_proxy:
            return False
        memset(&slot, 0, sizeof(slot))
        slot.sender, slot.sender_bytes, slot.local = record.client, record.client_bytes, record.local
        flow_key(&slot, &listener.bound, listener.is_wildcard, &key)
        if self.table.find(&key) != NULL:  # its client came before us
            return False
        listener.rule.group.most = listener.rule.most  # they had room before
        self.make_room(listener.rule, &key)
        flow = <Flow *>calloc(1, sizeof(Flow))
        if flow == NULL:
            return False
        flow.entry.key = key
        flow.source.fd = record.fd
        flow.port = port
        flow.record = record
        if self.table.insert(&flow.entry, &listener.rule.group, self.loop.now_us) < 0:
            free(flow)
            return False
        self.tally.enter(listener.rule.slot, 0)
        self.enter(flow, listener, &slot, NULL)
        self.goes_to(flow, address)
        if self.loop.add(&flow.source, EPOLLIN | EPOLLET) < 0:
            flow.failed = True
            self.enqueue(flow)
        return True

    cdef bint comes_too_often(self, UdpRule rule, const sockaddr *client) noexcept:
        """Whether this client's source has begun too many flows; then it is counted, and told now and then."""
        cdef int64_t now = self.loop.now_us
        if self.tally.newcomers.admits(<uint64_t>hash(rule.key), client, now, rule.new_interval_ns, rule.new_burst):
            return False
        rule.counts.limited += 1
        if rule.limited_told == 0 or now - rule.limited_told_at >= LIMITED_TELL_US:
            self.tell(partial(self.observer.on_limited, rule.key, source_text(client),
                              rule.counts.limited - rule.limited_told))
            rule.limited_told, rule.limited_told_at = rule.counts.limited, now
        return True

    cdef void enter(self, Flow *flow, UdpListener listener, Slot *slot, const Origin *origin) noexcept:
        """The flow is in the table: fill in the rest."""
        cdef FlowGroup *group = flow.entry.group
        flow.source.ready = flow_ready
        flow.source.owner = flow
        flow.owner = <void *>self
        flow.listener = <void *>listener
        flow.client = slot.sender
        flow.client_bytes = slot.sender_bytes
        flow.local = slot.local
        flow.in_limit = flow.out_limit = ANY_SEGMENT
        flow.most_slots = FEW_SLOTS
        flow.first_slot = NOWHERE
        flow.patience_us = PATIENCE_US
        if self.keeps_accounts:
            self.note(flow, slot, origin)
        if listener.rule.proxy and not flow_head(flow, slot, &listener.bound, origin):
            listener.rule.counts.errors += 1
        own_note(flow.port, flow.source.fd)
        if group.idle_us:
            self.look_at(self.loop.now_us + group.idle_us)

    cdef void note(self, Flow *flow, const Slot *slot, const Origin *origin) noexcept:
        """Begin what is noted for the access log; without memory there is none."""
        flow.noted = <Noted *>calloc(1, sizeof(Noted))
        if flow.noted != NULL:
            memcpy(&flow.noted.peer, &slot.sender, min(sizeof(sockaddr_storage), sizeof(SocketAddress)))
            flow.noted.began_us = self.loop.now_us
            if origin != NULL:
                origin_source(origin, &flow.noted.client)

    cdef void record(self, Flow *flow) noexcept:
        """Note what outlives this process, if there is a record for it."""
        if flow.record == NULL:
            return
        flow_record_give_up(flow.record)
        flow.record.fd = flow.source.fd
        flow.record.key = (<UdpListener>flow.listener).rule.number
        flow.record.bound = (<UdpListener>flow.listener).bound
        flow.record.client, flow.record.client_bytes, flow.record.local = flow.client, flow.client_bytes, flow.local
        flow_record_claim(flow.record)

    cdef void asks(self, Flow *flow, TargetAddress address) noexcept:
        """The flow begins to ask an address."""
        self.goes_to(flow, address)
        (<UdpListener>flow.listener).rule.balance.asks(address, self.loop.now_us)

    cdef void goes_to(self, Flow *flow, TargetAddress address) noexcept:
        """Its socket is connected to that address."""
        Py_INCREF(address)
        flow.address = <void *>address
        address.connections += 1
        flow_begin(flow)

    cdef int make_room(self, UdpRule rule, const FlowKey *key) noexcept:
        """Evict until the bounds let one more in; returns how many went."""
        cdef Flow *victim = <Flow *>self.table.victim(&rule.group, key)
        cdef int gone = 0
        while victim != NULL:
            self.evict(victim)
            gone += 1
            victim = <Flow *>self.table.victim(&rule.group, key)
        return gone

    cdef void share(self, UdpRule rule) noexcept:
        """Bound the rule's flows here by what those of other workers leave."""
        rule.group.most = self.tally.share(rule.slot, rule.most) if rule.most else 0

    cdef void shrink(self, UdpRule rule) noexcept:
        """Evict what the rule has beyond that."""
        self.share(rule)
        while rule.most and rule.group.roll.count > rule.group.most:
            self.evict(<Flow *>roll_victim(&rule.group.roll, rule.group.most))

    cdef int find_room(self, UdpRule rule, uint16_t *port) noexcept:
        """`dial`; when the system has no descriptor or port left, in place of another flow. Or -errno."""
        cdef int fd = -EADDRINUSE, _attempt
        if self.loop.now_us >= self.no_port_until or not rule.balance.addresses:
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
        """Evict a flow to free what is short; true when that may help. `port`: the one that is free now."""
        cdef Flow *victim
        if error == EADDRINUSE or error == EAGAIN:
            victim = flow_without_debt(&self.table.roll, self.loop.now_us)
            port[0] = victim.port if victim != NULL else 0
        else:
            victim = <Flow *>self.table.some()
            port[0] = 0
        if victim != NULL:
            self.evict(victim)
        return victim != NULL

    cdef int dial(self, UdpRule rule, uint16_t *port) noexcept:
        """A socket connected to an address of the rule, `dialled`: the next one if the first cannot be reached. Or
        -errno: of a shortage, which the caller reports, or when no address is left to try."""
        cdef Balance balance = rule.balance
        cdef int fd = 0
        for _attempt in range(min(len(balance.addresses), MOST_ATTEMPTS)):
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

    cdef int connect(self, TargetAddress address, uint16_t *port) noexcept:
        """A socket connected to an address; or -errno, EADDRINUSE: all ports seem to be resting."""
        cdef int fd = udp_dial(address.target, address.index, self.loop.now_us, port)
        if fd == -EADDRINUSE:
            self.no_port_until = self.loop.now_us + NO_PORT_US
        return fd

    # ---- it goes on

    cdef void enqueue(self, Flow *flow) noexcept:
        """The flow has replies."""
        if ready_add(&self.ready, flow):
            self.loop.schedule(&self.replies)

    cdef void heard(self, Flow *flow, const Slot *slots, int count) noexcept:
        """Replies came, in so many slots."""
        cdef UdpRule rule = (<UdpListener>flow.listener).rule
        cdef TargetAddress address = <TargetAddress>flow.address
        flow_heard(flow, slots, count)
        self.table.answers(&flow.entry, flow.owed == 0, self.loop.now_us)
        rule.balance.answers(address, self.loop.now_us)
        if address.failures and rule.balance.worked(address):
            self.tell(partial(self.observer.on_target_up, rule.key, address.text))

    cdef void move(self, Flow *flow) noexcept:
        """Change to another address, if there is a reason to and a better one; the rules: _flow.pxd."""
        cdef UdpRule rule = (<UdpListener>flow.listener).rule
        cdef TargetAddress former = <TargetAddress>flow.address
        cdef TargetAddress address = None
        cdef uint16_t port = 0
        cdef int fd
        if flow_may_leave(flow, rule.balance, self.loop.now_us):
            address = rule.balance.choose(self.loop.now_us, [former])
        if address is None:
            flow.asked_at = self.loop.now_us  # look again after the same patience
            return
        if address.failures:
            self.tell_down(rule, address)
        fd = self.connect(address, &port)
        if fd < 0:
            if fd != -EADDRINUSE and not is_shortage(-fd):
                self.failed(rule, address, self.loop.now_us, -fd)
            flow.asked_at = self.loop.now_us
            return
        if not former.gone:
            rule.balance.asks(former, self.loop.now_us)  # one who asks again counts as another one who was not answered
        self.let_go(flow)
        self.asks(flow, address)
        flow.in_limit = ANY_SEGMENT
        flow.port = port
        own_note(port, fd)
        flow.source.fd = fd
        self.record(flow)
        if self.loop.add(&flow.source, EPOLLIN | EPOLLET) < 0:
            flow.failed = True
            self.enqueue(flow)

    cdef void hand_over(self, Flow *flow, UdpListener listener) noexcept:
        """The flow belongs to another rule from now on."""
        cdef FlowGroup *former = flow.entry.group
        self.table.remove(&flow.entry)
        self.tally.leave((<UdpListener>flow.listener).rule.slot)
        self.tally.enter(listener.rule.slot, 0)
        flow.listener = <void *>listener
        if self.table.insert(&flow.entry, &listener.rule.group, flow.entry.used_at) < 0:
            self.table.insert(&flow.entry, former, flow.entry.used_at)
        self.record(flow)

    # ---- it ends

    cdef void let_go(self, Flow *flow) noexcept:
        """Leave the address, and let the port rest until nothing more can come."""
        cdef TargetAddress address = <TargetAddress>flow.address
        cdef Balance balance = (<UdpListener>flow.listener).rule.balance
        port_rest(flow.port, self.loop.now_us, flow_rest_us(flow, balance, self.loop.now_us),
                  flow_is_owed(flow, self.loop.now_us))
        own_forget(flow.port)
        if flow.record != NULL:
            flow_record_give_up(flow.record)
        self.loop.close(&flow.source)
        address.connections -= 1
        Py_DECREF(address)

    cdef void evict(self, Flow *flow) noexcept:
        """Another flow needs the room; what its client sent in this batch still goes out, whatever becomes of it."""
        (<UdpListener>flow.listener).rule.counts.evicted += 1
        if flow.first_slot != NOWHERE:
            self.batch.send_in(flow, self.loop.now_us)
        self.end(flow, MADE_ROOM, 0)

    cdef void fail(self, Flow *flow, int error) noexcept:
        """The target or the route to it refused (ICMP, or no route): this flow is over, the others go on."""
        cdef UdpRule rule = (<UdpListener>flow.listener).rule
        cdef TargetAddress address = <TargetAddress>flow.address
        cdef int64_t began = flow.asked_at or self.loop.now_us
        rule.counts.errors += 1
        self.end(flow, TARGET_BROKE, error)
        self.failed(rule, address, began, error)
        self.tell_refused(rule, address.text, error)

    cdef void end(self, Flow *flow, int why, int error) noexcept:
        """Release everything that the flow has. `why`: an EndReason, with an errno or 0."""
        cdef UdpRule rule = (<UdpListener>flow.listener).rule
        if flow.noted != NULL:
            self.tell_ended(flow, why, error)
        ready_remove(&self.ready, flow)
        self.let_go(flow)
        flow_record_free(flow.record)
        self.table.remove(&flow.entry)
        self.tally.leave(rule.slot)
        free(flow.header)
        self.loop.free_later(flow)
        if rule.leaving is not None and rule.group.roll.count == 0:
            rule.dissolve()

    cdef void look_at(self, int64_t at) noexcept:
        """Look for idle flows at that time or earlier; at < 0: no need to."""
        if at < 0 or self.timer is not None and self.timer.at <= at:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(max(at, self.loop.now_us + TIMER_US), self.end_idle)

    def end_idle(self):
        """End the flows whose time is over; called by the loop."""
        cdef FlowGroup *group = <FlowGroup *>self.table.active.first
        cdef FlowGroup *next_group
        cdef FlowEntry *entry
        cdef int left = ENDS_A_TURN
        self.timer = None
        while group != NULL and left > 0:
            next_group = <FlowGroup *>group.in_active.next
            while left > 0:
                entry = group_ended(group, self.loop.now_us)
                if entry == NULL:
                    break
                left -= 1
                (<UdpListener>(<Flow *>entry).listener).rule.counts.expired += 1
                self.end(<Flow *>entry, SILENT, 0)
            group = next_group
        self.look_at(self.table.next_end())

    # ---- who is told

    cdef void failed(self, UdpRule rule, TargetAddress address, int64_t began, int error) noexcept:
        """A flow that has asked since `began` failed: prefer other addresses for a while, and report it."""
        if rule.balance.failed(address, began, self.loop.now_us, error):
            self.tell(partial(self.observer.on_target_down, rule.key, address.text, error))

    cdef void tell_down(self, UdpRule rule, TargetAddress address) noexcept:
        """A flow tries an address that counts as down: nobody who tried before was answered."""
        if rule.balance.is_news(address):
            self.tell(partial(self.observer.on_target_down, rule.key, address.text, address.error))

    cdef void tell_refused(self, UdpRule rule, str target, int error) noexcept:
        """There can be no flow for a client; error 0: no address is known."""
        cdef int64_t now = self.loop.now_us
        if rule.told_at == 0 or now - rule.told_at >= TELL_US:
            rule.told_at = now
            self.tell(partial(self.observer.on_refused, rule.key, target, error))

    cdef void tell_ended(self, Flow *flow, int why, int error) noexcept:
        """Tell what is noted of the flow."""
        self.tell(partial(self.observer.on_ended, (<UdpListener>flow.listener).rule.key, account_of(
            flow.noted, self.loop.now_us, <TargetAddress>flow.address, why, error)))
        free(flow.noted)
        flow.noted = NULL

    cdef void tell(self, event) noexcept:
        self.loop.guard(event, None)
