"""Which address a connection or flow goes to. The rules: _balance.pxd."""

from libc.errno cimport ETIMEDOUT
from libc.string cimport memcmp


cdef class TargetAddress:
    """An address of a target and how it is doing."""

    def __init__(self, Target target, int index=0):
        self.target = target
        self.index = index
        self.weight = 1

    @property
    def text(self):
        """HOST:PORT, with the address where the host has several."""
        if self.target.count < 2:
            return self.target.text
        return f"{self.target.text} at {self.target.address_text(self.index)}"

    cdef bint at(self, Target target, int index) noexcept:
        """Whether it is this address of a target of the same name."""
        return self.target.text == target.text and self.target.lengths[self.index] == target.lengths[index] and memcmp(
            &self.target.addresses[self.index], &target.addresses[index], target.lengths[index]) == 0

    cdef bint leads_to(self, const sockaddr_storage *address) noexcept:
        """Whether it is that address, as the system gives it of a connection."""
        return memcmp(&self.target.addresses[self.index], address, self.target.lengths[self.index]) == 0


cdef class Balance:
    """The addresses of one rule. Call order: `choose`, then `failed` or `worked` for what was chosen; with datagrams
    `asks` when a flow begins and `answers` for replies."""

    def __init__(self, bint least=False):
        self.targets = []
        self.addresses = []
        self.least = least

    def set_targets(self, targets, weights=None, failing=None):
        """Take new targets (Target, ...). An address known before, of a target with the same text, keeps its state.
        `weights`: of each target, or None: all addresses alike. `failing`: of each target, the numbers of its addresses
        whose health check fails; or None."""
        cdef TargetAddress address
        cdef Target target
        known, addresses, ill = list(self.addresses), [], []
        for number, target in enumerate(targets):
            for index in range(target.count):
                for address in known:
                    if address.at(target, index):
                        known.remove(address)
                        break
                else:
                    address = TargetAddress(target)
                address.target, address.index = target, index
                address.weight = 1 if weights is None else <double>weights[number] / target.count
                addresses.append(address)
                if failing is not None and index in failing[number]:
                    ill.append(address)
        for address in known:
            address.gone = True
        self.weighted = weights is not None
        self.targets, self.addresses = list(targets), addresses
        self._shun(ill)

    def _shun(self, ill):
        """Choose who gets callers: those that are well and have weight, or else the next best. `ill`: with a check that
        fails."""
        cdef TargetAddress address
        well = [one for one in self.addresses if one not in ill] or self.addresses
        chosen = [address for address in well if address.weight > 0] or well
        for address in self.addresses:
            address.failing = address not in well
            address.shunned = address not in chosen
        self.usable = <int>len(chosen)

    cdef TargetAddress choose(self, int64_t now, list tried):
        """The address for the next caller, not one of `tried` (which may be None); None when none is left."""
        cdef TargetAddress address
        cdef uint32_t i, count = <uint32_t>len(self.addresses)
        cdef list fit = []
        for i in range(count):
            address = <TargetAddress>self.addresses[(self.turn + i) % count]
            if address.shunned or tried is not None and address in tried:
                continue
            if address.failures == 0 and self.is_silent(address, now):
                self.failed(address, now, now, ETIMEDOUT)
            if address.failures and now < address.down_until:
                continue
            if address.failures:  # the time is up: this caller tries it, and the others wait for the outcome
                if address.asked:  # whoever tried before was not answered
                    address.failures = min(address.failures + 1, <uint32_t>32)
                address.down_until = now + backoff_us(address.failures)
                return address
            fit.append(address)
            if not self.least and not self.weighted:
                break
        if not fit:
            return self.last_resort(tried)
        address = self.best_of(fit)
        self.turn = (<uint32_t>self.addresses.index(address) + 1) % count
        return address

    cdef TargetAddress best_of(self, list fit):
        """The one of these, in the order of their turns, that is most behind; there is one."""
        cdef TargetAddress address, best = <TargetAddress>fit[0]
        cdef double total = 0
        if self.least:
            for address in fit:
                if (address.connections + 1) * best.weight < (best.connections + 1) * address.weight:
                    best = address
        elif self.weighted:
            for address in fit:
                address.credit += address.weight
                total += address.weight
                if address.credit > best.credit:
                    best = address
            best.credit -= total
        return best

    cdef TargetAddress last_resort(self, list tried):
        """Of the addresses that are down, the one whose time is up first; None when there is none."""
        cdef TargetAddress address, best = None
        for address in self.addresses:
            if address.shunned or tried is not None and address in tried:
                continue
            if best is None or address.down_until < best.down_until:
                best = address
        return best

    cdef bint failed(self, TargetAddress address, int64_t began, int64_t now, int error):
        """An attempt that began at `began` failed; true when that should be reported. ETIMEDOUT: no answer came."""
        address.error = error
        address.is_unsure = error == ETIMEDOUT and now - began < SURE_US
        if address.failures and began <= address.failed_at:
            return self.is_news(address)
        address.failures = min(address.failures + 1, <uint32_t>32)
        address.failed_at = now
        address.down_until = now + backoff_us(address.failures)
        return self.is_news(address)

    cdef bint is_news(self, TargetAddress address):
        """Whether it should be reported that this one is down; true once."""
        if address.told or len(self.addresses) < 2 or address.failures < (2 if address.is_unsure else 1):
            return False
        address.told = True
        return True

    cdef bint worked(self, TargetAddress address):
        """It answered; true when that should be reported."""
        cdef bint was_told = address.told
        address.failures = 0
        address.told = False
        return was_told

    cdef list down(self):
        """[(HOST:PORT, errno), ...] of the addresses that were reported to be down."""
        cdef TargetAddress address
        found = []
        for address in self.addresses:
            if address.told:
                found.append((address.text, address.error))
        return found

    # ---- datagrams

    cdef bint is_silent(self, TargetAddress address, int64_t now):
        return address.asked >= SILENT_FLOWS and now - address.asked_at >= SILENT_US \
            and self.answered_at > address.asked_at

    cdef void asks(self, TargetAddress address, int64_t now) noexcept:
        """A flow begins to ask this address."""
        if address.asked == 0:
            address.asked_at = now
        address.asked += 1

    cdef void answers(self, TargetAddress address, int64_t now) noexcept:
        """A reply came; when the address was down, `worked` is to be called."""
        address.asked = 0
        address.answered_at = self.answered_at = now


cdef inline int64_t backoff_us(uint32_t failures) noexcept:
    if failures > 5:  # 1 s << 5 is beyond the longest
        return LONGEST_BACKOFF_US
    return min(<int64_t>BACKOFF_US << (failures - 1), <int64_t>LONGEST_BACKOFF_US)
