"""TCP relay. Life of a connection:

1. `RouteListener.accepted` -> `Route.admit`: networks and the rule's limit; one too many is reset at once.
2. GREETING, with accept-proxy only: the header is peeked at until it is complete, then taken (`greet`).
3. CONNECTING: `connect_next` tries an address, and others beside it when that is slow (`race_on`), until one answers
   (`connected`) or the time is up. STARVED in between when there is no descriptor.
4. OPEN: `run_pair` lets the Mover move what the events of the turn allow, in both directions.
5. ENDING: one of the two broke; the other one gets what it said before (`last_words`).
6. `pair_close`: both ways through; or a reset on both sides after an error or a time-out. Every socket is closed with a
   reset unless that is lifted, so that nothing else looks like an orderly end, whoever kills this process.
"""

from functools import partial

from cpython.ref cimport PyObject, Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, ECONNRESET, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPIPE, ETIMEDOUT, errno
from libc.stdlib cimport calloc, free

from mproxy._ring cimport ring_used
from mproxy.io._loop cimport Source, Work
from mproxy.io._socket cimport MSG_DONTWAIT, Target, close, finish_on_close, pending_error, recv, sockaddr
from mproxy.relay._cidr cimport is_allowed
from mproxy.relay._circle cimport LOOK_EVERY
from mproxy.relay.tcp._dial cimport dial
from mproxy.relay.tcp._flow cimport AGAIN, Outcome, Side, side_holds, side_mark, side_owed
from mproxy.relay.tcp._guard cimport Guard
from mproxy.relay._hops cimport save_hops
from mproxy.relay.tcp._keepalive cimport has_vanished, keep_alive
from mproxy.relay.tcp._pair cimport (
    CONNECTING, ENDING, GREETING, LEFT, OPEN, STARVED, TAKEN, WRONG, Greeting, drop_backend, has_spoken, hold_backend,
    next_look, read_early, send_early, send_header, side_init, take_header,
)
from mproxy.relay.tcp._race cimport Race
from mproxy.relay.tcp._wheel cimport TICK_US, WheelLink, wheel_due, wheel_init, wheel_put, wheel_sweep, wheel_take


cdef extern from "<sys/socket.h>" nogil:
    int MSG_PEEK

cdef enum:
    TRIM_US = 2000000
    LOOK_US = 30000000        # between two looks at the peers of a connection; most are over before the first
    LAST_WORDS_US = 30000000  # a peer that takes no byte for so long will not read the rest of a broken connection


