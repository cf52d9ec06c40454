"""The parts of mproxy relay that need no process: names, counters, the kernel's table, command line, status."""

import struct
from types import SimpleNamespace

import pytest

from mproxy.ground.config import SECOND_US
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.policy.name_cache import FLOOR_US, LOOKUPS, UNKNOWN_US, NameCache
from mproxy.policy.ttl import lowest_ttl
from mproxy.programs.relay_options import parse_relay
from mproxy.programs.relay_status import say_status
from mproxy.relay.counters import Counters
from mproxy.relay.kernel import conntrack, nft
from mproxy.relay.kernel.kernel_settings import FORWARD4, FORWARD6, KernelSettings
from mproxy.relay.rule_file import parse_rules
from mproxy.service.control import make_directory, runtime_directories

# ---- names


class FakeLoop:
    """Its time is set by hand, and calls from other threads are made at once."""

    def __init__(self):
        self.now_us = 0
        self.calls = []
        self.timers = []

    def call_soon_threadsafe(self, call):
        self.calls.append(call)

    def call_later(self, delay_us, call):
        timer = SimpleNamespace(at=self.now_us + delay_us, call=call, cancelled=False)
        timer.cancel = lambda: setattr(timer, "cancelled", True)
        self.timers.append(timer)
        return timer

    def turn(self):
        while self.calls:
            self.calls.pop(0)()

    def advance(self, delay_us):
        self.now_us += delay_us
        due = [timer for timer in self.timers if timer.at <= self.now_us]
        self.timers = [timer for timer in self.timers if timer.at > self.now_us]
        for timer in due:
            if not timer.cancelled:
                timer.call()


class Book:
    """A name service whose answers the test gives, and the names that were learnt from it."""

    def __init__(self, ttl=None):
        self.loop = FakeLoop()
        self.answers = {}   # host -> [address, ...]
        self.ttl = ttl
        self.asked = []
        self.changed = []
        self.failed = []
        self.threads = []
        self.names = NameCache(self.loop, self.changed.append, lambda host, why: self.failed.append((host, why)),
                           look_up=self.look_up, ask_ttl=lambda *_: self.ttl, start_thread=self.threads.append)

    def look_up(self, host):
        self.asked.append(host)
        found = [(2, (address, 0)) for address in self.answers.get(host, ())]
        return (found, None) if found else ([], f"unknown host {host}")

    def work(self):
        """Let the threads that were started run, and those that start after them."""
        while self.threads:
            self.threads.pop(0)()
            self.loop.turn()


def test_a_name_is_looked_up_and_kept():
    book = Book()
    book.answers["a"] = ["10.0.0.1"]
    book.names.want(["a"])
    assert book.names.waiting == 1
    book.work()
    assert book.changed == ["a"]
    assert book.names.addresses("a", 80) == [(2, ("10.0.0.1", 80))]
    book.answers["a"] = []
    book.loop.advance(UNKNOWN_US)
    book.work()
    assert book.asked == ["a", "a"]
    assert book.names.addresses("a", 80) == [(2, ("10.0.0.1", 80))]
    assert book.failed == []


@pytest.mark.parametrize("ttl, delay_us", [
    (None, UNKNOWN_US), (0, FLOOR_US), (60, 60 * SECOND_US), (10**6, 3600 * SECOND_US)])
def test_time_to_live(ttl, delay_us):
    book = Book(ttl)
    book.answers["a"] = ["10.0.0.1"]
    book.names.want(["a"])
    book.work()
    book.loop.advance(delay_us - 1)
    book.work()
    assert book.asked == ["a"]
    book.loop.advance(1)
    book.work()
    assert book.asked == ["a", "a"]


def test_only_other_addresses_are_news():
    book = Book()
    for addresses, news in ((["10.0.0.1", "10.0.0.2"], 1), (["10.0.0.2", "10.0.0.1"], 1), (["10.0.0.2"], 2)):
        book.answers["a"] = addresses
        book.names.want(["a"])
        book.loop.advance(UNKNOWN_US)
        book.work()
        assert len(book.changed) == news


