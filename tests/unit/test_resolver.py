"""Name resolution: which lookup answers which question, with a loop and threads that run only when told."""

import socket
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.policy.resolver import (
    LOOKUPS,
    LOOKUPS_PER_HOST,
    STALE_AFTER_S,
    Resolver,
    interleave,
    look_up_host,
    numeric_address,
)

IPV4, IPV6 = int(socket.AF_INET), int(socket.AF_INET6)


def found(*addresses):
    """What getaddrinfo returns for these numeric addresses."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0)) if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in addresses]


class Bench:
    """A resolver whose loop, clock and threads the test controls.

    `threads` holds the lookups that were started and have not ended; `end(index, result)` ends one of them.
    """

    def __init__(self):
        self.calls = []
        self.threads = []
        self.asked = []
        self.now = 100.0
        self.result = None
        self.resolver = Resolver(self.calls.append, self._getaddrinfo, lambda: self.now, self.threads.append)
        self.answers = {}

    def _getaddrinfo(self, host, port, type):
        self.asked.append(host)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def resolve(self, label, host, port=80):
        def answer(addresses, error):
            self.answers.setdefault(label, []).append((addresses, error))

        return self.resolver.resolve(host, port, answer)

    def end(self, index, result):
        self.result = result
        self.threads.pop(index)()
        self.run_loop()

    def run_loop(self):
        while self.calls:
            self.calls.pop(0)()


@pytest.fixture
def bench():
    return Bench()


def test_a_name_is_looked_up_in_a_thread_and_answered_on_the_loop(bench):
    bench.resolve("a", "foo", 6200)
    assert len(bench.threads) == 1 and not bench.calls
    bench.result = found("10.0.0.1", "10.0.0.2")
    bench.threads.pop()()
    assert bench.answers == {}
    bench.run_loop()
    assert bench.answers == {"a": [([(IPV4, ("10.0.0.1", 6200)), (IPV4, ("10.0.0.2", 6200))], None)]}


def test_a_numeric_address_needs_no_thread_and_is_not_answered_from_within(bench):
    bench.resolve("a", "::1", 6200)
    assert not bench.threads and bench.answers == {}
    bench.run_loop()
    assert bench.answers == {"a": [([(IPV6, ("::1", 6200, 0, 0))], None)]}


def test_cancelled_requests_are_never_answered(bench):
    for host in ("foo", "127.0.0.1"):
        request = bench.resolve("a", host)
        request.cancel()
        request.cancel()
        assert request.cancelled
    bench.resolve("b", "foo")
    bench.end(0, found("10.0.0.1"))
    assert list(bench.answers) == ["b"]


def test_cancel_between_the_threads_end_and_the_loop(bench):
    request = bench.resolve("a", "foo")
    bench.result = found("10.0.0.1")
    bench.threads.pop()()
    request.cancel()
    bench.run_loop()
    assert bench.answers == {}


def test_cancel_after_the_answer_changes_nothing(bench):
    request = bench.resolve("a", "foo")
    bench.end(0, found("10.0.0.1"))
    request.cancel()
    assert len(bench.answers["a"]) == 1


def test_requests_for_one_host_share_a_lookup_and_keep_their_ports(bench):
    for port in range(1, 101):
        bench.resolve(port, "foo", port)
    assert len(bench.threads) == 1
    bench.end(0, found("10.0.0.1"))
    assert all(bench.answers[port] == [([(IPV4, ("10.0.0.1", port))], None)] for port in range(1, 101))


def test_every_dial_resolves_anew(bench):
    bench.resolve("a", "foo")
    bench.end(0, found("10.0.0.1"))
    bench.resolve("b", "foo")
    bench.end(0, found("10.0.0.9"))
    assert bench.answers["b"][0][0][0][1][0] == "10.0.0.9"
    assert bench.asked == [b"foo", b"foo"]


def test_a_stuck_lookup_is_joined_at_first_and_then_overtaken(bench):
    bench.resolve("a", "foo")
    bench.now += STALE_AFTER_S
    bench.resolve("b", "foo")
    assert len(bench.threads) == 1
    bench.now += 0.1
    bench.resolve("c", "foo")
    assert len(bench.threads) == 2
    bench.end(1, found("10.0.0.1"))
    assert sorted(bench.answers) == ["a", "b", "c"]
    bench.end(0, found("10.0.0.2"))
    assert all(len(answers) == 1 for answers in bench.answers.values())


def test_after_a_change_of_the_network_the_next_request_starts_fresh(bench):
    bench.resolve("a", "foo")
    bench.resolver.network_changed()
    assert len(bench.threads) == 1
    bench.resolve("b", "foo")
    bench.resolve("c", "foo")
    assert len(bench.threads) == 2


def test_a_stale_failure_does_not_reach_those_who_wait_for_a_fresh_lookup(bench):
    bench.resolve("a", "foo")
    bench.resolver.network_changed()
    bench.resolve("b", "foo")
    bench.end(0, socket.gaierror(socket.EAI_AGAIN, "try again"))
    assert list(bench.answers) == ["a"]
    bench.end(0, found("10.0.0.1"))
    assert bench.answers["b"] == [([(IPV4, ("10.0.0.1", 80))], None)]


def test_a_fresh_failure_reaches_the_elder_too(bench):
    bench.resolve("a", "foo")
    bench.resolver.network_changed()
    bench.resolve("b", "foo")
    bench.end(1, socket.gaierror(socket.EAI_NONAME, "no name"))
    assert sorted(bench.answers) == ["a", "b"]


def test_after_an_elder_ended_the_newest_can_still_be_joined(bench):
    bench.resolve("a", "foo")
    bench.resolver.network_changed()
    bench.resolve("b", "foo")
    bench.end(0, found("10.0.0.1"))
    bench.resolve("c", "foo")
    assert len(bench.threads) == 1
    bench.end(0, found("10.0.0.2"))
    assert bench.answers["c"][0][0][0][1][0] == "10.0.0.2"


def test_lookups_of_one_host_are_bounded(bench):
    for number in range(LOOKUPS_PER_HOST + 5):
        bench.resolve(number, "foo")
        bench.resolver.network_changed()
    assert len(bench.threads) == LOOKUPS_PER_HOST
    # One of them ends in failure; its place goes to those who wait for a fresh one, and only one is needed.
    bench.end(0, socket.gaierror(socket.EAI_AGAIN, "try again"))
    assert len(bench.threads) == LOOKUPS_PER_HOST
    assert list(bench.answers) == [0]
    bench.end(-1, found("10.0.0.1"))
    assert sorted(bench.answers) == list(range(LOOKUPS_PER_HOST + 5))


def test_lookups_of_all_hosts_are_bounded_and_the_rest_waits_in_line(bench):
    hosts = [f"host{number}" for number in range(LOOKUPS + 3)]
    for host in hosts:
        bench.resolve(host, host)
    assert len(bench.threads) == LOOKUPS
    for _ in hosts:
        bench.end(0, found("10.0.0.1"))
    assert not bench.threads
    assert list(bench.answers) == hosts


def test_a_cancelled_wish_in_line_costs_no_lookup(bench):
    for number in range(LOOKUPS):
        bench.resolve(number, f"host{number}")
    bench.resolve("late", "late").cancel()
    bench.end(0, found("10.0.0.1"))
    assert len(bench.threads) == LOOKUPS - 1


def test_nothing_is_remembered_once_all_is_answered(bench):
    for number in range(50):
        bench.resolve(number, f"host{number}")
    while bench.threads:
        bench.end(0, socket.gaierror(socket.EAI_FAIL, "failed"))
    assert bench.resolver._names == {} and bench.resolver._running == 0


def test_no_thread_left_is_an_answer_not_a_crash():
    calls, answers = [], []

    def start_thread(function):
        raise RuntimeError("can't start new thread")

    resolver = Resolver(calls.append, start_thread=start_thread)
    resolver.resolve("foo", 1, lambda *answer: answers.append(answer))
    assert answers == []
    while calls:
        calls.pop(0)()
    assert answers == [([], "cannot resolve 'foo': can't start new thread")]


def test_a_loop_that_is_closed_does_not_disturb_the_thread():
    threads = []

    def closed(function):
        raise RuntimeError("loop is closed")

    Resolver(closed, lambda *_, **__: found("10.0.0.1"), start_thread=threads.append).resolve("foo", 1, print)
    threads.pop()()


@pytest.mark.parametrize("failure, text", [
    (socket.gaierror(socket.EAI_NONAME, "x"), "unknown host 'foo'"),
    (socket.gaierror(socket.EAI_NODATA, "x"), "host 'foo' has no address"),
    (socket.gaierror(socket.EAI_AGAIN, "x"), "name service unreachable, host 'foo' not resolved"),
    (socket.gaierror(socket.EAI_FAIL, "x"), "name service failed, host 'foo' not resolved"),
    (socket.gaierror(socket.EAI_FAMILY, "family"), "cannot resolve 'foo': family"),
    (OSError(24, "Too many open files"), "cannot resolve 'foo': Too many open files"),
    (UnicodeError("label too long"), "unknown host 'foo': not a valid name"),
    (MemoryError("none left"), "cannot resolve 'foo': none left"),
    ([], "host 'foo' has no address"),
])
def test_failures_in_words(failure, text):
    def getaddrinfo(*_, **__):
        if isinstance(failure, Exception):
            raise failure
        return failure

    assert look_up_host("foo", getaddrinfo) == ([], text)


def test_control_characters_in_a_name_do_not_reach_the_error_text():
    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "x")

    assert look_up_host("a\nb\x1b", getaddrinfo)[1] == r"unknown host 'a\nb\x1b'"


def test_repeated_and_foreign_addresses_are_left_out():
    answer = [*found("10.0.0.1", "10.0.0.1", "fd00::1"), (socket.AF_UNIX, 1, 0, "", "/x")]
    assert look_up_host("foo", lambda *_, **__: answer) == (
        [(IPV4, ("10.0.0.1", 0)), (IPV6, ("fd00::1", 0, 0, 0))], None)


def test_numeric_addresses():
    loopback = socket.if_nametoindex("lo")
    assert numeric_address("127.0.0.1", 5) == ([(IPV4, ("127.0.0.1", 5))], None)
    assert numeric_address("::1", 5) == ([(IPV6, ("::1", 5, 0, 0))], None)
    assert numeric_address("fe80::1%lo", 5) == ([(IPV6, ("fe80::1", 5, 0, loopback))], None)
    assert numeric_address("fe80::1%7", 5) == ([(IPV6, ("fe80::1", 5, 0, 7))], None)
    assert numeric_address("fe80::1%nosuch0", 5) == ([], "no such network interface: 'nosuch0' (in 'fe80::1%nosuch0')")


@pytest.mark.parametrize("name", ["localhost", "127.1", "1", "10.0.0.1%lo", "", "::g", "a\0b", "ä"])
def test_names_are_not_numeric(name):
    assert numeric_address(name, 5) is None


def test_interleave_begins_with_the_first_family_and_keeps_the_order():
    six = [(IPV6, f"six{number}") for number in range(3)]
    four = [(IPV4, f"four{number}") for number in range(5)]
    assert interleave(six + four) == [six[0], four[0], six[1], four[1], six[2], four[2], four[3], four[4]]
    assert interleave(four[:1] + six)[:2] == [four[0], six[0]]
    assert interleave(four) == four
    assert interleave([]) == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([IPV4, IPV6]), st.integers())))
def test_interleave_loses_nothing_and_keeps_each_familys_order(addresses):
    mixed = interleave(addresses)
    for family in (IPV4, IPV6):
        assert [entry for entry in mixed if entry[0] == family] \
            == [entry for entry in addresses if entry[0] == family]
    fewer = min(sum(entry[0] == IPV4 for entry in addresses), sum(entry[0] == IPV6 for entry in addresses))
    turns = mixed[:2 * fewer]
    assert all(one[0] != other[0] for one, other in pairwise(turns))
    assert mixed[:1] == addresses[:1]


def test_a_stuck_lookup_does_not_keep_the_process_from_exiting():
    program = (
        "import threading\n"
        "from mproxy.policy.resolver import Resolver\n"
        "inside = threading.Event()\n"
        "def stuck(*_, **__):\n"
        "    inside.set()\n"
        "    threading.Event().wait()\n"
        "Resolver(print, getaddrinfo=stuck).resolve('foo', 1, print)\n"
        "assert inside.wait(10)\n")
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False).returncode == 0