cdef class TcpRelay:
    """Relays what the listening sockets of its rules accept. `max_connections`: of all rules and
    workers, 0: no bound. `tally`: where connections are counted with those of other workers."""

    def __init__(self, Loop loop, observer, uint32_t max_connections=0, Tally tally=None):
        self.loop = loop
        self.observer = observer
        self.tally = tally or Tally()
        self.gate = Gate(loop, observer, max_connections, self.tally)
        self.mover = Mover(loop)
        self.routes = {}
        self.look_us, self.last_words_us = LOOK_US, LAST_WORDS_US
        wheel_init(&self.wheel, loop.now_us)
        _relays.add(self)

    @property
    def count(self):
        """Connections now."""
        return self.gate.count

    def add(self, key, rule, fds):
        """Accept on the listening sockets `fds` (duplicates of the caller's) by `rule`; then `set_targets`."""
        cdef Route route = Route(self, key, rule)
        self.routes[key] = route
        for fd in fds:
            route.listeners.append(RouteListener(route, fd))

    def set_targets(self, key, targets):
        """Where the connections of a rule go: a Target for each of its targets, count 0 while it is not resolved."""
        (<Route>self.routes[key]).balance.set_targets(targets)

    def ask(self, key):
        """Let the observer name the target of each connection: on_wanted(key, fd), to be answered by `relay`."""
        (<Route>self.routes[key]).ask = True

    def relay(self, key, int fd, Target target):
        """Answer to `on_wanted`; target None resets the connection."""
        if target is None or key not in self.routes:
            self.refuse(fd)
            return
        self.set_targets(key, [target])  # an address that was there keeps its state: callers share it
        (<Route>self.routes[key]).begin(fd)

    def update(self, key, rule):
        """New options for the same listeners: connections accepted from now on follow them."""
        (<Route>self.routes[key]).configure(rule)

    def remove(self, key):
        """Accept nobody any more by this rule; its connections go on."""
        for listener in (<Route>self.routes.pop(key)).listeners:
            listener.close()

    def stats(self, key):
        """Counters of a rule: names as in Route, whole numbers since `add`."""
        cdef Route route = self.routes[key]
        return {
            "connections": route.connections, "total": route.total, "refused": route.refused, "failed": route.failed,
            "timed_out": route.timed_out, "bytes_in": route.bytes_in, "bytes_out": route.bytes_out,
        }

    def down(self, key):
        """[(HOST:PORT, errno), ...]: addresses of a rule that are left out."""
        return (<Route>self.routes[key]).balance.down()

    def close(self):
        """Accept nobody any more and reset every connection."""
        for key in list(self.routes):
            self.remove(key)
        while self.first != NULL:
            pair_close(self.first, True)
        self.loop.soon.append(partial(_relays.discard, self))

    def on_tick(self):
        """Look for time-outs and unused pipes; called by the loop."""
        cdef WheelLink *link
        self.timing = False
        wheel_sweep(&self.wheel, self.loop.now_us)
        link = wheel_due(&self.wheel)
        while link != NULL:
            pair_due(<Pair *>link.owner, self.loop.now_us)
            link = wheel_due(&self.wheel)
        if self.loop.now_us >= self.trim_at:
            self.trim_at = self.loop.now_us + TRIM_US
            self.mover.pool.trim()
        if self.wheel.count or self.mover.pool.open:
            self.arm()

    cdef void refuse(self, int fd) noexcept:
        """Reset a connection that has been accepted, and give its place back."""
        close(fd)
        self.gate.leave()

    cdef void reset_all(self, Route route) noexcept:
        """End the connections of one rule."""
        cdef Pair *pair = self.first
        cdef Pair *after
        while pair != NULL:
            after = pair.next
            if pair.route == <void *>route:
                pair_close(pair, True)
            pair = after

    cdef void wait_until(self, Pair *pair, int64_t at) noexcept:
        """Have `pair_due` called at `at` or soon after."""
        pair.due_at = at
        wheel_put(&self.wheel, &pair.link, at)
        self.arm()

    cdef void arm(self) noexcept:
        if not self.timing:
            self.timing = True
            self.loop.call_later(TICK_US, self.on_tick)

    cdef void tell(self, str event, tuple arguments) noexcept:
        self.loop.guard(partial(getattr(self.observer, event), *arguments), None)


_relays = set()  # not closed ones: the kernel holds pointers to their pairs


cdef class RouteListener(Listener):
    """One listening socket of a rule."""

    def __init__(self, Route route, int fd):
        self.route = route
        self.with_address = True
        Listener.__init__(self, route.relay.gate, fd)

    cdef void accepted(self, int fd, sockaddr_storage *address) noexcept:
        self.route.admit(fd, address)


cdef class Route:
    """A rule, its counters and targets."""

    def __init__(self, TcpRelay relay, key, rule):
        self.relay = relay
        self.key = key
        self.slot = relay.tally.slot(key)
        self.listeners = []
        self.balance = Balance()
        self.guard = Guard(relay.loop, self.balance)
        self.configure(rule)

    cdef void configure(self, rule):
        options = rule.options
        self.rule = rule
        self.balance.least = options.balance == "leastconn"
        self.allow = CidrSet(options.allow) if options.allow else None
        self.deny = CidrSet(options.deny) if options.deny else None
        self.sources = Sources(getattr(options, "source", ()))
        self.proxy, self.accept_proxy = options.proxy, options.accept_proxy
        self.most = options.max_connections
        self.connect_us, self.idle_us = options.connect_timeout_us, options.idle_timeout_us

    cdef void admit(self, int fd, sockaddr_storage *address) noexcept:
        """Take a new connection on, or reset it."""
        if self.guard.is_closed() or not is_allowed(self.allow, self.deny, <sockaddr *>address):
            self.refused += 1
            self.relay.refuse(fd)
        elif self.ask:
            self.relay.tell("on_wanted", (self.key, fd))
        else:
            self.begin(fd)

    cdef void begin(self, int fd) noexcept:
        """Make a pair of the connection, if the rule may have one more."""
        cdef TcpRelay relay = self.relay
        cdef Pair *pair
        if not relay.tally.enter(self.slot, self.most):
            self.refused += 1
            relay.refuse(fd)
            return
        pair = <Pair *>calloc(1, sizeof(Pair))
        if pair == NULL:
            relay.tally.leave(self.slot)
            relay.refuse(fd)
            return
        pair_init(pair, self, fd)
        self.connections += 1
        self.total += 1
        if self.total % LOOK_EVERY == 0 and self.guard.hops.look(self.connections):
            for listener in self.listeners:
                save_hops((<RouteListener>listener).source.fd, self.guard.hops.counting)
        if self.guard.finds(pair, self.total, self.connections):
            relay.tell("on_circle", (self.key,))
            relay.reset_all(self)
            return
        if pair.hops == 1:
            self.refused += 1
            pair_close(pair, True)
            return
        if not self.accept_proxy and not self.proxy:
            read_early(pair, relay.loop.buffer)
        relay.mover.watch(&pair.client, False)
        if self.connect_us:
            relay.wait_until(pair, pair.since + self.connect_us)
        if not self.accept_proxy:
            connect_next(pair, 0)


