"""The bad network in virtual time: all numbers are literal, and the seed decides about each packet."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from tests.drivers._datagram import DrivenPathEmulator

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_rate
from mproxy.programs import impair_set
from mproxy.programs.impair_options import (
    NOW,
    both,
    parse_bursts,
    parse_changes,
    parse_impair,
    parse_mtu,
    parse_outage,
    parse_percent,
    say_path,
)
from mproxy.programs.impair_profiles import PROFILES

HEADERS = 28


def packets(count, length=100):
    return [number.to_bytes(4) * (length // 4) for number in range(count)]


def through(path, sent, gap_us=1000):
    """Everything that comes out when a packet goes in every `gap_us`: [(arrival, packet), ...]."""
    for number, packet in enumerate(sent):
        path.send(packet, number * gap_us)
    return [(at, packet) for at, _client, packet in path.arrived(10**12)]


def test_a_good_network_changes_nothing():
    sent = packets(50)
    assert through(DrivenPathEmulator(1), sent) == [(number * 1000, packet) for number, packet in enumerate(sent)]


def test_delay():
    path = DrivenPathEmulator(1, delay_us=20_000)
    path.send(b"one", 5)
    assert path.next_arrival() == 20_005
    assert path.arrived(20_004) == []
    assert path.arrived(20_005) == [(20_005, 0, b"one")]
    assert path.next_arrival() is None


def test_rate_counts_headers_and_spaces_packets():
    path = DrivenPathEmulator(1, rate=8_000_000)  # a byte a microsecond
    for _ in range(3):
        path.send(bytes(972), 0)
    assert [at for at, _, _ in path.arrived(10**6)] == [1000, 2000, 3000]


def test_a_fast_link_does_not_round_its_time_away():
    path = DrivenPathEmulator(1, rate=1_000_000_000, queue_bytes=1 << 30)
    for _ in range(100_000):
        path.send(bytes(97), 0)  # 125 bytes: exactly one microsecond
    assert path.arrived(10**9)[-1][0] == 100_000


def test_queue_drops_its_tail():
    path = DrivenPathEmulator(1, rate=8_000_000, queue_bytes=3000)
    for _ in range(10):
        path.send(bytes(972), 0)
    assert len(path.arrived(10**6)) == 3
    assert path.statistics()["queue_full"] == 7
    path.send(bytes(972), 3000)  # the link is idle again
    assert path.arrived(10**6)[0][0] == 4000


@pytest.mark.parametrize("what, number", [("loss", "lost"), ("duplicate", "duplicated"), ("corrupt", "corrupted"),
                                          ("reorder", "reordered")])
def test_as_often_as_told(what, number):
    path = DrivenPathEmulator(7, **{what: 0.1})
    through(path, packets(20_000))
    assert 1800 < path.statistics()[number] < 2200


def test_the_lost_are_missing_and_the_rest_is_whole():
    path = DrivenPathEmulator(3, loss=0.3)
    sent = packets(1000)
    came = [packet for _, packet in through(path, sent)]
    assert len(came) == 1000 - path.statistics()["lost"]
    assert came == [packet for packet in sent if packet in set(came)]


def test_the_damaged_differ_and_have_their_length():
    path = DrivenPathEmulator(3, corrupt=1.0)
    sent = packets(2000, 8)
    came = [packet for _, packet in through(path, sent)]
    assert all(len(new) == 8 and new != old for new, old in zip(came, sent, strict=True))


def test_a_second_copy_is_the_same_even_if_the_first_is_damaged():
    path = DrivenPathEmulator(3, duplicate=1.0, corrupt=1.0)
    sent = packets(100, 8)
    came = [packet for _, packet in through(path, sent)]
    assert len(came) == 200
    assert all(came.count(packet) == 1 for packet in sent)


def test_others_overtake_the_reordered():
    path = DrivenPathEmulator(5, reorder=0.2, reorder_us=5_000, delay_us=1_000)
    sent = packets(1000)
    came = [packet for _, packet in through(path, sent)]
    assert sorted(came) == sent
    assert came != sent
    assert all(abs(came.index(packet) - number) <= 6 for number, packet in enumerate(sent))


def test_jitter_keeps_the_order_and_its_bounds():
    path = DrivenPathEmulator(5, delay_us=10_000, jitter_us=8_000)
    sent = packets(1000)
    came = through(path, sent)
    assert [packet for _, packet in came] == sent
    assert all(number * 1000 + 2_000 <= at <= number * 1000 + 18_000 for number, (at, _) in enumerate(came))
    assert len({at - number * 1000 for number, (at, _) in enumerate(came)}) > 100


def test_mtu_drops_what_is_larger():
    path = DrivenPathEmulator(1, mtu=1500)
    path.send(bytes(1500 - HEADERS), 0)
    path.send(bytes(1501 - HEADERS), 0)
    assert len(path.arrived(0)) == 1
    assert path.statistics()["too_large"] == 1


def test_the_same_seed_is_the_same_fate():
    everything = {"loss": 0.1, "duplicate": 0.1, "corrupt": 0.1, "reorder": 0.1, "delay_us": 5000, "jitter_us": 3000,
                  "rate": 10**7}
    sent = packets(2000)
    first = through(DrivenPathEmulator(11, **everything), sent)
    assert through(DrivenPathEmulator(11, **everything), sent) == first
    assert through(DrivenPathEmulator(12, **everything), sent) != first


def test_the_fate_depends_on_the_order_alone():
    """It depends neither on the time nor on the other options."""
    sent = packets(2000)
    lost = [packet for _, packet in through(DrivenPathEmulator(11, loss=0.1), sent)]
    slower = [packet for _, packet in through(DrivenPathEmulator(11, loss=0.1, jitter_us=50), sent, gap_us=77)]
    assert slower == lost
    with_more = {packet for _, packet in through(DrivenPathEmulator(11, loss=0.1, reorder=0.5, duplicate=0.3), sent)}
    assert with_more == set(lost)


def losses(path, count=100_000):
    """Of each packet whether it was lost."""
    came = {packet for _, packet in through(path, [number.to_bytes(4) for number in range(count)])}
    return [number.to_bytes(4) not in came for number in range(count)]


def runs(lost):
    """Lengths of the runs of lost packets."""
    return [len(run) for run in "".join("x" if each else " " for each in lost).split()]


@pytest.mark.parametrize("share, length", [(0.02, 8), (0.1, 3), (0.05, 50)])
def test_bursts_have_the_share_and_the_length_asked_for(share, length):
    """Gilbert's model: while the wire is bad it loses everything."""
    lost = losses(DrivenPathEmulator(4, burst_share=share, burst_packets=length))
    assert sum(lost) / len(lost) == pytest.approx(share, rel=0.25)
    assert sum(runs(lost)) / len(runs(lost)) == pytest.approx(length, rel=0.15)


