"""The flow table: which flows are found, replaced or timed out. Literal times, no sockets."""

import ipaddress
import random

import pytest
from tests.drivers._relay import Flows

S = 1_000_000
LOCAL = ipaddress.ip_address("::ffff:10.0.0.1").packed


def key(number, client="192.0.2.1", local=LOCAL):
    """A client's port, an address."""
    address = ipaddress.ip_address(client)
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    return packed, number, local, 53


@pytest.fixture
def table():
    flows = Flows(1000)
    flows.add_group("rule", idle_us=30 * S)
    return flows


def test_a_flow_is_found_by_the_whole_key(table):
    table.open("rule", key(1), 0)
    assert table.use(key(1), 1)
    assert not table.use(key(2), 1)
    assert not table.use(key(1, "192.0.2.2"), 1)
    assert not table.use(key(1, local=ipaddress.ip_address("::ffff:10.0.0.2").packed), 1)


def test_a_flow_ends_exactly_when_its_time_is_over(table):
    table.open("rule", key(1), 5 * S)
    assert table.next_end() == 35 * S
    assert table.expire(35 * S - 1) == []
    assert table.expire(35 * S) == [key(1)]
    assert table.next_end() == -1


def test_use_postpones_the_end(table):
    table.open("rule", key(1), 0)
    table.open("rule", key(2), 1 * S)
    table.use(key(1), 29 * S)
    assert table.next_end() == 31 * S
    assert table.expire(31 * S) == [key(2)]
    assert table.next_end() == 59 * S
    assert table.expire(58 * S) == []
    assert table.expire(60 * S) == [key(1)]


def test_groups_have_times_of_their_own(table):
    table.add_group("quick", idle_us=1 * S)
    table.add_group("for ever")
    for number, group in enumerate(["rule", "quick", "for ever"]):
        table.open(group, key(number), 0)
    assert table.next_end() == 1 * S
    assert table.expire(1 * S) == [key(1)]
    assert table.next_end() == 30 * S
    assert table.expire(10_000 * S) == [key(0)]
    assert table.keys() == [key(2)]


def test_the_table_is_bounded_and_the_least_recently_used_goes():
    table = Flows(3)
    table.add_group("rule")
    for number in range(3):
        assert table.open("rule", key(number), number) == []
    table.use(key(0), 10)
    assert table.open("rule", key(3), 11) == [key(1)]
    assert table.open("rule", key(4), 12) == [key(2)]
    assert table.keys() == [key(0), key(3), key(4)]


def test_a_full_rule_takes_from_itself(table):
    table.add_group("small", most=2)
    table.open("rule", key(1), 0)
    table.open("small", key(2), 1)
    table.open("small", key(3), 2)
    assert table.open("small", key(4), 3) == [key(2)]
    assert table.keys("small") == [key(3), key(4)]
    assert table.keys("rule") == [key(1)]


def test_a_source_at_its_bound_takes_from_itself():
    table = Flows(1000)
    table.add_group("rule", most=10, most_a_source=3)
    for number in range(4):
        table.open("rule", key(number, "198.51.100.7"), number)
    gone = [table.open("rule", key(number), 10 + number) for number in range(5)]
    assert gone == [[], [], [], [key(0)], [key(1)]]
    assert table.keys() == [key(number, "198.51.100.7") for number in (1, 2, 3)] + [key(n) for n in (2, 3, 4)]


def test_sources_are_counted_for_each_rule():
    table = Flows(1000)
    table.add_group("one", most_a_source=2)
    table.add_group("other", most_a_source=2)
    for number in range(2):
        assert table.open("one", key(number), 0) == []
    for number in range(2, 4):
        assert table.open("other", key(number), 0) == []
    assert table.open("other", key(4), 0) == [key(2)]


def test_a_source_is_an_ipv4_address_or_64_bits_of_ipv6():
    table = Flows(1000)
    table.add_group("rule", most_a_source=1)
    table.open("rule", key(1, "192.0.2.1"), 0)
    assert table.open("rule", key(1, "192.0.2.2"), 0) == []
    table.open("rule", key(1, "2001:db8:0:1::1"), 0)
    assert table.open("rule", key(1, "2001:db8:0:2::1"), 0) == []
    assert table.open("rule", key(2, "2001:db8:0:1:ffff::2"), 0) == [key(1, "2001:db8:0:1::1")]


def test_bounds_that_change_hold_for_the_next_flow(table):
    for number in range(4):
        table.open("rule", key(number), number)
    table.add_group("rule", idle_us=30 * S, most=2)
    assert table.open("rule", key(9), 9) == [key(0), key(1), key(2)]


def test_twenty_thousand_flows_leave_nothing_behind():
    table = Flows(100_000)
    table.add_group("rule", idle_us=30 * S)
    empty = table.shape()
    for number in range(20_000):
        table.open("rule", key(number % 60_000, f"10.0.{number % 250}.1"), number)
    flows, sources, buckets, longest = table.shape()
    assert (flows, sources) == (20_000, 250)
    assert buckets >= 16_384
    assert longest <= 12
    assert len(table.expire(100 * S)) == 20_000
    assert table.shape() == empty


def test_chosen_addresses_do_not_choose_the_bucket():
    """Keys that fall into one bucket under one seed are spread under another."""
    keys = [key(number % 65_536, f"10.{number >> 16}.0.1") for number in range(30_000)]
    first, second = Flows(100_000, bytes(16)), Flows(100_000, bytes(range(16)))
    for table in (first, second):
        table.add_group("rule")
        for each in keys:
            table.open("rule", each, 0)
        assert table.shape()[3] <= 14