# ---- a pair begins

cdef void pair_init(Pair *pair, Route route, int fd) noexcept:
    cdef TcpRelay relay = route.relay
    side_init(&pair.client, pair, &pair.server, fd, side_ready)
    side_init(&pair.server, pair, &pair.client, -1, side_ready)
    pair.client.writable = True
    pair.work.run = run_pair
    pair.work.owner = pair
    pair.link.owner = pair
    pair.route = <void *>route
    Py_INCREF(route)
    pair.state = GREETING
    pair.since = relay.loop.now_us
    pair.idle_us = route.idle_us
    pair.next = relay.first
    if relay.first != NULL:
        relay.first.prev = pair
    relay.first = pair


cdef void side_ready(Source *source, uint32_t events) noexcept:
    cdef Pair *pair = <Pair *>source.owner
    side_mark(<Side *>source, events)  # the source is the first field of its side
    (<Route>pair.route).relay.loop.schedule(&pair.work)


cdef bint greet(Pair *pair) noexcept:
    """Take the PROXY header that the client begins with; true when it is there and the client may come in."""
    cdef Route route = <Route>pair.route
    cdef Greeting greeting = take_header(pair, route.relay.loop.buffer, route.deny, route.proxy != 0)
    if greeting == WRONG:
        route.refused += 1
    if greeting == WRONG or greeting == LEFT:
        pair_close(pair, greeting == WRONG or pair.client.failed)
    return greeting == TAKEN


# ---- connecting

cdef void connect_next(Pair *pair, int error) noexcept:
    """Try the next address. Without any left, and nobody in the race, the pair ends with `error`."""
    cdef Route route = <Route>pair.route
    cdef Backend backend
    cdef int fd
    while True:
        if pair.backend == NULL:
            backend = next_backend(pair)
            if backend is None:
                if not is_racing(pair):
                    pair_unreachable(pair, error)
                return
            hold_backend(pair, backend)
        backend = <Backend>pair.backend
        pair.dialled_at = route.relay.loop.now_us
        fd = dial(backend.target, backend.index, route.sources, ring_used(&pair.server.waiting) > 0, pair.hops - 1)
        error = errno if fd < 0 else start_wait(pair, fd)
        if error == 0:
            return
        if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            starve(pair)
            return
        backend_failed(pair, error)


cdef Backend next_backend(Pair *pair):
    """An address that was not tried yet, or None."""
    cdef Route route = <Route>pair.route
    cdef Race race
    if pair.race == NULL:
        if len(route.balance.backends) < 2:
            pair.attempts += 1
            return route.balance.choose(route.relay.loop.now_us, None) if pair.attempts == 1 else None
        race = Race(route.relay.loop, route.relay.observer, route.key, route.balance)
        race.pair = pair
        race.attempts.work = &pair.work
        Py_INCREF(race)
        pair.race = <void *>race
    return (<Race>pair.race).next()


cdef bint is_racing(Pair *pair) noexcept:
    """Whether attempts go on beside the newest."""
    return pair.race != NULL and (<Race>pair.race).attempts.first != NULL


cdef void starve(Pair *pair) noexcept:
    """There is no descriptor for the next attempt: later, while those in the race go on."""
    cdef TcpRelay relay = (<Route>pair.route).relay
    if is_racing(pair):
        (<Race>pair.race).tried.remove(<Backend>pair.backend)
        drop_backend(pair)
        (<Race>pair.race).attempts.wait()
    else:
        pair.state = STARVED
        relay.wait_until(pair, relay.loop.now_us + TICK_US)


