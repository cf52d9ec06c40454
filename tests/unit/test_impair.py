"""The bad network in virtual time: all numbers are literal, and the seed decides about each packet."""

import pytest
from tests.drivers._datagram import DrivenPathEmulator

from mproxy.ground.errors import UsageError
from mproxy.programs.impair import both, parse_impair, parse_mtu, parse_percent, parse_rate

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


@pytest.mark.parametrize("parse, text", [
    (parse_percent, "101"), (parse_percent, "-1"), (parse_percent, "nan"), (parse_percent, ""), (parse_rate, "fast"),
    (parse_rate, "10"), (parse_rate, "9999Gbit"), (parse_mtu, "20"), (both(parse_percent), "5/"),
    (parse_impair, ["--loss", "5", "7001"]), (parse_impair, ["--seed", "-1", "1", "h", "2"]),
    (parse_impair, ["--queue", "1", "1", "h", "2"]), (parse_impair, ["--delay", "2h", "1", "h", "2"])])
def test_bad_values(parse, text):
    with pytest.raises(UsageError):
        parse(text)
