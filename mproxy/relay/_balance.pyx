"""Which target a connection goes to. The rules: _balance.pxd."""


cdef class Backend:
    """A target and how it is doing."""

    def __init__(self, Target target):
        self.target = target


cdef class Balance:
    """The targets of one rule. Call order: `choose`, then `failed` or `worked` for what was chosen."""

    def __init__(self, bint least=False):
        self.backends = []
        self.least = least

    def set_targets(self, targets):
        """New addresses (Target, ...). A target that was there before, by its text, keeps its state."""
        known = {backend.target.text: backend for backend in self.backends}
        backends = []
        for target in targets:
            backend = known.pop(target.text, None)
            if backend is None:
                backend = Backend(target)
            (<Backend>backend).target = target
            backends.append(backend)
        self.backends = backends

    cdef Backend choose(self, int64_t now):
        """The target for the next connection; None when there is none with an address."""
        cdef Backend backend, best = None
        cdef uint32_t i, at, count = <uint32_t>len(self.backends)
        for i in range(count):
            at = (self.turn + i) % count
            backend = <Backend>self.backends[at]
            if backend.target.count == 0 or (backend.failures and now < backend.down_until):
                continue
            if backend.failures:  # the time is up: this connection tries, the others wait for what it finds
                backend.down_until = now + backoff_us(backend.failures)
                return backend
            if best is None or (self.least and backend.connections < best.connections):
                best = backend
                if not self.least:
                    break
        if best is None:
            return self.last_resort()
        self.turn = (<uint32_t>self.backends.index(best) + 1) % count
        return best

    cdef Backend last_resort(self):
        """Of those that are down, the one whose time is up first; None when not one has an address."""
        cdef Backend backend, best = None
        for backend in self.backends:
            if backend.target.count and (best is None or backend.down_until < best.down_until):
                best = backend
        return best

    cdef bint failed(self, Backend backend, int64_t now):
        """Not one address answered; true when that is news."""
        backend.failures = min(backend.failures + 1, <uint32_t>32)
        backend.down_until = now + backoff_us(backend.failures)
        return backend.failures == 1

    cdef bint worked(self, Backend backend):
        """It answered; true when that is news."""
        cdef bint was_down = backend.failures > 0
        backend.failures = 0
        return was_down

    # ---- for tests

    def pick(self, int64_t now):
        """`choose`, counting the connection."""
        cdef Backend backend = self.choose(now)
        if backend is None:
            return None
        backend.connections += 1
        return backend

    def end(self, Backend backend):
        """A connection has ended."""
        backend.connections -= 1

    def note(self, Backend backend, bint good, int64_t now):
        """`worked` or `failed`."""
        return self.worked(backend) if good else self.failed(backend, now)


cdef inline int64_t backoff_us(uint32_t failures) noexcept:
    if failures > 5:  # 1 s << 5 is beyond the longest
        return LONGEST_BACKOFF_US
    return min(<int64_t>BACKOFF_US << (failures - 1), <int64_t>LONGEST_BACKOFF_US)