cdef int start_wait(Pair *pair, int fd) noexcept:
    """Wait for the answer; where there is another address, for a moment before that is tried beside.

    Not at all when the answer is there, as it is from this host. Returns 0, or errno of an answer in the negative.
    """
    cdef Route route = <Route>pair.route
    cdef TcpRelay relay = route.relay
    cdef int error
    pair.state = CONNECTING
    pair.server.source.fd = fd
    pair.server.writable = pair.server.readable = pair.server.failed = pair.server.hung_up = False
    error = send_early(pair, relay.mover, &route.bytes_in)
    if error != 0 and error != EAGAIN:
        relay.loop.close(&pair.server.source)
        return error
    relay.mover.watch(&pair.server, error != 0)
    if error == 0:
        pair.server.writable = True
        if connected(pair) and side_holds(&pair.server):
            relay.loop.schedule(&pair.work)
        return 0
    if pair.race != NULL and (<Race>pair.race).has_other():
        (<Race>pair.race).attempts.wait()
    if not route.connect_us:
        wheel_take(&relay.wheel, &pair.link)
    elif pair.due_at != pair.since + route.connect_us:  # it starved before
        relay.wait_until(pair, pair.since + route.connect_us)
    return 0


cdef void backend_failed(Pair *pair, int error) noexcept:
    """The newest attempt was not answered, or in the negative. A rule with one address need not remember that."""
    if pair.race != NULL:
        (<Race>pair.race).failed(<Backend>pair.backend, pair.dialled_at, error)
    drop_backend(pair)


cdef void attempt_failed(Pair *pair, int error) noexcept:
    (<Route>pair.route).relay.loop.close(&pair.server.source)
    pair.server.writable = pair.server.failed = False
    backend_failed(pair, error)
    connect_next(pair, error)


cdef bint race_on(Pair *pair) noexcept:
    """Look at the attempts beside the newest, and at the time. False: there is another newest one, or the pair has
    ended; else it is to be looked at, and may be one of those that won."""
    cdef Race race = <Race>pair.race
    cdef int error = 0
    if race.settle((<Route>pair.route).relay.mover, &error):
        return True
    if race.attempts.is_due and not pair.server.writable:
        race.step_aside()
        connect_next(pair, ETIMEDOUT)
        return False
    if error and pair.backend == NULL and race.attempts.timer is None:  # the newest had failed before: is anybody left?
        connect_next(pair, error)
        return False
    return True


cdef void race_over(Pair *pair) noexcept:
    if pair.race != NULL:
        (<Race>pair.race).over()
        Py_XDECREF(<PyObject *>pair.race)
        pair.race = NULL


# ---- connected, or not

cdef void pair_unreachable(Pair *pair, int error) noexcept:
    """Nothing is left to try."""
    cdef Route route = <Route>pair.route
    if error == 0:
        route.refused += 1
    elif error == ETIMEDOUT:
        route.timed_out += 1
    else:
        route.failed += 1
    pair_close(pair, True)
    route.relay.tell("on_refused", (route.key, route.rule.targets_text, error))


cdef bint connected(Pair *pair) noexcept:
    """The target answered: let the bytes flow. False when the pair has ended already."""
    cdef Route route = <Route>pair.route
    cdef TcpRelay relay = route.relay
    cdef Backend backend = <Backend>pair.backend
    race_over(pair)
    pair.state = OPEN
    pair.since = relay.loop.now_us
    pair.look_at = pair.since + relay.look_us
    relay.wait_until(pair, next_look(pair))
    if backend.failures and route.balance.worked(backend):
        relay.tell("on_target_up", (route.key, backend.text))
    if route.proxy and not pair.server.broken and not send_header(pair, route.proxy):
        pair_close(pair, True)
        return False
    return True


# ---- a pair lives and ends

cdef void run_pair(Work *work) noexcept:
    """Do what the events of this turn allow."""
    cdef Pair *pair = <Pair *>work.owner
    cdef Route route = <Route>pair.route
    cdef Mover mover = route.relay.mover
    cdef uint64_t before = mover.moved
    cdef Outcome up, down
    if pair.state < OPEN and not advance(pair):
        return
    up = mover.move(&pair.client, &route.bytes_in)
    down = mover.move(&pair.server, &route.bytes_out)
    if mover.moved != before:
        pair.since = route.relay.loop.now_us
    if up == AGAIN or down == AGAIN:
        route.relay.loop.schedule(&pair.work)
    if pair.client.broken or pair.server.broken:
        last_words(pair)
    elif pair.client.write_ended and pair.server.write_ended:
        pair_close(pair, False)
    if mover.pool.open:
        route.relay.arm()


