"""Changes of the network: hand-made route messages, suspends with literal clocks, a real address in a namespace."""

import socket
import struct
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.policy.network import (
    SUSPEND_THRESHOLD_US,
    NetlinkParser,
    NetworkEvent,
    NetworkWatch,
    SuspendClock,
    preferred_source,
)

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE = 16, 17, 20, 21, 24, 25
NOOP, ERROR, DONE, OVERRUN = 1, 2, 3, 4
UP, LOWER_UP = 0x1, 0x10000
PERMANENT, TENTATIVE, OPTIMISTIC, DADFAILED = 0x80, 0x40, 0x04, 0x08
UNICAST, LOCAL, BROADCAST, MULTICAST, UNREACHABLE = 1, 2, 3, 5, 7
CLONED = 0x200
IPV4, IPV6 = int(socket.AF_INET), int(socket.AF_INET6)


# --- messages, laid out as in rtnetlink(7) ---

def pad(data):
    return data + bytes(-len(data) % 4)


def message(kind, body):
    return pad(struct.pack("=IHHII", 16 + len(body), kind, 0, 7, 0) + body)


def attribute(kind, payload):
    return pad(struct.pack("=HH", 4 + len(payload), kind) + payload)


def family_of(text):
    return IPV6 if ":" in text else IPV4


def packed(text):
    return socket.inet_pton(family_of(text), text)


def address(kind, text, interface=2, flags=PERMANENT, wide_flags=None, peer=None):
    body = struct.pack("=BBBBI", family_of(text), 24, flags, 0, interface)
    body += attribute(1, packed(peer or text))
    if family_of(text) == IPV4:
        body += attribute(2, packed(text)) + attribute(3, b"eth0\0")
    if wide_flags is not None:
        body += attribute(8, struct.pack("=I", wide_flags))
    return message(kind, body)


def link(kind, flags, interface=2, extra=b""):
    return message(kind, struct.pack("=BxHiII", 0, 1, interface, flags, 0) + attribute(3, b"eth0\0") + extra)


def route(kind, destination=None, length=0, interface=2, route_kind=UNICAST, flags=0, family=IPV4):
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, 254, 2, 0, route_kind, flags)
    if destination:
        body += attribute(1, packed(destination))
    if interface is not None:
        body += attribute(4, struct.pack("=I", interface))
    return message(kind, body)


@pytest.fixture
def parser():
    return NetlinkParser()


# --- addresses ---

@pytest.mark.parametrize("text", ["10.0.0.7", "fd00::5", "fe80::1"])
def test_an_address_comes_and_goes(parser, text):
    assert parser.parse(address(NEWADDR, text, 3)) == [NetworkEvent("address-added", 3, text)]
    assert parser.parse(address(DELADDR, text, 3)) == [NetworkEvent("address-removed", 3, text)]
    assert parser.parse(address(NEWADDR, text, 3)) == [NetworkEvent("address-added", 3, text)]


def test_an_address_announced_again_is_no_news(parser):
    parser.parse(address(NEWADDR, "10.0.0.7", 3))
    assert parser.parse(address(NEWADDR, "10.0.0.7", 3)) == []
    assert parser.parse(address(NEWADDR, "10.0.0.7", 4)) == [NetworkEvent("address-added", 4, "10.0.0.7")]
    assert parser.parse(address(NEWADDR, "10.0.0.8", 3)) == [NetworkEvent("address-added", 3, "10.0.0.8")]


def test_on_a_point_to_point_link_the_address_is_ours_and_not_the_peers(parser):
    assert parser.parse(address(NEWADDR, "10.0.0.7", peer="10.9.9.9"))[0].address == "10.0.0.7"


def test_an_ipv6_address_counts_once_it_may_be_used(parser):
    assert parser.parse(address(NEWADDR, "fd00::5", flags=TENTATIVE)) == []
    assert parser.parse(address(NEWADDR, "fd00::5", flags=PERMANENT | DADFAILED | TENTATIVE)) == []
    assert parser.parse(address(NEWADDR, "fd00::5", wide_flags=0x100 | TENTATIVE)) == []
    assert parser.parse(address(NEWADDR, "fd00::5")) == [NetworkEvent("address-added", 2, "fd00::5")]
    assert len(parser.parse(address(NEWADDR, "fd00::6", flags=TENTATIVE | OPTIMISTIC))) == 1


def test_wide_flags_replace_the_narrow_ones(parser):
    assert len(parser.parse(address(NEWADDR, "fd00::5", flags=TENTATIVE, wide_flags=0x300))) == 1