def test_failures_come_again_later_and_later():
    book = Book()
    book.names.want(["a"])
    book.work()
    for wait in (1, 2, 4, 8, 16, 30, 30):
        book.loop.advance(wait * SECOND_US - 1)
        book.work()
        before = len(book.asked)
        book.loop.advance(1)
        book.work()
        assert len(book.asked) == before + 1
    assert book.failed == [("a", "unknown host a")]
    assert book.names.unresolved() == {"a": "unknown host a"}


def test_ten_thousand_names_take_few_threads():
    book = Book()
    book.names.want([f"host{number}" for number in range(10_000)])
    assert len(book.threads) == LOOKUPS
    book.work()
    assert len(book.asked) == 10_000
    assert book.names.waiting == 0


def test_numeric_hosts_need_no_lookup_and_others_are_forgotten():
    book = Book()
    book.names.want(["10.0.0.1", "::1", "a"])
    assert book.names.addresses("10.0.0.1", 5) == [(2, ("10.0.0.1", 5))]
    assert book.names.addresses("::1", 5) == [(10, ("::1", 5, 0, 0))]
    book.names.want(["10.0.0.1"])
    book.work()
    book.loop.advance(UNKNOWN_US)
    assert book.threads == []
    assert book.changed == []


def test_no_more_threads_is_a_failure_like_others():
    book = Book()

    def refuse(_function):
        raise RuntimeError("can't start new thread")
    book.names._start_thread = refuse
    book.names.want(["a"])
    book.loop.turn()
    assert book.failed == [("a", "can't start new thread")]


NAME = b"\x01a\x07example\x00"


def dns(ttls, questions=1):
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, ttl, 4) + bytes(4) for ttl in ttls)
    return struct.pack("!6H", 1, 0x8180, questions, len(ttls), 0, 0) + (NAME + bytes(4)) * questions + records


@pytest.mark.parametrize("packet, ttl", [
    (dns([300]), 300), (dns([300, 20, 60]), 20), (dns([]), None), (dns([1 << 31]), 0), (b"", None), (b"\0" * 11, None),
    (dns([300])[:-4], 300), (dns([300])[:-10], None), (struct.pack("!6H", 1, 0, 9, 9, 0, 0) + b"\x3f", None)])
def test_lowest_ttl(packet, ttl):
    assert lowest_ttl(packet) == ttl


# ---- counters

def test_counters_outlive_worker_and_rule():
    counters = Counters()
    counters.told(0, {1: {"connections": 2, "total": 5, "bytes_in": 100}})
    counters.told(1, {1: {"connections": 1, "total": 1, "bytes_in": 7}})
    assert counters.of_rule(1, "tcp") == {
        "connections": 3, "total": 6, "refused": 0, "limited": 0, "failed": 0, "timed_out": 0, "bytes_in": 107,
        "bytes_out": 0}
    counters.worker_gone(0)
    assert counters.of_rule(1, "tcp")["connections"] == 1
    assert counters.of_rule(1, "tcp")["total"] == 6
    assert counters.of_worker(0) == {}
    counters.told(0, {1: {"connections": 1, "total": 1, "bytes_in": 0}})
    assert counters.of_rule(1, "tcp")["total"] == 7
    counters.retire(1, "tcp")
    assert counters.of_rule(1, "tcp")["total"] == 0
    assert counters.retired("tcp")["total"] == 7
    assert counters.retired("tcp")["connections"] == 0


# ---- the kernel's table

def redirects(text):
    found = []
    for rule in parse_rules(text):
        host = rule.targets[0][0]
        found.append(nft.Redirect(rule, *((None, host) if ":" in host else (host, None))))
    return found


