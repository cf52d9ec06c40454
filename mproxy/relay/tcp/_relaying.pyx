"""Life of a relayed connection:

1. `accepted`: the networks of the rule and its limit are checked (`begin`); one too many is reset at once.
2. GREETING, CONNECTING, STARVED: `advance` (_connecting.pyx), until there is a server.
3. OPEN: `run_pair` lets the Mover move what the events of the turn allow, in both directions.
4. ENDING: one of the two broke; the other gets what it sent before (`last_words`).
5. `pair_close` (_closing.pyx).
"""

from functools import partial

from cpython.ref cimport Py_INCREF
from libc.errno cimport ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc

from mproxy.ground._arena cimport arena_turn
from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage
from mproxy.ground._stores cimport store_whole
from mproxy.io._accept cimport Acceptor
from mproxy.io._loop cimport Source, Work
from mproxy.io._socket cimport IPPROTO_TCP, SOL_SOCKET, SO_OOBINLINE, TCP_NODELAY, reset_on_close, set_option
from mproxy.relay._accounts cimport (
    BAD_HEADER, CLIENT_BROKE, DONE, IN_CIRCLE, SILENT, TARGET_BROKE, Noted,
)
from mproxy.relay._circle cimport LOOK_EVERY
from mproxy.relay._hops cimport save_hops
from mproxy.relay.tcp._closing cimport pair_close, pair_unreachable
from mproxy.relay.tcp._connecting cimport advance, connect_next
from mproxy.relay.tcp._keepalive cimport has_vanished, keep_alive
from mproxy.relay.tcp._mover cimport AGAIN, Mover, MoveOutcome, Side, side_holds, side_mark, side_owed
from mproxy.relay.tcp._pair cimport ENDING, GREETING, OPEN, STARVED, next_look, read_early, side_init
from mproxy.relay.tcp._pair_record cimport PairRecord, pair_record_claim, pair_record_free, pair_record_new
from mproxy.relay.tcp._pair_set cimport PairSet
from mproxy.relay.tcp._race cimport Race
from mproxy.relay.tcp._wheel cimport TICK_US


# ---- it begins

cdef void prepare_client(int fd) noexcept nogil:
    """Set the options of a client's connection, or of the listening socket that it inherits them from."""
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1)  # else urgent bytes would not be read
    keep_alive(fd, NULL)
    reset_on_close(fd)  # even if this process is killed: `finish_on_close` is for an end in order


cdef void accepted(void *owner, int fd, sockaddr_storage *address) noexcept:
    """Take on a new connection of the rule `owner`, or reset it."""
    cdef TcpRule rule = <TcpRule>owner
    if not rule.admits(<sockaddr *>address) or not rule.accept_proxy and rule.comes_too_often(<sockaddr *>address):
        rule.refused += 1
        rule.pairs.refuse(fd)
    elif rule.ask:
        rule.pairs.tell(partial(rule.pairs.observer.on_wanted, rule.key, fd))
    else:
        begin(rule, fd, address)


cdef void begin(TcpRule rule, int fd, const sockaddr_storage *address) noexcept:
    """Make a pair of the connection, if the rule may have one more. `address`: the client's, NULL: not known."""
    cdef PairSet pairs = rule.pairs
    cdef Pair *pair
    if not pairs.tally.enter(rule.slot, rule.most):
        rule.refused += 1
        pairs.refuse(fd)
        return
    pair = pair_new(rule, pair_record_new(), fd)
    if pair == NULL:
        pairs.tally.leave(rule.slot)
        pairs.refuse(fd)
        return
    pair.record.key = rule.number
    pair.record.greeting = rule.accept_proxy
    pair.record.began_us = pair.since
    pair.record.client.fd = fd + 1
    pair_record_claim(pair.record)
    if rule.has_keepalive:
        keep_alive(fd, &rule.keepalive)
    if pairs.keeps_accounts and address != NULL:
        note(pair, address)
    rule.connections += 1
    rule.total += 1
    store_whole(arena_turn, pair.record.serial)
    welcome(rule, pair)
    store_whole(arena_turn, 0)


cdef void welcome(TcpRule rule, Pair *pair) noexcept:
    """Let the new pair begin, if it is no part of a circle."""
    cdef PairSet pairs = rule.pairs
    if rule.total % LOOK_EVERY == 0 and rule.guard.hops.look(rule.connections):
        for acceptor in rule.acceptors:
            save_hops((<Acceptor>acceptor).source.fd, rule.guard.hops.counting)
    if rule.guard.finds(pair, rule.total, rule.connections):
        pairs.tell(partial(pairs.observer.on_circle, rule.key))
        reset_all(rule)
        return
    pair.record.hops = pair.hops
    if pair.hops == 1:
        rule.refused += 1
        pair.why = IN_CIRCLE
        pair_close(pair, True)
        return
    if not rule.accept_proxy and not rule.proxy:
        read_early(pair, pairs.mover.buffer)
    pairs.mover.watch(&pair.client, False)
    if rule.connect_us:
        pairs.wait_until(pair, pair.since + rule.connect_us)
    if not rule.accept_proxy:
        connect_next(pair, 0)


cdef void note(Pair *pair, const sockaddr_storage *address) noexcept nogil:
    """Begin what is noted for the access log; without memory there is none."""
    pair.noted = <Noted *>calloc(1, sizeof(Noted))
    if pair.noted != NULL:
        pair.noted.peer = address[0]
        pair.noted.began_us = pair.since