def test_remembered_addresses_are_bounded(parser):
    for number in range(10_000):
        parser.parse(address(NEWADDR, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
        parser.parse(link(NEWLINK, UP, interface=number))
    assert len(parser._addresses) <= 4096 and len(parser._links) <= 4096


# --- links ---

def test_a_link_reports_only_when_it_goes_up_or_down(parser):
    assert parser.parse(link(NEWLINK, UP)) == [NetworkEvent("link-changed", 2, None, False)]
    assert parser.parse(link(NEWLINK, UP)) == []
    assert parser.parse(link(NEWLINK, UP | LOWER_UP)) == [NetworkEvent("link-changed", 2, None, True)]
    assert parser.parse(link(NEWLINK, UP | LOWER_UP | 0x40)) == []
    assert parser.parse(link(DELLINK, UP | LOWER_UP)) == [NetworkEvent("link-changed", 2, None, False)]


def test_a_deleted_link_is_forgotten(parser):
    parser.parse(link(NEWLINK, 0))
    assert parser.parse(link(DELLINK, 0)) == []
    assert parser.parse(link(NEWLINK, 0)) == [NetworkEvent("link-changed", 2, None, False)]


def test_wireless_scans_are_no_news(parser):
    assert parser.parse(link(NEWLINK, UP | LOWER_UP, extra=attribute(11, b"scan"))) == []


# --- routes ---

@pytest.mark.parametrize("kind, up", [(NEWROUTE, True), (DELROUTE, False)])
def test_routes(parser, kind, up):
    assert parser.parse(route(kind)) == [NetworkEvent("route-changed", 2, "default", up)]
    assert parser.parse(route(kind, "10.1.0.0", 16)) == [NetworkEvent("route-changed", 2, "10.1.0.0/16", up)]
    assert parser.parse(route(kind, "fd00::", 64, family=IPV6)) == [
        NetworkEvent("route-changed", 2, "fd00::/64", up)]
    assert parser.parse(route(kind, interface=None, route_kind=UNREACHABLE)) == [
        NetworkEvent("route-changed", None, "default", up)]


@pytest.mark.parametrize("values", [
    {"route_kind": LOCAL}, {"route_kind": BROADCAST}, {"route_kind": MULTICAST}, {"flags": CLONED},
    {"family": 128},
])
def test_routes_that_change_nothing_for_us(parser, values):
    assert parser.parse(route(NEWROUTE, **values)) == []


# --- many, lost, broken ---

def test_several_messages_in_one_datagram_keep_their_order(parser):
    datagram = (address(NEWADDR, "10.0.0.7") + message(NOOP, b"") + message(DONE, bytes(4))
                + message(ERROR, bytes(20)) + route(NEWROUTE) + link(NEWLINK, UP))
    kinds = [event.kind for event in parser.parse(datagram)]
    assert kinds == ["address-added", "route-changed", "link-changed"]


def test_an_overflow_forgets_what_may_be_wrong(parser):
    parser.parse(address(NEWADDR, "10.0.0.7"))
    assert parser.parse(message(OVERRUN, b"")) == [NetworkEvent("overflow", None, None, None)]
    assert len(parser.parse(address(NEWADDR, "10.0.0.7"))) == 1


WHOLE = (address(NEWADDR, "10.0.0.7") + route(NEWROUTE, "10.0.0.0", 24) + address(NEWADDR, "fd00::5")
         + link(NEWLINK, UP))


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_datagram_cut_anywhere_never_raises(length):
    whole = NetlinkParser().parse(WHOLE)
    events = NetlinkParser().parse(WHOLE[:length])
    assert events == whole[:len(events)]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_never_raise(data):
    for event in NetlinkParser().parse(data):
        assert isinstance(event, NetworkEvent)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE]), st.binary(max_size=80),
       st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=20)), max_size=4))
def test_any_body_of_a_known_kind_never_raises(kind, start, attributes):
    body = start + b"".join(attribute(*entry) for entry in attributes)
    for event in NetlinkParser().parse(message(kind, body)):
        assert isinstance(event, NetworkEvent)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_any_byte_changed_never_raises(position, value):
    damaged = bytearray(WHOLE)
    damaged[position] = value
    NetlinkParser().parse(bytes(damaged))


class FakeSocket:
    """Its recvmsg follows a script of datagrams and errors, then gives EAGAIN."""

    def __init__(self, *script):
        self.script = list(script)

    def recvmsg(self, size):
        if not self.script:
            raise BlockingIOError(11, "again")
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        data, flags, sender = step
        return data, [], flags, (sender, 0)


@pytest.fixture
def watch():
    watch = NetworkWatch()
    watch.close()
    return watch


def test_a_full_receive_buffer_is_one_overflow_and_reading_goes_on(watch):
    watch._socket = FakeSocket(OSError(105, "ENOBUFS"), (address(NEWADDR, "10.0.0.7"), 0, 0))
    assert [event.kind for event in watch.read_events()] == ["overflow", "address-added"]


def test_a_truncated_datagram_is_an_overflow(watch):
    watch._socket = FakeSocket((address(NEWADDR, "10.0.0.7")[:-3], socket.MSG_TRUNC, 0))
    assert watch.read_events()[0].kind == "overflow"