def test_table_text():
    text = nft.make_table(redirects(
        "7005 -> 10.0.0.2:80\n"
        "10.0.0.1:81 -> 10.0.0.3:80 allow=10.0.0.0/8,10.1.0.0/16\n"
        "udp [::]:53 -> [fd00::2]:53"), (4,))
    assert text.startswith("table inet mproxy_relay\ndelete table inet mproxy_relay\ntable inet mproxy_relay {\n")
    assert "elements = { tcp . 7005 : 10.0.0.2 . 80 }" in text
    assert "elements = { 10.0.0.1 . tcp . 81 : 10.0.0.3 . 80 }" in text
    assert "elements = { udp . 53 : fd00::2 . 53 }" in text
    assert "ip saddr != { 10.0.0.0/8 } drop\n    meta nfproto ipv6 drop" in text
    assert "set ports {\n type inet_service;\n elements = { 53, 81, 7005 }" in text
    assert "meta nfproto ipv4 drop" in text
    assert "chain forward {" not in nft.make_table([])


def test_rules_without_address_are_left_out():
    [rule] = parse_rules("7005 -> name.example:80")
    assert "7005 :" not in nft.make_table([nft.Redirect(rule, None, None)])
    [rule] = parse_rules("0.0.0.0:7005 -> name.example:80")
    assert nft.Redirect(rule, "10.0.0.1", "fd00::1").families() == [(4, "10.0.0.1")]


def test_counters_of_the_table():
    def element(value, packets, size):
        return {"elem": {"val": value, "counter": {"packets": packets, "bytes": size}}}
    listing = {"nftables": [
        {"metainfo": {}}, {"table": {}},
        {"map": {"name": "any4", "elem": [[element({"concat": ["tcp", 7005]}, 3, 180), {"concat": ["10.0.0.2", 80]}]]}},
        {"set": {"name": "in_tcp_any4", "elem": [element(7005, 30, 3000)]}},
        {"set": {"name": "out_tcp_any4", "elem": [element(7005, 20, 9)]}},
        {"set": {"name": "ports", "elem": [7005]}}, {"set": {"name": "empty"}}]}
    counters = nft.parse_counters(listing)
    assert nft.count(counters, redirects("7005 -> 10.0.0.2:80")[0]) == (3, 30, 3000, 20, 9)
    assert nft.count({}, redirects("7006 -> 10.0.0.2:80")[0]) == (0, 0, 0, 0, 0)


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def flow_tuple(kind, protocol, source, destination):
    addresses = attribute(1, bytes(source[0])) + attribute(2, bytes(destination[0]))
    ports = attribute(1, bytes([protocol])) + attribute(2, struct.pack("!H", source[1])) + attribute(
        3, struct.pack("!H", destination[1]))
    return attribute(kind | 0x8000, attribute(0x8001, addresses) + attribute(0x8002, ports))


def test_a_flow_of_the_kernel():
    client, relay, server = ((10, 1, 0, 2), 4000), ((10, 1, 0, 1), 53), ((10, 3, 0, 2), 5353)
    original = flow_tuple(1, 17, client, relay)
    status = attribute(3, struct.pack("!I", 0x3a))
    body = struct.pack("!BBH", 2, 0, 0) + original + flow_tuple(2, 17, server, relay) + status
    flow = conntrack.parse_flow(body)
    assert (flow.protocol, flow.listener, flow.target) == ("udp", ("10.1.0.1", 53), ("10.3.0.2", 5353))
    assert flow.redirected and flow.living
    assert flow.identity == original
    assert conntrack.parse_flow(body.replace(attribute(1, b"\x11"), attribute(1, b"\x01"))) is None


@pytest.mark.parametrize("state, living", [(1, False), (3, True), (5, True), (7, False)])
def test_tcp_flows_end(state, living):
    ends = ((10, 1, 0, 2), 4000), ((10, 1, 0, 1), 53)
    info = attribute(4 | 0x8000, attribute(0x8001, attribute(1, bytes([state]))))
    body = struct.pack("!BBH", 2, 0, 0) + flow_tuple(1, 6, *ends) + flow_tuple(2, 6, *reversed(ends)) + info
    assert conntrack.parse_flow(body).living == living


