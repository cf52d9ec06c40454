"""The end of a pair.

When both directions are through, the end is orderly; after an error or a time-out both sides are reset. Every socket is
closed with a reset unless that was lifted, so that nothing else looks like an orderly end, even if this process is
killed.
"""

from functools import partial

from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport ETIMEDOUT
from libc.stdlib cimport free

from mproxy.io._socket cimport finish_on_close
from mproxy.relay._accounts cimport NO_TARGET, account_of
from mproxy.relay._balance cimport TargetAddress
from mproxy.relay.tcp._mover cimport Side
from mproxy.relay.tcp._pair cimport drop_address
from mproxy.relay.tcp._pair_record cimport pair_record_free, pair_record_give_up
from mproxy.relay.tcp._pair_set cimport PairSet
from mproxy.relay.tcp._race cimport Race
from mproxy.relay.tcp._tcp_rule cimport TcpRule


cdef void pair_close(Pair *pair, bint abruptly) noexcept:
    """End both connections, orderly or with resets, and release everything."""
    cdef TcpRule rule = <TcpRule>pair.rule
    if pair.noted != NULL:
        tell_ended(pair, rule)
    if not abruptly:
        finish_on_close(pair.client.source.fd)
        finish_on_close(pair.server.source.fd)
    pair_record_give_up(pair.record)  # from here on a next worker closes what is left open, and no more
    side_close(&pair.client, rule.pairs)
    side_close(&pair.server, rule.pairs)
    race_over(pair)
    drop_address(pair)
    pair_record_free(pair.record)
    rule.connections -= 1
    rule.pairs.tally.leave(rule.slot)
    rule.pairs.remove(pair)
    Py_XDECREF(<PyObject *>pair.rule)


cdef void tell_ended(Pair *pair, TcpRule rule) noexcept:
    """Tell the observer what is noted of the pair."""
    cdef TargetAddress address = None
    if pair.address != NULL:
        address = <TargetAddress>pair.address
    rule.pairs.tell(partial(rule.pairs.observer.on_ended, rule.key, account_of(
        pair.noted, rule.pairs.loop.now_us, address, pair.why, pair.error)))
    free(pair.noted)
    pair.noted = NULL


cdef void side_close(Side *side, PairSet pairs) noexcept:
    pairs.mover.drop(side)
    pairs.loop.close(&side.source)


cdef void pair_unreachable(Pair *pair, int error) noexcept:
    """No target is left to try; `error`: errno of the last attempt, 0: no address is known."""
    cdef TcpRule rule = <TcpRule>pair.rule
    if error == 0:
        rule.refused += 1
    elif error == ETIMEDOUT:
        rule.timed_out += 1
    else:
        rule.failed += 1
    pair.why, pair.error = NO_TARGET, error
    pair_close(pair, True)
    rule.pairs.tell(partial(rule.pairs.observer.on_refused, rule.key, rule.targets_text, error))


cdef void race_over(Pair *pair) noexcept:
    """It is decided who is the pair's server, if anybody: close the other attempts."""
    if pair.race != NULL:
        (<Race>pair.race).over()
        Py_XDECREF(<PyObject *>pair.race)
        pair.race = NULL
