"""The relay's tables and rules as Python sees them."""

import ipaddress

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mproxy.ground._sockaddr cimport AF_INET, AF_INET6, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage
from mproxy.io._ports cimport port_rest, port_rests
from mproxy.relay._balance cimport TargetAddress, Balance
from mproxy.relay._cidr cimport CidrSet
from mproxy.relay._newcomers cimport Newcomers
from mproxy.relay._proxy_header cimport Origin, datagram_header_parse, header_parse
from mproxy.relay._tally cimport ALL_RULES, Tally
from mproxy.relay.tcp._pipes cimport Pipe, PipePool
from mproxy.relay.tcp._wheel cimport Wheel, WheelLink, wheel_due, wheel_init, wheel_put, wheel_sweep, wheel_take
from mproxy.relay.udp._flow_table cimport (
    OF_GROUP, OF_TABLE, STANDINGS, FlowEntry, FlowGroup, FlowKey, Roll, FlowTable, FlowSource, group_ended,
)
from mproxy.relay.udp._gather cimport Gather, gather_decide, gather_full, gather_is_due
from mproxy.relay.udp._runs cimport ANY_SEGMENT, Piece, Run, run_next
from mproxy.relay.udp._udp_relay cimport UdpRelay


# ---- which target

cdef class DrivenBalance(Balance):
    """A Balance whose decisions Python asks for."""

    def pick(self, int64_t now, tried=None):
        """`choose`, counting the connection."""
        cdef TargetAddress address = self.choose(now, tried)
        if address is None:
            return None
        address.connections += 1
        return address

    def end(self, TargetAddress address):
        """A connection has ended."""
        address.connections -= 1

    def note(self, TargetAddress address, bint good, int64_t now, began=None, int error=111):
        """`worked` or `failed`."""
        return self.worked(address) if good else self.failed(address, now if began is None else began, now, error)

    def ask(self, TargetAddress address, int64_t now):
        """`asks`."""
        self.asks(address, now)

    def answer(self, TargetAddress address, int64_t now):
        """`answers`, and `worked` where it is due."""
        self.answers(address, now)
        return self.worked(address) if address.failures else False


# ---- who may come

cdef sockaddr_storage address_of(text):
    """An IPv4 or IPv6 address, without a port."""
    cdef sockaddr_storage out
    cdef sockaddr_in *v4 = <sockaddr_in *>&out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>&out
    cdef const uint8_t *packed
    address = ipaddress.ip_address(text)
    data = address.packed
    packed = data
    memset(&out, 0, sizeof(out))
    if address.version == 4:
        v4.sin_family = AF_INET
        memcpy(&v4.sin_addr, packed, 4)
    else:
        v6.sin6_family = AF_INET6
        memcpy(&v6.sin6_addr, packed, 16)
    return out


cdef class DrivenNewcomers(Newcomers):
    """Newcomers that are let in by text."""

    def let_in(self, text, int64_t now, int64_t every_ns, int burst, uint64_t rule=1):
        """`admits`."""
        cdef sockaddr_storage address = address_of(text)
        return self.admits(rule, <sockaddr *>&address, now, every_ns, burst)


cdef class DrivenNetworks(CidrSet):
    """A CidrSet that is asked by text."""

    def __contains__(self, text):
        """Whether the address is in the set."""
        cdef sockaddr_storage address = address_of(text)
        return self.has(<sockaddr *>&address)


# ---- bounds

cdef class DrivenTally(Tally):
    """A Tally that Python enters."""

    def try_enter(self, key, uint32_t most):
        """`enter`; key None: all rules."""
        return self.enter(ALL_RULES if key is None else self.slot(key), most)

    def share_of(self, key, uint32_t most):
        """`share`."""
        return self.share(self.slot(key), most)


cdef class DrivenPipes(PipePool):
    """A PipePool that lends to Python."""

    def borrow(self, int64_t now):
        """`take`: a handle, or None."""
        cdef Pipe *pipe = self.take(now)
        return None if pipe == NULL else <uintptr_t>pipe

    def bring_back(self, uint64_t handle, uint32_t held=0):
        """`give` with so many bytes in it."""
        (<Pipe *><uintptr_t>handle).held = held
        self.give(<Pipe *><uintptr_t>handle)

    def trim_unused(self):
        """`trim`."""
        self.trim()


