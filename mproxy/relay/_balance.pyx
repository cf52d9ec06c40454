"""Which address a connection or session goes to. The rules: _balance.pxd."""

from libc.errno cimport ETIMEDOUT
from libc.string cimport memcmp


cdef class Backend:
    """An address of a target and how it is doing."""

    def __init__(self, Target target, int index=0):
        self.target = target
        self.index = index

    @property
    def text(self):
        """HOST:PORT, with the address where the host has several."""
        if self.target.count < 2:
            return self.target.text
        return f"{self.target.text} at {self.target.address_text(self.index)}"

    cdef bint at(self, Target target, int index) noexcept:
        """Whether it is that address of a target of the same name."""
        return self.target.text == target.text and self.target.lengths[self.index] == target.lengths[index] and memcmp(
            &self.target.addresses[self.index], &target.addresses[index], target.lengths[index]) == 0


cdef class Balance:
    """The addresses of one rule. Call order: `choose`, then `failed` or `worked` for what was chosen; with datagrams
    `asks` when a session begins and `answers` for replies."""

    def __init__(self, bint least=False):
        self.targets = []
        self.backends = []
        self.least = least

    def set_targets(self, targets):
        """New addresses (Target, ...). One that was there before, of a target with the same text, keeps its state."""
        cdef Backend backend
        cdef Target target
        known, backends = list(self.backends), []
        for target in targets:
            for index in range(target.count):
                for backend in known:
                    if backend.at(target, index):
                        known.remove(backend)
                        break
                else:
                    backend = Backend(target)
                backend.target, backend.index = target, index
                backends.append(backend)
        for backend in known:
            backend.gone = True
        self.targets, self.backends = list(targets), backends

    cdef Backend choose(self, int64_t now, list tried):
        """The address for the next caller, none of `tried` (or None); None when there is none left."""
        cdef Backend backend, best = None
        cdef uint32_t i, at, count = <uint32_t>len(self.backends)
        for i in range(count):
            at = (self.turn + i) % count
            backend = <Backend>self.backends[at]
            if tried is not None and backend in tried:
                continue
            if backend.failures == 0 and self.is_silent(backend, now):
                self.failed(backend, now, now, ETIMEDOUT)
            if backend.failures and now < backend.down_until:
                continue
            if backend.failures:  # the time is up: this caller tries, the others wait for what it finds
                if backend.asked:  # who tried before was not answered
                    backend.failures = min(backend.failures + 1, <uint32_t>32)
                backend.down_until = now + backoff_us(backend.failures)
                return backend
            if best is None or (self.least and backend.connections < best.connections):
                best = backend
                if not self.least:
                    break
        if best is None:
            return self.last_resort(tried)
        self.turn = (<uint32_t>self.backends.index(best) + 1) % count
        return best

    cdef Backend last_resort(self, list tried):
        """Of those that are down, the one whose time is up first; None when there is none."""
        cdef Backend backend, best = None
        for backend in self.backends:
            if (tried is None or backend not in tried) and (best is None or backend.down_until < best.down_until):
                best = backend
        return best

    cdef bint failed(self, Backend backend, int64_t began, int64_t now, int error):
        """An attempt that began at `began` failed; true when that should be told. ETIMEDOUT: no answer came."""
        backend.error = error
        backend.is_unsure = error == ETIMEDOUT and now - began < SURE_US
        if backend.failures and began <= backend.failed_at:
            return self.is_news(backend)
        backend.failures = min(backend.failures + 1, <uint32_t>32)
        backend.failed_at = now
        backend.down_until = now + backoff_us(backend.failures)
        return self.is_news(backend)

    cdef bint is_news(self, Backend backend):
        """Whether it should be told that this one is down; true once."""
        if backend.told or len(self.backends) < 2 or backend.failures < (2 if backend.is_unsure else 1):
            return False
        backend.told = True
        return True

    cdef bint worked(self, Backend backend):
        """It answered; true when that should be told."""
        cdef bint was_told = backend.told
        backend.failures = 0
        backend.told = False
        return was_told

    cdef list down(self):
        """[(HOST:PORT, errno), ...] of the addresses that are told to be down."""
        cdef Backend backend
        found = []
        for backend in self.backends:
            if backend.told:
                found.append((backend.text, backend.error))
        return found

    # ---- datagrams

    cdef bint is_silent(self, Backend backend, int64_t now):
        return backend.asked >= SILENT_SESSIONS and now - backend.asked_at >= SILENT_US \
            and self.answered_at > backend.asked_at

    cdef void asks(self, Backend backend, int64_t now) noexcept:
        """A session begins to ask this address."""
        if backend.asked == 0:
            backend.asked_at = now
        backend.asked += 1

    cdef void answers(self, Backend backend, int64_t now) noexcept:
        """A reply came; when the address was down, `worked` is to be called."""
        backend.asked = 0
        backend.answered_at = self.answered_at = now


cdef inline int64_t backoff_us(uint32_t failures) noexcept:
    if failures > 5:  # 1 s << 5 is beyond the longest
        return LONGEST_BACKOFF_US
    return min(<int64_t>BACKOFF_US << (failures - 1), <int64_t>LONGEST_BACKOFF_US)