def test_lost_singly_the_same_share_comes_in_runs_of_one():
    """What tells bursts from --loss."""
    found = runs(losses(DrivenPathEmulator(4, loss=0.02)))
    assert sum(found) / len(found) < 1.1


def test_a_bad_wire_may_let_some_through():
    """Elliott's: of a burst of 20 half is lost, and what is lost is the share that the bad wire has, halved."""
    path = DrivenPathEmulator(4, burst_share=0.1, burst_packets=20, burst_loss=0.5)
    lost = losses(path)
    assert sum(lost) / len(lost) == pytest.approx(0.05, rel=0.2)
    assert path.statistics()["lost_in_bursts"] == sum(lost) and path.statistics()["lost"] == 0
    near = sum(1 for one, other in pairwise(lost) if one and other)
    assert near / sum(lost) == pytest.approx(0.475, rel=0.1)  # the next one: bad still (19 of 20), and half


def test_bursts_change_nothing_else():
    """Each option has its own random numbers."""
    sent = packets(2000)
    with_bursts = {packet for _, packet in through(DrivenPathEmulator(11, loss=0.1, burst_share=0.2,
                                                                      burst_packets=5), sent)}
    without = {packet for _, packet in through(DrivenPathEmulator(11, loss=0.1), sent)}
    alone = {packet for _, packet in through(DrivenPathEmulator(11, burst_share=0.2, burst_packets=5), sent)}
    assert with_bursts == without & alone