cdef Pair *pair_new(TcpRule rule, PairRecord *record, int fd) noexcept:
    """A pair with that record, of which `fd` is the client's socket; NULL when there is no memory, for either."""
    cdef Pair *pair = <Pair *>calloc(1, sizeof(Pair)) if record != NULL else NULL
    if pair == NULL:
        if record != NULL:
            pair_record_free(record)
        return NULL
    pair.record = record
    side_init(&pair.client, pair, &pair.server, fd, side_ready)
    side_init(&pair.server, pair, &pair.client, -1, side_ready)
    pair.client.writable = True
    pair.work.run = run_pair
    pair.work.owner = pair
    pair.link.owner = pair
    pair.rule = <void *>rule
    Py_INCREF(rule)
    pair.state = GREETING
    pair.since = rule.pairs.loop.now_us
    pair.idle_us = rule.idle_us
    rule.pairs.add(pair)
    return pair


cdef void reset_all(TcpRule rule) noexcept:
    """End the connections of one rule."""
    cdef Pair *pair = <Pair *>rule.pairs.all.first
    cdef Pair *after
    while pair != NULL:
        after = <Pair *>pair.in_all.next
        if pair.rule == <void *>rule:
            pair.why = IN_CIRCLE
            pair_close(pair, True)
        pair = after


# ---- it goes on, and ends

cdef void side_ready(Source *source, uint32_t events) noexcept:
    cdef Pair *pair = <Pair *>source.owner
    side_mark(<Side *>source, events)  # the source is the first field of its side
    (<TcpRule>pair.rule).pairs.loop.schedule(&pair.work)


cdef void run_pair(Work *work) noexcept:
    """Do what the events of this turn allow. If that kills the process, it is known whose turn it was."""
    cdef Pair *pair = <Pair *>work.owner
    store_whole(arena_turn, pair.record.serial)
    take_turn(pair)
    store_whole(arena_turn, 0)


cdef void take_turn(Pair *pair) noexcept:
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef Mover mover = rule.pairs.mover
    cdef uint64_t before = mover.moved, came = rule.bytes_in, left = rule.bytes_out
    cdef MoveOutcome up, down
    if pair.state < OPEN and not advance(pair):
        return
    up = mover.move(&pair.client, &rule.bytes_in)
    down = mover.move(&pair.server, &rule.bytes_out)
    if pair.noted != NULL:
        pair.noted.bytes_in += rule.bytes_in - came
        pair.noted.bytes_out += rule.bytes_out - left
    if mover.moved != before:
        pair.since = rule.pairs.loop.now_us
    if up == AGAIN or down == AGAIN:
        rule.pairs.loop.schedule(&pair.work)
    if pair.client.broken or pair.server.broken:
        last_words(pair)
    elif pair.client.write_ended and pair.server.write_ended:
        pair.why = DONE
        pair_close(pair, False)
    if mover.pool.open:
        rule.pairs.arm()


cdef void last_words(Pair *pair) noexcept:
    """One of the two broke: reset the other one as soon as it has everything that was sent before."""
    cdef PairSet pairs = (<TcpRule>pair.rule).pairs
    cdef Side *told = &pair.server if pair.client.broken else &pair.client
    cdef int64_t owed
    if pair.state != ENDING:
        pair.state = ENDING
        pair.why = CLIENT_BROKE if pair.client.broken else TARGET_BROKE
        (<TcpRule>pair.rule).failed += 1
    if told.broken:
        pair_close(pair, True)
        return
    owed = side_owed(told)
    if not told.other.read_ended and not side_holds(told):
        pairs.loop.schedule(&pair.work)
    elif told.other.read_ended and owed == 0:
        pair_close(pair, True)
        return
    if owed != pair.owed:
        pair.owed = owed
        pair.since = pairs.loop.now_us
    pairs.wait_until(pair, pairs.loop.now_us + TICK_US)


cdef void pair_due(Pair *pair, int64_t now) noexcept:
    """The time-out has fallen out of the wheel."""
    store_whole(arena_turn, pair.record.serial)
    time_out(pair, now)
    store_whole(arena_turn, 0)


cdef void time_out(Pair *pair, int64_t now) noexcept:
    cdef TcpRule rule = <TcpRule>pair.rule
    if pair.state == OPEN:
        if now >= pair.look_at and not look_after(pair, now):
            return
        pair.due_at = next_look(pair)  # a byte since then may have put it off
    if now < pair.due_at:
        rule.pairs.wait_until(pair, pair.due_at)
    elif pair.state == OPEN:
        rule.timed_out += 1
        pair.why = SILENT
        pair_close(pair, True)
    elif pair.state == ENDING:
        if now - pair.since >= rule.pairs.last_words_us:
            pair_close(pair, True)
        else:
            last_words(pair)
    elif rule.connect_us and now >= pair.since + rule.connect_us:
        if pair.race != NULL:
            (<Race>pair.race).timed_out()
        if pair.state == GREETING:
            rule.timed_out += 1
            pair.why, pair.error = BAD_HEADER, ETIMEDOUT
            pair_close(pair, True)
        else:
            pair_unreachable(pair, ETIMEDOUT)
    elif pair.state == STARVED:
        connect_next(pair, 0)


cdef bint look_after(Pair *pair, int64_t now) noexcept:
    """Have vanished peers noticed. False when one has vanished, and the pair is closed."""
    cdef Mover mover = (<TcpRule>pair.rule).pairs.mover
    if not pair.server.kept_alive:
        pair.server.kept_alive = True
        keep_alive(pair.server.source.fd, NULL)  # not in `dial`: what is soon over need not be kept alive
    pair.look_at = now + (<TcpRule>pair.rule).pairs.look_us
    if has_vanished(pair.client.source.fd):
        mover.fail(&pair.client)
        pair.error = ETIMEDOUT
    if has_vanished(pair.server.source.fd):
        mover.fail(&pair.server)
        pair.error = ETIMEDOUT
    if pair.client.broken or pair.server.broken:
        last_words(pair)
        return False
    return True