def rest(uint16_t port, int64_t now, int64_t rest_us, bint owed=True):
    """`port_rest`."""
    port_rest(port, now, rest_us, owed)


def rests(uint16_t port, int64_t now):
    """`port_rests`."""
    return port_rests(port, now)


# ---- PROXY protocol

def parse_header(bytes data):
    """(length, origin as for `make_header`); length 0: more is to come; None: no header."""
    cdef Origin found
    return say_header(header_parse(data, <int>len(data), &found), &found)


def parse_datagram_header(bytes data):
    """Likewise of a datagram."""
    cdef Origin found
    return say_header(datagram_header_parse(data, <int>len(data), &found), &found)


cdef object say_header(int length, const Origin *found):
    if length < 0:
        return None
    if length == 0 or found.family == 0:
        return length, None
    size = 4 if found.family == AF_INET else 16
    source = str(ipaddress.ip_address((<char *>found.source)[:size]))
    destination = str(ipaddress.ip_address((<char *>found.destination)[:size]))
    return length, ((source, found.source_port), (destination, found.destination_port))


# ---- packets

def decide(reads, queue_bytes=1 << 23):
    """reads: [(now, messages read, packets the other way so far, packets dropped so far)]; returns how
    long to let messages gather after each, microseconds."""
    cdef Gather gather = Gather(0, 0, 0, 0, 0, 0, gather_full(queue_bytes))
    waits = []
    for now, came, answered, dropped in reads:
        gather.came += came
        if gather_is_due(&gather, now):
            gather_decide(&gather, now, answered, dropped)
        waits.append(gather.wait_us)
    return waits


def plan(messages, uint32_t segment_limit=ANY_SEGMENT):
    """messages: [(length, segment)]; returns the runs: [(messages in it, segment or 0, one by one)]."""
    cdef Piece pieces[256]
    cdef Run run
    cdef int count = 0, done = 0
    for length, segment in messages:
        pieces[count].length = length
        pieces[count].segment = segment
        count += 1
    runs = []
    while done < count:
        run_next(&pieces[done], count - done, segment_limit, &run)
        runs.append((run.pieces, run.segment, run.one_by_one))
        done += run.pieces
    return runs


def gathering_count(UdpRelay relay):
    """Listeners whose packets gather just now."""
    return len(relay.forwarder.gathering)


# ---- time-outs

cdef class TimeoutWheel:
    """A wheel whose links have names. Times in microseconds."""

    cdef Wheel wheel   # the wheel behind this view
    cdef dict links    # name -> address of its link
    cdef dict names    # address of a link -> name

    def __init__(self, int64_t now):
        wheel_init(&self.wheel, now)
        self.links, self.names = {}, {}

    def __dealloc__(self):
        for address in self.names:
            free(<void *><uintptr_t>address)

    @property
    def count(self):
        """Links in the wheel."""
        return self.wheel.count

    def put(self, name, int64_t at):
        """Put a link in, or move it."""
        cdef WheelLink *link
        if name not in self.links:
            link = <WheelLink *>calloc(1, sizeof(WheelLink))
            if link == NULL:
                raise MemoryError
            self.links[name] = <uintptr_t>link
            self.names[<uintptr_t>link] = name
        wheel_put(&self.wheel, <WheelLink *><uintptr_t>self.links[name], at)

    def take(self, name):
        """Take a link out."""
        wheel_take(&self.wheel, <WheelLink *><uintptr_t>self.links[name])

    def sweep(self, int64_t now):
        """Names of the links that fall out."""
        cdef WheelLink *link
        fallen = []
        wheel_sweep(&self.wheel, now)
        link = wheel_due(&self.wheel)
        while link != NULL:
            fallen.append(self.names[<uintptr_t>link])
            link = wheel_due(&self.wheel)
        return fallen


# ---- flows

cdef class _GroupOfTest:
    cdef FlowGroup group  # an FlowEntry points to it


