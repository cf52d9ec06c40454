"""TCP relay: rules come, change and go. What happens to a connection: _relaying.pyx."""

from functools import partial

from mproxy.io._accept cimport Accepting, Acceptor, accept_on
from mproxy.io._socket cimport Target
from mproxy.relay.rules import Rule, RuleOptions
from mproxy.relay.tcp._closing cimport pair_close
from mproxy.relay.tcp._going_on cimport go_on, key_of, take_in
from mproxy.relay.tcp._pair cimport Pair
from mproxy.relay.tcp._pipes cimport close_strange_pipes
from mproxy.relay.tcp._relaying cimport accepted, begin, pair_due, prepare_client
from mproxy.relay.tcp._tcp_rule cimport TcpRule


cdef enum:
    ACCEPTS_A_TURN = 8     # before other workers get a chance; with one worker it makes no difference


_relays = set()  # open ones: the kernel holds pointers to their pairs


cdef class TcpRelay:
    """Relays what the listening sockets of its rules accept. `max_connections`: of all rules and workers; 0: no bound.
    `tally`: where connections are counted together with those of other workers."""

    def __init__(self, Loop loop, observer, uint32_t max_connections=0, Tally tally=None):
        self.pairs = PairSet(loop, observer, max_connections, tally or Tally())
        self.pairs.due = pair_due
        self.rules = {}
        _relays.add(self)

    @property
    def count(self):
        """Connections now."""
        return self.pairs.gate.count

    def keep_accounts(self):
        """From now on tell the observer of each connection that has ended: `on_ended`."""
        self.pairs.keeps_accounts = True

    def keep(self, int descriptors):
        """Leave this many of the process's descriptors to others."""
        self.pairs.gate.kept = descriptors

    def add(self, key, rule, fds):
        """Accept on the listening sockets `fds` (duplicates of the caller's) by `rule`; then `set_targets`."""
        cdef TcpRule added = TcpRule(self.pairs, key, rule)
        cdef Accepting how
        how.prepare, how.accepted, how.owner = prepare_client, accepted, <void *>added
        how.turn_over, how.with_address, how.most = NULL, True, ACCEPTS_A_TURN
        self.rules[key] = added
        for fd in fds:
            added.acceptors.append(accept_on(self.pairs.gate, fd, &how))

    def set_targets(self, key, targets, weights=None, failing=None):
        """Set where connections of a rule go: a Target for each of its targets, count 0 while it is not resolved; the
        rest as in Balance."""
        (<TcpRule>self.rules[key]).balance.set_targets(targets, weights, failing)

    def ask(self, key):
        """Let the observer name the target of each connection: on_wanted(key, fd), to be answered by `relay`."""
        (<TcpRule>self.rules[key]).ask = True

    def relay(self, key, int fd, Target target):
        """Answer to `on_wanted`; target None resets the connection."""
        if target is None or key not in self.rules:
            self.pairs.refuse(fd)
            return
        self.set_targets(key, [target])  # an address that was there before keeps its state: callers share it
        begin(self.rules[key], fd, NULL)

    def take_over(self, records):
        """Go on with the pairs of `find_survivors`, after all rules were added: how many do, and how many were lost.

        A rule that was removed meanwhile has its connections to their end.
        """
        cdef TcpRule rule
        gone, going_on = {}, 0
        for number in records:
            key = key_of(number)
            rule = self.rules.get(key) or gone.get(key)
            if rule is None:
                rule = gone[key] = TcpRule(self.pairs, key, Rule(0, "tcp", "", 0, (), RuleOptions()))
            going_on += go_on(rule, number)
        close_strange_pipes()
        return going_on, len(records) - going_on

    def take_in(self, key, int fd):
        """Begin with a connection that was accepted for a rule, as if it had just come; the descriptor is ours."""
        take_in(self.rules[key], fd)

    def listeners(self):
        """[(key, descriptor of a listening socket), ...] of all rules."""
        return [(key, (<Acceptor>acceptor).source.fd)
                for key, rule in self.rules.items() for acceptor in (<TcpRule>rule).acceptors]

    def update(self, key, rule):
        """Set new options for the same listeners: connections accepted from now on follow them."""
        (<TcpRule>self.rules[key]).configure(rule)

    def remove(self, key):
        """Accept nothing more by this rule; its connections go on."""
        for acceptor in (<TcpRule>self.rules.pop(key)).acceptors:
            acceptor.close()

    def stats(self, key):
        """Counters of a rule since `add`, named as in TcpRule."""
        return (<TcpRule>self.rules[key]).stats()

    def down(self, key):
        """[(HOST:PORT, errno), ...]: addresses of a rule that are left out."""
        return (<TcpRule>self.rules[key]).balance.down()

    def close(self):
        """Accept nothing more, and reset every connection."""
        for key in list(self.rules):
            self.remove(key)
        while self.pairs.all.first != NULL:
            pair_close(<Pair *>self.pairs.all.first, True)
        self.pairs.loop.soon.append(partial(_relays.discard, self))
