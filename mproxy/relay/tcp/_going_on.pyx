"""Going on with pairs of a worker that is gone: _going_on.pxd."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from mproxy.ground._arena cimport RecordTable, arena_turn, record_at
from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage, socklen_t
from mproxy.ground._stores cimport store_whole
from mproxy.io._kernel_facts cimport KernelFacts, TcpState, ask_kernel
from mproxy.io._socket cimport SHUT_WR, close, close_with_reset, getpeername, pending_error, shutdown
from mproxy.relay._balance cimport TargetAddress
from mproxy.relay._proxy_header cimport origin_source
from mproxy.relay.tcp._closing cimport pair_close
from mproxy.relay.tcp._connecting cimport connect_next
from mproxy.relay.tcp._mover cimport Mover, Side
from mproxy.relay.tcp._pair cimport GREETING, OPEN, Pair, hold_address, next_look, unname_server
from mproxy.relay.tcp._pair_record cimport (
    PIPE_PLACES, PairRecord, PipeRecord, SideRecord, copy_buffer, pair_record_give_up, relay_head,
)
from mproxy.relay.tcp._pair_set cimport PairSet
from mproxy.relay.tcp._relaying cimport accepted, note, pair_new
from mproxy.relay.tcp._settling cimport CONTRADICTION, IN_PIPE, Copied, Settled, forget_bytes, settle_bytes


cdef extern from "<sys/ioctl.h>" nogil:
    int FIONREAD
    int ioctl(int fd, unsigned long request, void *argument)


cdef struct PairFacts:
    KernelFacts client   # what the kernel says of the two sockets
    KernelFacts server


cdef int64_t key_of(uint32_t number) noexcept:
    """The key of the rule of a record."""
    return (<PairRecord *>record_at(RecordTable.PAIR_RECORDS, number)).key


cdef bint go_on(TcpRule rule, uint32_t number) noexcept:
    """Make a pair of a record that `find_survivors` has found. False: it was lost, and is reset."""
    cdef PairRecord *record = <PairRecord *>record_at(RecordTable.PAIR_RECORDS, number)
    cdef PairSet pairs = rule.pairs
    cdef int client = record.client.fd - 1, server = record.server.fd - 1
    cdef PairFacts ends
    cdef Pair *pair
    cdef bint goes_on
    store_whole(arena_turn, record.serial)
    memset(&ends, 0, sizeof(ends))
    ask_kernel(client, &ends.client)
    if server >= 0:
        ask_kernel(server, &ends.server)
    if not ends.client.is_connection or server >= 0 and not ends.server.is_connection:
        pair_record_give_up(record)  # the descriptors are somebody else's, or were closed: not ours to close
        store_whole(arena_turn, 0)
        return False
    pair = pair_new(rule, record, client)
    if pair == NULL:
        pair_record_give_up(record)
        close_with_reset(client)
        if server >= 0:
            close_with_reset(server)
        store_whole(arena_turn, 0)
        return False
    pairs.gate.take()
    pairs.tally.enter(rule.slot, 0)
    rule.connections += 1
    pair.hops = record.hops
    pair.client.source.fd = client
    if server >= 0 and is_unbegun(&ends.server, record.server.prelude):
        unname_server(pair)
        record.server.prelude = 0
        close(server)
        server = -1
    pair.server.source.fd = server
    if pairs.keeps_accounts:
        note_again(pair)
    goes_on = go_on_open(pair, &ends) if server >= 0 else go_on_early(pair, &ends.client)
    if not goes_on:
        rule.failed += 1
        pair_close(pair, True)
    store_whole(arena_turn, 0)
    return goes_on


cdef void note_again(Pair *pair) noexcept:
    """What is noted for the access log, but for the bytes."""
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    if getpeername(pair.client.source.fd, <sockaddr *>&peer, &length) == 0:
        note(pair, &peer)
    if pair.noted != NULL:
        pair.noted.began_us = pair.record.began_us
        if pair.record.origin.family:
            origin_source(&pair.record.origin, &pair.noted.client)


cdef bint is_unbegun(const KernelFacts *facts, uint32_t prelude) noexcept nogil:
    """Whether a socket that was dialled was not answered yet, or refused, or was not told what comes first."""
    if facts.tcp_state == TcpState.CLOSE:
        return facts.acked == 0
    return facts.tcp_state in (TcpState.SYN_SENT, TcpState.SYN_RECV) or (
        prelude != 0 and bytes_written(facts, True) == 0)


# ---- without a server

cdef bint go_on_early(Pair *pair, const KernelFacts *client) noexcept:
    """Begin again where the first byte for a server had not left; what the client has sent early is kept."""
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef PairSet pairs = rule.pairs
    cdef SideRecord *kept = &pair.record.client
    cdef uint64_t read
    if not client.is_counted:
        return False
    read = client.received - client.unread - client.peer_ended
    if pair.record.greeting and read == 0:
        kept.prelude = 0
    if read < kept.prelude or settle(pair, &pair.server, read - kept.prelude, 0) != Settled.IN_RING:
        return False
    set_flags(&pair.client, client)
    pair.client.failed = client.tcp_state == TcpState.CLOSE and not client.peer_ended
    pairs.mover.watch(&pair.client, False)
    if rule.connect_us:
        pairs.wait_until(pair, pair.since + rule.connect_us)
    if pair.record.greeting and kept.prelude == 0:
        pair.state = GREETING
        pairs.loop.schedule(&pair.work)
    else:
        connect_next(pair, 0)
    return True


# ---- with both

cdef bint go_on_open(Pair *pair, const PairFacts *ends) noexcept:
    """Go on where both sides are connected. False: what was done cannot be told."""
    cdef TcpRule rule = <TcpRule>pair.rule
    cdef PairSet pairs = rule.pairs
    cdef Mover mover = pairs.mover
    cdef uint64_t client_read, client_written, server_read, server_written
    if not ends.client.is_counted or not ends.server.is_counted:
        return False
    client_read, server_read = bytes_read(&ends.client), bytes_read(&ends.server)
    client_written = bytes_written(&ends.client, False)
    server_written = bytes_written(&ends.server, True)
    if client_read < pair.record.client.prelude or server_written < pair.record.server.prelude and (
            ends.server.tcp_state != TcpState.CLOSE):
        return False
    set_flags(&pair.client, &ends.client)
    set_flags(&pair.server, &ends.server)
    if not go_on_towards(pair, &pair.server, &ends.server, client_read - pair.record.client.prelude,
                         server_written - pair.record.server.prelude):
        return False
    if not go_on_towards(pair, &pair.client, &ends.client, server_read, client_written):
        return False
    if pair.noted != NULL:
        pair.noted.bytes_in, pair.noted.bytes_out = passed_on(&pair.server), passed_on(&pair.client)
    pair.state = OPEN
    pair.look_at = pair.since + pairs.look_us
    pairs.wait_until(pair, next_look(pair))
    find_address(pair)
    mover.watch(&pair.client, True)
    mover.watch(&pair.server, True)
    pairs.loop.schedule(&pair.work)
    return True


cdef bint go_on_towards(Pair *pair, Side *sink, const KernelFacts *facts, uint64_t read, uint64_t written) noexcept:
    """Set the sink's flags, and what waits for it. False: that cannot be told."""
    cdef Mover mover = (<TcpRule>pair.rule).pairs.mover
    cdef bint over = facts.tcp_state == TcpState.CLOSE
    if sink.record.broken or over and not (
            facts.peer_ended and sink.record.ended and pending_error(sink.source.fd) == 0):
        forget_bytes(sink.record, read)
        mover.fail(sink)
        return True
    if over:
        written = read  # its end was written and acknowledged, and with it all that was before
    if settle(pair, sink, read, written) == CONTRADICTION:
        return False
    if sink.record.ended:
        sink.write_ended = True
        if not over:
            shutdown(sink.source.fd, SHUT_WR)
    return True