def test_outages_come_and_go_by_the_clock():
    path = DrivenPathEmulator(1, outage_every_us=30_000_000, outage_us=5_000_000, outage_from_us=1_000_000)
    came = [at // 1_000_000 for at, _ in through(path, packets(100), gap_us=1_000_000)]
    away = {*range(26, 31), *range(56, 61), *range(86, 91)}
    assert came == [second for second in range(100) if second not in away]
    assert path.statistics()["lost_in_outages"] == 15


def test_a_change_counts_from_the_next_packet_on():
    path = DrivenPathEmulator(1, delay_us=50_000)
    path.send(b"one", 0)
    path.change(loss=1.0)
    path.send(b"two", 1)
    path.change(delay_us=10_000)
    path.send(b"three", 2)
    assert [(at, packet) for at, _, packet in path.arrived(10**6)] == [(50_000, b"one"), (50_000, b"three")]
    with pytest.raises(TypeError, match="no such option: wind"):
        path.change(wind=1)


def test_what_is_held_is_bounded():
    path = DrivenPathEmulator(1, delay_us=10**9)
    for _ in range(3000):
        path.send(bytes(65_507), 0)
    assert path.statistics()["no_memory"] == 3000 - (128 << 20) // 65_507


def test_clients_stay_apart():
    path = DrivenPathEmulator(1)
    path.send(b"a", 0, client=7)
    path.send(b"b", 0, client=8)
    assert path.arrived(0) == [(0, 7, b"a"), (0, 8, b"b")]


def test_command_line():
    config = parse_impair(["--loss", "5/0", "--delay", "10ms", "--rate", "100Mbit/1.5Gbit", "7001", "::1", "7000"])
    assert (config.loss, config.delay, config.rate) == ((0.05, 0.0), (10_000, 10_000), (10**8, 1_500_000_000))
    assert (config.port, config.host, config.server_port) == (7001, "::1", 7000)
    assert both(parse_percent)("0.1%") == (0.001, 0.001)


def test_bursts_and_outages_on_the_command_line():
    config = parse_impair(["--burst-loss", "2:8/0", "--outage", "30s/5s", "--rebind", "1m", "1", "h", "2"])
    assert config.burst_loss == ((0.02, 8.0, 1.0), (0.0, 1.0, 1.0))
    assert (config.outage, config.rebind_us) == ((30_000_000, 5_000_000), 60_000_000)
    assert parse_bursts("5:20:50") == (0.1, 20.0, 0.5)
    assert say_path(config) == "--burst-loss 2:8/0 --outage 30s/5s --rebind 1m"
    assert say_path(parse_impair(["1", "h", "2"])) == "nothing is done to packets"


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_its_options_and_others_change_it(name):
    config = parse_impair(["--profile", name, "1", "h", "2"])
    assert say_path(config).split() and config.rate != (0, 0) and config.delay[0]
    assert say_path(parse_impair([*say_path(config).split(), "1", "h", "2"])) == say_path(config)
    assert parse_impair(["--delay", "1s", "--profile", name, "1", "h", "2"]).delay == (1_000_000, 1_000_000)


def test_the_page_has_the_profiles_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert dict(re.findall(r"^\| `([\w-]+)` \| `(--rate [^`]+)` \|", page, re.MULTILINE)) == PROFILES


def test_changes_while_it_runs():
    assert parse_changes(["--loss", "5", "here"]) == (False, {"loss": (0.05, 0.05)}, ["here"])
    anew, changes, words = parse_changes(["--profile", "dsl", "--rebind", "now"])
    assert anew and changes["rebind_us"] == NOW and changes["rate"] == (384_000, 1_500_000) and words == []


def test_which_one_is_meant(monkeypatch):
    running = {"/1": (11, "one"), "/2": (22, "two"), "/3": (33, "two")}
    monkeypatch.setattr(impair_set, "find_running", lambda _kind: [
        ("impair", pid, path) for path, (pid, _name) in running.items()])
    monkeypatch.setattr(impair_set, "ask", lambda path, _command: {"name": running[path][1]})
    assert [impair_set.find_impair(which) for which in ("one", "22", "33")] == ["/1", "/2", "/3"]
    for which, why in (("two", "several"), (None, "several"), ("four", "four; there is one (process 11), two")):
        with pytest.raises(MproxyError, match=re.escape(why)):
            impair_set.find_impair(which)
    del running["/2"], running["/3"]
    assert impair_set.find_impair(None) == "/1"
    running.clear()
    with pytest.raises(MproxyError, match="of this user runs"):
        impair_set.find_impair(None)


@pytest.mark.parametrize("parse, text", [
    (parse_bursts, "2"), (parse_bursts, "2:0.5"), (parse_bursts, "80:2"), (parse_bursts, "60:9:50"),
    (parse_bursts, "2:8:50:1"), (parse_outage, "30s"), (parse_outage, "5s/30s"), (parse_outage, "5s/0"),
    (parse_impair, ["--profile", "wet-string", "1", "h", "2"]), (parse_impair, ["--rebind", "now", "1", "h", "2"]),
    (parse_impair, ["--rebind", "1ms", "1", "h", "2"]), (parse_changes, ["a", "b"]), (parse_changes, ["--seed", "1"]),
    (parse_percent, "101"), (parse_percent, "-1"), (parse_percent, "nan"), (parse_percent, ""), (parse_rate, "fast"),
    (parse_rate, "10"), (parse_rate, "9999Gbit"), (parse_mtu, "20"), (both(parse_percent), "5/"),
    (parse_impair, ["--loss", "5", "7001"]), (parse_impair, ["--seed", "-1", "1", "h", "2"]),
    (parse_impair, ["--queue", "1", "1", "h", "2"]), (parse_impair, ["--delay", "2h", "1", "h", "2"])])
def test_bad_values(parse, text):
    with pytest.raises(UsageError):
        parse(text)