def test_random_use_agrees_with_a_plain_list(seed):
    """The table behaves like a list in order of use, whatever the bounds and times."""
    chance = random.Random(seed)
    table = Flows(40)
    bounds = {"a": (20 * S, 15, 4), "b": (5 * S, 0, 6), "c": (0, 10, 0)}
    for name, (idle_us, most, most_a_source) in bounds.items():
        table.add_group(name, idle_us=idle_us, most=most, most_a_source=most_a_source)
    model = []  # [key, group, used at], least recently used first
    clients = [f"10.0.0.{number}" for number in range(8)]
    now = 0
    for _ in range(5000):
        now += chance.choice([0, 1, S // 3])
        action = chance.random()
        if action < 0.5:
            chosen = key(chance.randrange(12), chance.choice(clients))
            known = [entry for entry in model if entry[0] == chosen]
            assert table.use(chosen, now) == bool(known)
            if known:
                model.remove(known[0])
                model.append([chosen, known[0][1], now])
            else:
                group = chance.choice("abc")
                assert table.open(group, chosen, now) == make_room(model, bounds, group, chosen)
                model.append([chosen, group, now])
        elif action < 0.6 and model:
            gone = model.pop(chance.randrange(len(model)))
            assert table.close(gone[0])
        else:
            over = [entry for entry in model if bounds[entry[1]][0] and now - entry[2] >= bounds[entry[1]][0]]
            assert sorted(table.expire(now)) == sorted(entry[0] for entry in over)
            model = [entry for entry in model if entry not in over]
        assert table.keys() == [entry[0] for entry in model]
        ends = [entry[2] + bounds[entry[1]][0] for entry in model if bounds[entry[1]][0]]
        assert table.next_end() == min(ends, default=-1)


def make_room(model, bounds, group, chosen):
    """The flows that the list must give up to take one with this key."""
    _idle, most, most_a_source = bounds[group]
    gone = []
    while True:
        same_rule = [entry for entry in model if entry[1] == group]
        same_source = [entry for entry in same_rule if entry[0][0] == chosen[0]]
        if most_a_source and len(same_source) >= most_a_source:
            victim = same_source[0]
        elif most and len(same_rule) >= most:
            victim = same_rule[0]
        elif len(model) >= 40:
            victim = model[0]
        else:
            return gone
        model.remove(victim)
        gone.append(victim[0])


# ---- who makes room, by what became of the flows

def fill(table, numbers, now=0, *, answered=True, goes_on=False):
    """Adds flows of different clients; returns those that had to go."""
    gone = []
    for number in numbers:
        gone += table.open("rule", key(number), now)
        if answered:
            table.answer(key(number), now)
        if goes_on:
            table.use(key(number), now)
    return gone


@pytest.fixture
def full():
    """A table for 100 that nobody else's bounds disturb."""
    table = Flows(100)
    table.add_group("rule")
    return table


def test_single_queries_make_room_for_each_other(full):
    fill(full, range(20))
    fill(full, range(20, 40), goes_on=True)
    gone = fill(full, range(1000, 3000), now=1)
    assert len(gone) == 1940 and min(gone)[1] >= 1000, "nobody of those who were here before"


def test_a_flood_that_nobody_answers_makes_room_for_itself(full):
    fill(full, range(10), goes_on=True)
    gone = fill(full, range(1000, 3000), now=1, answered=False)
    assert len(gone) == 1910 and min(gone)[1] >= 1000


def test_who_waits_for_an_answer_is_not_the_first_to_go(full):
    fill(full, range(40), answered=False)
    fill(full, range(100, 160))
    gone = fill(full, range(1000, 1100), now=1)
    assert min(gone)[1] >= 100
    assert full.answer(key(0), 2)


def test_what_is_owed_keeps_a_flow_among_those_who_wait(full):
    fill(full, [1], answered=False)
    full.answer(key(1), 1, is_last=False)
    fill(full, range(100, 199))
    assert key(1) not in fill(full, range(1000, 1100), now=1)
    full.answer(key(1), 2)
    assert key(1) in fill(full, range(2000, 2100), now=3)


def test_conversations_leave_a_quarter_to_newcomers(full):
    fill(full, range(100), goes_on=True)
    gone = fill(full, range(1000, 1025), now=1, answered=False)
    assert gone == [key(number) for number in range(25)]
    assert fill(full, [2000], now=2, answered=False) == [key(1000)]


def test_a_source_s_own_conversations_stay_too():
    table = Flows(1000)
    table.add_group("rule", most_a_source=20)
    for number in range(10):
        table.open("rule", key(number, "192.0.2.7"), 0)
        table.answer(key(number, "192.0.2.7"), 0)
        table.use(key(number, "192.0.2.7"), 0)
    for number in range(100, 200):
        table.open("rule", key(number, "192.0.2.7"), 1)
        table.answer(key(number, "192.0.2.7"), 1)
    assert all(table.use(key(number, "192.0.2.7"), 2) for number in range(10))


def test_the_time_of_a_flow_ends_whatever_its_standing(table):
    fill(table, [1], answered=False)
    fill(table, [2], now=1 * S)
    fill(table, [3], now=2 * S, goes_on=True)
    assert table.next_end() == 30 * S
    assert table.expire(31 * S) == [key(1), key(2)]
    assert table.expire(32 * S) == [key(3)]