def test_only_the_kernel_is_believed(watch):
    watch._socket = FakeSocket((address(NEWADDR, "10.0.0.7"), 0, 4711))
    assert watch.read_events() == []


def test_one_call_reads_a_bounded_number(watch):
    watch._socket = FakeSocket(*[(route(NEWROUTE), 0, 0)] * 1000)
    assert len(watch.read_events()) == 64
    assert len(watch.read_events()) == 64


def test_other_errors_are_the_end_of_this_call(watch):
    watch._socket = FakeSocket(OSError(9, "EBADF"))
    assert watch.read_events() == []


# --- the real kernel ---

def in_a_namespace(program):
    """Run Python text in a fresh network namespace; its standard output."""
    command = ["unshare", "--net", sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"needs root, or user namespaces and iproute2: {result.stderr}"
    return result.stdout.split("\n")[:-1]


def test_a_real_address_is_told_and_preferred():
    assert in_a_namespace("""
        import select, subprocess
        from mproxy.policy.network import NetworkWatch, preferred_source

        def ip(*words):
            subprocess.run(["ip", *words], check=True)

        def expect(kind, address):
            while True:
                assert select.select([watch], [], [], 10)[0], f"{kind} {address} did not come"
                if any((event.kind, event.address) == (kind, address) for event in watch.read_events()):
                    return

        watch = NetworkWatch()
        assert watch.read_events() == []
        assert preferred_source(("10.77.0.9", 80)) is None
        ip("link", "set", "lo", "up")
        ip("address", "add", "10.77.0.1/24", "dev", "lo")
        expect("address-added", "10.77.0.1")
        assert preferred_source(("10.77.0.9", 80)) is not None
        ip("address", "add", "fd77::1/128", "dev", "lo")
        expect("address-added", "fd77::1")
        assert preferred_source(("fd77::1", 80, 0, 0)) == "fd77::1"
        ip("route", "add", "10.88.0.0/16", "dev", "lo", "src", "10.77.0.1")
        expect("route-changed", "10.88.0.0/16")
        assert preferred_source(("10.88.1.1", 80)) == "10.77.0.1"
        ip("address", "del", "10.77.0.1/24", "dev", "lo")
        expect("address-removed", "10.77.0.1")
        assert preferred_source(("10.88.1.1", 80)) is None
        watch.close()
        print("done")
    """) == ["done"]


def test_preferred_source_on_this_host():
    assert preferred_source(("127.0.0.1", 80)) == "127.0.0.1"
    assert preferred_source(("127.0.0.1", 0)) == "127.0.0.1"
    assert preferred_source(("not numeric", 80, 0, 0)) is None


# --- suspend ---

class Clocks:
    """CLOCK_MONOTONIC and CLOCK_BOOTTIME in microseconds, moved by hand."""

    def __init__(self):
        self.monotonic_us = 5_000_000
        self.boottime_us = 905_000_000
        self.suspend_clock = SuspendClock(lambda: self.boottime_us)

    def run(self, duration_us):
        self.monotonic_us += duration_us
        self.boottime_us += duration_us

    def suspend(self, duration_us):
        self.boottime_us += duration_us

    def check(self, late_us=0):
        return self.suspend_clock.check(self.monotonic_us - late_us)


@pytest.fixture
def clocks():
    clocks = Clocks()
    assert clocks.check() == 0.0
    return clocks


def test_a_suspend_is_told_once(clocks):
    clocks.run(1_000_000)
    assert clocks.check() == 0.0
    clocks.suspend(3_600_000_000)
    clocks.run(20_000)
    assert clocks.check() == 3600.0
    assert clocks.check() == 0.0


def test_a_long_run_without_suspend_is_none(clocks):
    clocks.run(86_400_000_000)
    assert clocks.check() == 0.0


def test_short_suspends_add_up(clocks):
    clocks.suspend(600_000)
    assert clocks.check() == 0.0
    clocks.suspend(600_000)
    assert clocks.check() == 1.2
    assert clocks.check() == 0.0


def test_a_late_reading_of_now_is_no_suspend(clocks):
    for _ in range(100):
        clocks.run(1_000_000)
        assert clocks.check(late_us=SUSPEND_THRESHOLD_US - 1) == 0.0
        assert clocks.check() == 0.0


def test_a_late_first_reading_hides_no_later_suspend():
    clocks = Clocks()
    clocks.check(late_us=900_000)
    clocks.run(10)
    clocks.check()
    clocks.suspend(SUSPEND_THRESHOLD_US)
    assert clocks.check() == 1.0


def test_the_real_clocks_agree_while_awake():
    clock = SuspendClock()
    assert clock.check(time.monotonic_ns() // 1000) == 0.0
    assert clock.check(time.monotonic_ns() // 1000) < 0.001