cdef class Flows:
    """A flow table. Keys: (client, client port, local, local port), addresses of 16 bytes."""

    cdef FlowTable table        # under test
    cdef dict groups               # name -> _GroupOfTest
    cdef dict names                # address of an entry -> its key

    def __init__(self, most, seed=bytes(16)):
        self.table = FlowTable(most, seed)
        self.groups = {}
        self.names = {}

    def __dealloc__(self):
        while self.table is not None and self.table.roll.count:
            self._drop(self.table.some())

    def add_group(self, name, *, idle_us=0, most=0, most_a_source=0):
        """Make a group of flows, or change its bounds."""
        cdef _GroupOfTest group = self.groups.setdefault(name, _GroupOfTest())
        group.group.idle_us, group.group.most, group.group.most_a_source = idle_us, most, most_a_source

    def open(self, name, key, now):
        """Enter a flow; returns the keys that had to go."""
        cdef _GroupOfTest group = self.groups[name]
        cdef FlowEntry *entry = <FlowEntry *>calloc(1, sizeof(FlowEntry))
        cdef FlowEntry *victim
        gone = []
        self._key(key, &entry.key)
        while True:
            victim = self.table.victim(&group.group, &entry.key)
            if victim == NULL:
                break
            gone.append(self._drop(victim))
        assert self.table.insert(entry, &group.group, now) == 0
        self.names[<size_t>entry] = key
        return gone

    def use(self, key, now):
        """Its client sends something; False if it is not there."""
        cdef FlowKey wanted
        self._key(key, &wanted)
        cdef FlowEntry *entry = self.table.find(&wanted)
        if entry != NULL:
            self.table.asks(entry, now)
        return entry != NULL

    def answer(self, key, now, is_last=True):
        """Its client is answered; False if it is not there."""
        cdef FlowKey wanted
        self._key(key, &wanted)
        cdef FlowEntry *entry = self.table.find(&wanted)
        if entry != NULL:
            self.table.answers(entry, is_last, now)
        return entry != NULL

    def close(self, key):
        """Remove a flow; False if it is not there."""
        cdef FlowKey wanted
        self._key(key, &wanted)
        cdef FlowEntry *entry = self.table.find(&wanted)
        if entry != NULL:
            self._drop(entry)
        return entry != NULL

    def expire(self, now):
        """Remove the flows whose time is over; returns their keys in order."""
        cdef FlowGroup *group
        gone = []
        for of_test in self.groups.values():
            group = &(<_GroupOfTest>of_test).group
            while group_ended(group, now) != NULL:
                gone.append(self._drop(group_ended(group, now)))
        return gone

    def next_end(self):
        """See FlowTable.next_end."""
        return self.table.next_end()

    def keys(self, group=None):
        """Keys of the table, or of one group, by standing, and from the least to the most recently used."""
        cdef FlowEntry *entry
        cdef Roll *roll = &self.table.roll
        cdef int which = OF_TABLE
        found = []
        if group is not None:
            which = OF_GROUP
            roll = &(<_GroupOfTest>self.groups[group]).group.roll
        for standing in range(STANDINGS):
            entry = <FlowEntry *>roll.lines[<int>standing].first
            while entry != NULL:
                found.append(self.names[<size_t>entry])
                entry = <FlowEntry *>entry.links[which].next
        return found

    def shape(self):
        """(flows, sources, buckets, longest chain of a bucket)."""
        cdef FlowEntry *entry
        cdef FlowSource *source
        cdef uint32_t i
        cdef int sources = 0, longest = 0, length
        for i in range(self.table.mask + 1):
            length = 0
            entry = self.table.buckets[i]
            while entry != NULL:
                length += 1
                entry = entry.chain
            longest = max(longest, length)
            source = self.table.source_buckets[i]
            while source != NULL:
                sources += 1
                source = source.chain
        return self.table.roll.count, sources, self.table.mask + 1, longest

    cdef object _drop(self, FlowEntry *entry):
        self.table.remove(entry)
        key = self.names.pop(<size_t>entry)
        free(entry)
        return key

    cdef void _key(self, key, FlowKey *out):
        client, client_port, local, local_port = key
        assert len(client) == len(local) == 16
        memset(out, 0, sizeof(FlowKey))
        memcpy(out.client, <const uint8_t *>client, 16)
        memcpy(out.local, <const uint8_t *>local, 16)
        out.client_port, out.local_port = client_port, local_port