cdef Settled settle(Pair *pair, Side *sink, uint64_t read, uint64_t written) noexcept:
    cdef Copied copied
    cdef PipeRecord *pipe = NULL
    cdef uint64_t piped = 0
    cdef int there, i
    cdef Settled settled
    for i in range(PIPE_PLACES):
        if relay_head.pipes[i].read_fd != 0 and relay_head.pipes[i].user == sink.record.mark:
            there = 0
            if ioctl(relay_head.pipes[i].read_fd - 1, FIONREAD, &there) == 0 and there > 0:
                if pipe != NULL:
                    return CONTRADICTION
                pipe = &relay_head.pipes[i]
                piped = <uint64_t>there
    copied.bytes, copied.user, copied.start = copy_buffer, relay_head.copying, relay_head.copy_from
    settled = settle_bytes(sink.record, read, written, piped, &copied)
    if settled == IN_PIPE:
        sink.pipe = (<TcpRule>pair.rule).pairs.mover.pool.adopt(pipe, <uint32_t>piped)
        if sink.pipe == NULL:
            return CONTRADICTION
    return settled


cdef uint64_t passed_on(const Side *sink) noexcept nogil:
    return sink.record.waiting.head - (sink.pipe.held if sink.pipe != NULL else 0)


cdef uint64_t bytes_read(const KernelFacts *facts) noexcept nogil:
    return facts.received - facts.unread - facts.peer_ended


cdef uint64_t bytes_written(const KernelFacts *facts, bint dialled) noexcept nogil:
    """Without meaning once the connection is over."""
    cdef bint ended = facts.tcp_state in (
        TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSING, TcpState.LAST_ACK, TcpState.TIME_WAIT)
    return facts.acked + facts.unacked - dialled - ended


cdef void set_flags(Side *side, const KernelFacts *facts) noexcept nogil:
    """Everything may be possible: the first try shows."""
    side.readable = side.writable = True
    side.hung_up = facts.peer_ended or facts.tcp_state == TcpState.CLOSE


cdef void find_address(Pair *pair) noexcept:
    """The target's address counts the connection, if the rule still has it."""
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    cdef TargetAddress address
    if getpeername(pair.server.source.fd, <sockaddr *>&peer, &length) < 0:
        return
    for address in (<TcpRule>pair.rule).balance.addresses:
        if address.leads_to(&peer):
            hold_address(pair, address)
            return


# ---- accepted, and no more

cdef void take_in(TcpRule rule, int fd) noexcept:
    """A connection that was accepted by a listener of the rule, and from which nothing was read: begin."""
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    if getpeername(fd, <sockaddr *>&peer, &length) < 0:
        close(fd)
        return
    rule.pairs.gate.take()
    accepted(<void *>rule, fd, &peer)