cdef void last_words(Pair *pair) noexcept:
    """One of the two broke: reset the other one as soon as it has everything that was said before."""
    cdef TcpRelay relay = (<Route>pair.route).relay
    cdef Side *told = &pair.server if pair.client.broken else &pair.client
    cdef int64_t owed
    if pair.state != ENDING:
        pair.state = ENDING
        (<Route>pair.route).failed += 1
    if told.broken:
        pair_close(pair, True)
        return
    owed = side_owed(told)
    if not told.other.read_ended and not side_holds(told):
        relay.loop.schedule(&pair.work)
    elif told.other.read_ended and owed == 0:
        pair_close(pair, True)
        return
    if owed != pair.owed:
        pair.owed = owed
        pair.since = relay.loop.now_us
    relay.wait_until(pair, relay.loop.now_us + TICK_US)


cdef bint advance(Pair *pair) noexcept:
    """Go on towards OPEN; true when it is reached."""
    cdef int error
    if pair.client.failed and not has_spoken(pair):
        pair_close(pair, True)
        return False
    if pair.state == GREETING:
        if greet(pair):
            connect_next(pair, 0)
        return False
    if pair.state != CONNECTING or pair.race != NULL and not race_on(pair) or not pair.server.writable:
        return False
    if pair.server.failed:
        error = pending_error(pair.server.source.fd)
        if error and not is_over(pair, error):
            attempt_failed(pair, error)
            return False
        pair.server.failed = False
    # What it can't send, or why, the mover will find.
    send_early(pair, (<Route>pair.route).relay.mover, &(<Route>pair.route).bytes_in)
    return connected(pair)


cdef bint is_over(Pair *pair, int error) noexcept:
    """Whether the target has answered before it failed: it said something and reset the connection at once."""
    cdef uint8_t first
    if error not in (ECONNRESET, EPIPE) or recv(pair.server.source.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) <= 0:
        return False
    (<Route>pair.route).relay.mover.fail(&pair.server)
    return True


cdef void pair_due(Pair *pair, int64_t now) noexcept:
    """The time-out has fallen out of the wheel."""
    cdef Route route = <Route>pair.route
    if pair.state == OPEN:
        if now >= pair.look_at and not look_after(pair, now):
            return
        pair.due_at = next_look(pair)  # a byte since then may have put it off
    if now < pair.due_at:
        route.relay.wait_until(pair, pair.due_at)
    elif pair.state == OPEN:
        route.timed_out += 1
        pair_close(pair, True)
    elif pair.state == ENDING:
        if now - pair.since >= route.relay.last_words_us:
            pair_close(pair, True)
        else:
            last_words(pair)
    elif route.connect_us and now >= pair.since + route.connect_us:
        if pair.race != NULL:
            (<Race>pair.race).timed_out()
        if pair.state == GREETING:
            route.timed_out += 1
            pair_close(pair, True)
        else:
            pair_unreachable(pair, ETIMEDOUT)
    elif pair.state == STARVED:
        connect_next(pair, 0)


cdef bint look_after(Pair *pair, int64_t now) noexcept:
    """See to it that peers that vanish are noticed. False when one has, and with it the pair."""
    cdef Mover mover = (<Route>pair.route).relay.mover
    if not pair.server.kept_alive:
        pair.server.kept_alive = True
        keep_alive(pair.server.source.fd)  # not in `dial`: what is over soon need not be kept alive
    pair.look_at = now + (<Route>pair.route).relay.look_us
    if has_vanished(pair.client.source.fd):
        mover.fail(&pair.client)
    if has_vanished(pair.server.source.fd):
        mover.fail(&pair.server)
    if pair.client.broken or pair.server.broken:
        last_words(pair)
        return False
    return True


cdef void pair_close(Pair *pair, bint abruptly) noexcept:
    """End both connections, orderly or with resets, and give everything back."""
    cdef Route route = <Route>pair.route
    cdef TcpRelay relay = route.relay
    side_close(&pair.client, relay, abruptly)
    side_close(&pair.server, relay, abruptly)
    race_over(pair)
    drop_backend(pair)
    free(pair.origin)
    wheel_take(&relay.wheel, &pair.link)
    relay.loop.unschedule(&pair.work)
    if pair.prev != NULL:
        pair.prev.next = pair.next
    else:
        relay.first = pair.next
    if pair.next != NULL:
        pair.next.prev = pair.prev
    route.connections -= 1
    relay.tally.leave(route.slot)
    relay.gate.leave()
    Py_XDECREF(<PyObject *>pair.route)
    relay.loop.free_later(pair)


cdef void side_close(Side *side, TcpRelay relay, bint abruptly) noexcept:
    relay.mover.drop(side)
    if side.source.fd >= 0 and not abruptly:
        finish_on_close(side.source.fd)
    relay.loop.close(&side.source)
