"""A pair on its way to OPEN.

1. GREETING, with accept-proxy only: the header is peeked at until it is complete, then taken (`greet`).
2. CONNECTING: `connect_next` tries an address, and others beside it if that one is slow (`race_on`), until one answers
   (`connected`) or the time is up. STARVED meanwhile, if there is no descriptor.
"""

from functools import partial

from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, ECONNRESET, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPIPE, ETIMEDOUT, errno
from libc.stdint cimport uint8_t

from mproxy._ring cimport ring_used
from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage
from mproxy.io._socket cimport MSG_DONTWAIT, MSG_PEEK, pending_error, recv
from mproxy.relay._accounts cimport BAD_HEADER, CLIENT_BROKE, DONE, TOO_OFTEN
from mproxy.relay._balance cimport TargetAddress
from mproxy.relay.tcp._closing cimport pair_close, pair_unreachable, race_over
from mproxy.relay.tcp._dial cimport dial
from mproxy.relay.tcp._keepalive cimport keep_alive
from mproxy.relay.tcp._mover cimport side_holds
from mproxy.relay.tcp._pair cimport (
    CONNECTING, GREETING, LEFT, OPEN, STARVED, TAKEN, WRONG, HeaderOutcome, drop_address, has_spoken, hold_address,
    name_server, next_look, send_early, send_header, take_header,
)
from mproxy.relay.tcp._pair_set cimport PairSet
from mproxy.relay.tcp._race cimport Race
from mproxy.relay.tcp._tcp_rule cimport TcpRule
from mproxy.relay.tcp._wheel cimport TICK_US, wheel_take


cdef bint advance(Pair *pair) noexcept:
    """Go on towards OPEN; true when it is reached."""
    cdef int error
    if pair.client.failed and not has_spoken(pair):
        pair.why = CLIENT_BROKE
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
    # If it cannot send, the mover will find out why.
    send_early(pair, (<TcpRule>pair.rule).pairs.mover, &(<TcpRule>pair.rule).bytes_in)
    return connected(pair)


cdef bint is_over(Pair *pair, int error) noexcept:
    """Whether the target answered before it failed: it said something and then reset the connection at once."""
    cdef uint8_t first
    if error not in (ECONNRESET, EPIPE) or recv(pair.server.source.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) <= 0:
        return False
    (<TcpRule>pair.rule).pairs.mover.fail(&pair.server)
    return True


cdef bint greet(Pair *pair) noexcept:
    """Take the PROXY header that the client begins with; true when it is complete and the client may come in."""
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef sockaddr_storage client
    cdef HeaderOutcome greeting = take_header(pair, rule.pairs.loop.buffer, rule.deny, rule.proxy != 0, &client)
    if greeting == TAKEN and client.ss_family and rule.comes_too_often(<sockaddr *>&client):
        rule.refused += 1
        pair.why = TOO_OFTEN
        pair_close(pair, True)
        return False
    if greeting == WRONG:
        rule.refused += 1
    if greeting == WRONG or greeting == LEFT:
        pair.why = BAD_HEADER if greeting == WRONG else CLIENT_BROKE if pair.client.failed else DONE
        pair_close(pair, greeting == WRONG or pair.client.failed)
    return greeting == TAKEN


# ---- to a target

cdef void connect_next(Pair *pair, int error) noexcept:
    """Try the next address. If none is left and no attempt is under way, the pair ends with `error`."""
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef TargetAddress address
    cdef int fd
    while True:
        if pair.address == NULL:
            address = next_address(pair)
            if address is None:
                if not is_racing(pair):
                    pair_unreachable(pair, error)
                return
            hold_address(pair, address)
        address = <TargetAddress>pair.address
        pair.dialled_at = rule.pairs.loop.now_us
        fd = dial(address.target, address.index, rule.sources,
                  ring_used(&pair.record.server.waiting) > 0, pair.hops - 1)
        error = errno if fd < 0 else start_wait(pair, fd)
        if error == 0:
            return
        if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            starve(pair)
            return
        address_failed(pair, error)


