"""When packets gather before they are read: only those of streams do."""

import random

import pytest
from tests.drivers._relay import decide

LONGEST_US = 300
SECOND_US = 1_000_000


def reads(a_second, seconds=0.1, every_us=40, answers=0.0, start_us=SECOND_US, begun=0):
    """A socket read every so often at a steady rate, with so many answers to a message."""
    came = 0
    for now in range(start_us, start_us + int(seconds * SECOND_US), every_us):
        whole = (now - start_us) * a_second // SECOND_US
        yield now, whole - came, begun + int(whole * answers), 0
        came = whole


@pytest.mark.parametrize("a_second, wait_us", [(50_000, 300), (300_000, 300), (640_000, 150), (3_200_000, 30)])
def test_a_stream_gathers_until_there_are_many_but_not_for_long(a_second, wait_us):
    waits = decide(reads(a_second))
    assert waits[0] == 0
    assert waits[-1] == pytest.approx(wait_us, rel=0.05)
    assert max(waits) <= LONGEST_US


def test_what_gathers_takes_a_quarter_of_the_queue_at_most():
    a_system_s_default = 2 * 212_992
    assert decide(reads(640_000), a_system_s_default)[-1] == pytest.approx(46 / 0.64, rel=0.05)
    assert decide(reads(640_000), 0)[-1] == 1


@pytest.mark.parametrize("a_second", [1, 1_000, 30_000])
def test_what_comes_slowly_is_read_at_once(a_second):
    assert set(decide(reads(a_second, every_us=SECOND_US // a_second if a_second < 25_000 else 40, seconds=2))) == {0}


@pytest.mark.parametrize("a_second", [30_000, 100_000, 1_000_000])
@pytest.mark.parametrize("answers", [0.3, 1.0, 20.0])
def test_who_gets_answers_does_not_wait(a_second, answers):
    assert set(decide(reads(a_second, answers=answers))) == {0}


def test_a_few_answers_do_not_make_a_conversation():
    assert decide(reads(300_000, answers=0.05))[-1] == LONGEST_US


def test_it_ends_with_the_stream():
    stream = list(reads(300_000))
    end_us, _, answered, _ = stream[-1]
    after = [(end_us + n * 200, 0, answered, 0) for n in range(1, 200)]
    waits = decide(stream + after)[len(stream):]
    assert waits[0] == LONGEST_US
    assert set(waits[100:]) == {0}, "two periods without a message are enough"


def test_it_ends_when_answers_come():
    stream = list(reads(300_000))
    talk = list(reads(300_000, answers=1.0, start_us=stream[-1][0] + 40))
    waits = decide(stream + talk)
    assert waits[len(stream) - 1] == LONGEST_US
    assert set(waits[len(stream) + 500:]) == {0}


def test_it_goes_on_at_a_rate_at_which_it_would_not_begin():
    stream = list(reads(50_000))
    slower = list(reads(30_000, start_us=stream[-1][0] + 40))
    assert decide(stream + slower)[-1] == LONGEST_US
    assert decide(slower)[-1] == 0


def test_no_gathering_for_a_second_where_the_kernel_had_no_room():
    stream = [(now, came, answered, 7 if now >= SECOND_US + 50_000 else 0)
              for now, came, answered, _ in reads(300_000, seconds=2)]
    waits = dict(zip([read[0] for read in stream], decide(stream), strict=True))
    assert waits[SECOND_US + 49_960] == LONGEST_US
    assert {wait for at, wait in waits.items() if SECOND_US + 60_000 < at < 2 * SECOND_US + 50_000} == {0}
    assert waits[2 * SECOND_US + 80_000] == LONGEST_US


def test_a_burst_before_the_answers_is_no_stream():
    """A thousand clients ask at once; the answers come one millisecond later and go on."""
    asked = [(now, came, max(0, (now - SECOND_US - 1_000) * 90_000 // SECOND_US), 0)
             for now, came, _, _ in reads(90_000)]
    asked[0] = (SECOND_US, 512, 0, 0)
    assert set(decide(asked)) == {0}


def test_losses_before_it_began_do_not_count():
    assert decide([(now, came, answered, 4) for now, came, answered, _ in reads(300_000)])[-1] == LONGEST_US


def test_random_traffic_keeps_the_bounds(seed):
    chance = random.Random(seed)
    now = answered = dropped = 0
    traffic = []
    for _ in range(20_000):
        now += chance.choice([0, 1, 40, 40, 200, 5_000])
        answered += chance.choice([0, 0, 0, 1, 100])
        dropped = (dropped + chance.choice([0] * 1000 + [1, 2**31])) % 2**32
        traffic.append((now, chance.choice([0, 1, 2, 64, 256]), answered, dropped))
    waits = decide(traffic)
    assert all(0 <= wait <= LONGEST_US for wait in waits)
    assert any(waits) and not all(waits)