def test_settings_are_put_back(tmp_path):
    before = {FORWARD4: "0", FORWARD6: "0", "ipv6/conf/eth0/accept_ra": "1", "ipv6/conf/lo/accept_ra": "0"}
    for name, value in before.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(f"{value}\n")

    def read(name):
        return (tmp_path / "sys" / name).read_text().strip()
    settings = KernelSettings(tmp_path / "memory", tmp_path / "sys")
    assert settings.need(FORWARD6) and settings.need(FORWARD4)
    assert not settings.need(FORWARD4)
    assert [read(name) for name in before] == ["1", "1", "2", "0"]
    after_a_kill = KernelSettings(tmp_path / "memory", tmp_path / "sys")
    assert after_a_kill.was_off(FORWARD4)
    assert after_a_kill.restore() == []
    assert {name: read(name) for name in before} == before
    assert not (tmp_path / "memory").exists()


def test_a_setting_that_cannot_be_made(tmp_path):
    settings = KernelSettings(tmp_path / "memory", tmp_path / "sys")
    with pytest.raises(MproxyError, match=r"needs the setting net\.ipv4\.ip_forward=1 and cannot change it"):
        settings.need(FORWARD4)


# ---- command line, status, control socket

def test_command_line_of_one_rule():
    command, config = parse_relay(
        ["[::1]:80", "Server.Example", "8080", "max=5", "--workers", "2", "--drain-timeout", "1m"])
    assert command == "run"
    [rule] = config.rules
    assert str(rule) == "tcp [::1]:80 -> server.example:8080"
    assert rule.options.max_connections == 5
    assert (config.workers, config.drain_timeout_us) == (2, 60 * SECOND_US)
    assert parse_relay(["--udp", "53", "10.0.0.2", "53"])[1].rules[0].protocol == "udp"


@pytest.mark.parametrize("argv, says", [
    ([], "missing argument: PORT;"), (["80", "a"], "missing argument: HOST_PORT;"),
    (["80", "a", "b"], "HOST_PORT b: not a valid port"),
    (["80-90", "a", "1"], "PORT 80-90 is a range"), (["--config", "f", "80"], "unexpected argument: 80"),
    (["--udp", "--config", "f"], "--udp and --config cannot be used together"),
    (["--daemon", "80", "a", "1"], "--daemon needs --pidfile"), (["--workers", "0", "80", "a", "1"], "out of range"),
    (["--workers", "many", "80", "a", "1"], "not a number of processes"),
    (["80", "a", "1", "proxy=v9"], "proxy=v9: not a version of the PROXY protocol"),
    (["check"], "missing argument: FILE"),
    (["status", "now"], "unexpected argument: now"), (["80", "a", "1", "--nonsense"], "unrecognized arguments")])
def test_wrong_command_lines(argv, says):
    with pytest.raises(UsageError, match=says):
        parse_relay(argv)


def test_status_text():
    zero = dict.fromkeys(("sessions", "total"), 0)
    text = say_status({
        "version": "1", "pid": 7, "state": "running", "uptime_s": 93784, "mode": "user", "rules_from": "f",
        "last_reload_errors": [], "totals": {"tcp": {"connections": 1, "bytes_in": 1536}, "udp": zero}, "workers": [],
        "unresolved": {"a": "unknown"}, "rules": [{
            "protocol": "tcp", "address": "::1", "port": 80, "targets": ["a:1"], "counters": {"bytes_in": 5}}]}, False)
    assert text == """\
mproxy relay 1, process 7, running for 1d 2h, user mode, 1 rule from f
tcp  connections 1, bytes in 1.5 KiB
udp  sessions 0, total 0
not resolved: a: unknown

tcp [::1]:80 -> a:1
     bytes in 5 B"""


def test_runtime_directories(tmp_path):
    assert runtime_directories({}, 0) == ["/run/mproxy", "/tmp/mproxy-0"]
    assert runtime_directories({}, 5) == ["/run/user/5/mproxy", "/tmp/mproxy-5"]
    assert runtime_directories({"XDG_RUNTIME_DIR": "/r"}, 5)[0] == "/r/mproxy"
    assert runtime_directories({"RUNTIME_DIRECTORY": "/run/x", "XDG_RUNTIME_DIR": "/r"}, 5)[0] == "/run/x"
    make_directory(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "wide").mkdir(mode=0o755)
    make_directory(tmp_path / "wide")
    assert (tmp_path / "wide").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(UsageError):
        make_directory(tmp_path / "link")