cdef TargetAddress next_address(Pair *pair):
    """An address that was not tried yet, or None."""
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef Race race
    if pair.race == NULL:
        if len(rule.balance.addresses) < 2:
            pair.attempts += 1
            return rule.balance.choose(rule.pairs.loop.now_us, None) if pair.attempts == 1 else None
        race = Race(rule.pairs.loop, rule.pairs.observer, rule.key, rule.balance)
        race.pair = pair
        race.attempts.work = &pair.work
        Py_INCREF(race)
        pair.race = <void *>race
    return (<Race>pair.race).next()


cdef bint is_racing(Pair *pair) noexcept:
    """Whether other attempts go on beside the newest."""
    return pair.race != NULL and (<Race>pair.race).attempts.all.first != NULL


cdef void starve(Pair *pair) noexcept:
    """There is no descriptor for the next attempt: try it later, while those in the race go on."""
    cdef PairSet pairs = (<TcpRule>pair.rule).pairs
    if is_racing(pair):
        (<Race>pair.race).tried.remove(<TargetAddress>pair.address)
        drop_address(pair)
        (<Race>pair.race).attempts.wait()
    else:
        pair.state = STARVED
        pairs.wait_until(pair, pairs.loop.now_us + TICK_US)


cdef int start_wait(Pair *pair, int fd) noexcept:
    """Wait for the answer; if there is another address, for a moment before that one is tried as well.

    If the answer is there already, as from this host, do not wait. Returns 0, or the errno of a refusal.
    """
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef PairSet pairs = rule.pairs
    cdef int error
    pair.state = CONNECTING
    pair.server.source.fd = fd
    pair.server.writable = pair.server.readable = pair.server.failed = pair.server.hung_up = False
    error = send_early(pair, pairs.mover, &rule.bytes_in)
    if error != 0 and error != EAGAIN:
        pairs.loop.close(&pair.server.source)
        return error
    pairs.mover.watch(&pair.server, error != 0)
    if error == 0:
        pair.server.writable = True
        if connected(pair) and side_holds(&pair.server):
            pairs.loop.schedule(&pair.work)
        return 0
    if pair.race != NULL and (<Race>pair.race).has_other():
        (<Race>pair.race).attempts.wait()
    if not rule.connect_us:
        wheel_take(&pairs.wheel, &pair.link)
    elif pair.due_at != pair.since + rule.connect_us:  # it starved before
        pairs.wait_until(pair, pair.since + rule.connect_us)
    return 0


cdef void address_failed(Pair *pair, int error) noexcept:
    """The newest attempt was refused or not answered. A rule with a single address need not remember that."""
    if pair.race != NULL:
        (<Race>pair.race).failed(<TargetAddress>pair.address, pair.dialled_at, error)
    drop_address(pair)


cdef void attempt_failed(Pair *pair, int error) noexcept:
    (<TcpRule>pair.rule).pairs.loop.close(&pair.server.source)
    pair.server.writable = pair.server.failed = False
    address_failed(pair, error)
    connect_next(pair, error)


cdef bint race_on(Pair *pair) noexcept:
    """Look at the attempts beside the newest, and at the time. False: the newest is another one now, or the pair has
    ended; else the newest, which may be one that has won, is to be looked at."""
    cdef Race race = <Race>pair.race
    cdef int error = 0
    if race.settle((<TcpRule>pair.rule).pairs.mover, &error):
        return True
    if race.attempts.is_due and not pair.server.writable:
        race.step_aside()
        connect_next(pair, ETIMEDOUT)
        return False
    if error and pair.address == NULL and race.attempts.timer is None:  # the newest had failed before: any left?
        connect_next(pair, error)
        return False
    return True


cdef bint connected(Pair *pair) noexcept:
    """The target answered: let the bytes flow. False when the pair has ended already."""
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef PairSet pairs = rule.pairs
    cdef TargetAddress address = <TargetAddress>pair.address
    race_over(pair)
    if rule.has_keepalive:
        pair.server.kept_alive = True
        keep_alive(pair.server.source.fd, &rule.keepalive)
    pair.state = OPEN
    pair.since = pairs.loop.now_us
    pair.look_at = pair.since + pairs.look_us
    pairs.wait_until(pair, next_look(pair))
    if address.failures and rule.balance.worked(address):
        pairs.tell(partial(pairs.observer.on_target_up, rule.key, address.text))
    if rule.proxy and not pair.server.broken and not send_header(pair, rule.proxy):
        pair.why = CLIENT_BROKE
        pair_close(pair, True)
        return False
    name_server(pair)
    return True
