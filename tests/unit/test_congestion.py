"""Congestion control by its equations: CUBIC and RFC 9438, HyStart++ and RFC 9406, the model's steady state."""

import pytest
from mproxy.transport._bbr import Bbr, BbrMode
from mproxy.transport._congestion import Fixed
from mproxy.transport._cubic import Cubic
from tests.drivers._datagram import feed, time_out

SIZE = 1000
RTT = 100_000


class Course:
    """Feeds a controller one round trip at a time, and acknowledges everything in the window packet by packet."""

    def __init__(self, control, rtt=RTT):
        self.control, self.rtt, self.now, self.delivered = control, rtt, 1_000_000, 0

    def round(self, rtt=None, acks=None):
        """A window is acknowledged, in `acks` parts."""
        rtt = rtt or self.rtt
        total = self.control.window
        parts = acks or max(1, total // SIZE)
        before = self.delivered
        for part in range(parts):
            self.now += rtt // parts
            count = total * (part + 1) // parts - total * part // parts
            self.delivered += count
            feed(self.control, now=self.now, acked_bytes=count, rtt=rtt, delivered=self.delivered,
                 prior_delivered=max(0, before), interval=rtt, in_flight=total)

    def lose(self):
        """One packet, sent just now, is lost."""
        self.now += 1
        feed(self.control, now=self.now, acked_bytes=0, lost_bytes=SIZE, newest_lost_sent_at=self.now, rtt=self.rtt,
             delivered=self.delivered)


def cubic_at(packets):
    """A CUBIC controller in congestion avoidance just after a loss at `packets`."""
    course = Course(Cubic(SIZE))
    while course.control.packets < packets:
        course.round()
    course.lose()
    return course


def test_slow_start_doubles():
    course = Course(Cubic(SIZE))
    before = course.control.packets
    course.round()
    assert course.control.packets == pytest.approx(2 * before)


def test_loss_multiplies_by_beta_once_a_round_trip():
    """RFC 9438 section 4.6."""
    course = Course(Cubic(SIZE))
    course.round()
    before = course.control.packets
    course.lose()
    assert course.control.packets == pytest.approx(0.7 * before)
    feed(course.control, now=course.now, acked_bytes=0, lost_bytes=SIZE, newest_lost_sent_at=course.now - 10)
    assert course.control.packets == pytest.approx(0.7 * before), "a packet sent before the reduction"


def test_window_follows_the_cubic_function():
    """Sections 4.2 and 5: W(t) = C (t - K)^3 + W_max, K = cbrt(W_max (1 - beta) / C)."""
    course = cubic_at(1000)
    control, most = course.control, course.control.largest
    course.round()  # packets sent before the loss
    course.round()
    assert control.k == pytest.approx((most * 0.3 / 0.4) ** (1 / 3), rel=1e-3)
    start = course.now - RTT
    while course.now - start < 2 * control.k * 1e6:
        course.round()
        t = (course.now - start) / 1e6
        expected = 0.4 * (t - control.k) ** 3 + most
        assert control.packets == pytest.approx(expected, rel=0.02), f"at {t} s"


def test_fast_convergence_gives_way():
    """Section 4.7: a loss below the last maximum lowers the maximum further."""
    course = cubic_at(1000)
    course.round()
    before = course.control.packets
    course.lose()
    assert course.control.largest == pytest.approx(before * (1 + 0.7) / 2)


def test_small_windows_grow_as_reno_does():
    """Section 4.3: where the cubic function is slower than Reno with alpha = 3 (1 - beta) / (1 + beta), Reno counts."""
    course = cubic_at(40)
    course.rtt = 5_000
    course.round()
    before = course.control.packets
    for _ in range(10):
        course.round()
    alpha = 3 * (1 - 0.7) / (1 + 0.7)
    assert course.control.packets == pytest.approx(before + 10 * alpha, rel=0.02)


def test_hystart_leaves_slow_start_when_the_round_trip_grows():
    """RFC 9406: growth is conservative for five rounds, then slow start ends."""
    course = Course(Cubic(SIZE))
    course.round()
    course.round()
    course.rtt += 20_000
    course.round()
    before = course.control.packets
    course.round()
    assert course.control.packets == pytest.approx(1.25 * before, rel=0.1), "a quarter of the growth"
    for _ in range(5):
        course.round()
    assert course.control.threshold <= course.control.packets + 1
    after = course.control.packets
    course.round()
    assert course.control.packets < 1.2 * after


def test_hystart_takes_a_short_rise_back():
    course = Course(Cubic(SIZE))
    course.round()
    course.round()
    course.round(rtt=RTT + 20_000)
    course.round()
    course.round()
    before = course.control.packets
    course.round()
    assert course.control.packets == pytest.approx(2 * before, rel=0.05)


def test_timeouts_begin_again_with_little():
    course = cubic_at(500)
    time_out(course.control, course.now)
    assert course.control.packets == 4


def test_fixed_window_stays():
    control = Fixed(SIZE, 7)
    assert control.window == 7 * SIZE
    Course(control).lose()
    assert control.window == 7 * SIZE and control.rate == 0


# ---- the model

class Pipe:
    """A path of `rate` bytes per microsecond, round trip `rtt`, and a deep queue, that loses the share `loss`."""

    def __init__(self, rate=12.5, rtt=20_000, loss=0.0):
        self.control, self.rate, self.rtt, self.loss = Bbr(SIZE), rate, rtt, loss
        self.now, self.delivered, self.rtt_now = 1_000_000, 0, rtt

    def run(self, rounds):
        """Sent in a round trip: what pace and window allow; what comes back: what the path takes."""
        control = self.control
        for _ in range(rounds):
            sent = min(control.window, control.rate / 1e6 * self.rtt_now if control.rate else control.window)
            lost = int(sent * self.loss)
            taken = min(sent - lost, self.rate * self.rtt_now)
            self.rtt_now = self.rtt + max(0, int((sent - lost) / self.rate) - self.rtt)
            before, parts = self.delivered, 8
            for part in range(parts):
                self.now += self.rtt_now // parts
                share, gone = int(taken / parts), lost // parts
                self.delivered += share
                feed(control, now=self.now, acked_bytes=share, lost_bytes=gone, rtt=self.rtt_now,
                     delivered=self.delivered, prior_delivered=before if part == parts - 1 else 0,
                     interval=self.rtt_now if part == parts - 1 else 0, in_flight=int(taken))
        return self


def test_model_finds_bandwidth_and_round_trip():
    pipe = Pipe().run(40)
    assert pipe.control.mode == BbrMode.PROBE
    assert pipe.control.bandwidth == pytest.approx(12.5, rel=0.1)
    assert pipe.control.shortest == 20_000


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.1, 0.2, 0.3])
def test_model_does_not_slow_down_for_random_loss(loss):
    pipe = Pipe(loss=loss).run(60)
    assert pipe.control.bandwidth >= 0.9 * 12.5 * (1 - loss)
    assert 0.75 * loss <= pipe.control.floor <= loss + 0.01  # less than all of it where there is a queue, too


def test_model_forgets_a_bandwidth_that_is_gone():
    pipe = Pipe().run(40)
    pipe.rate = 5
    pipe.run(40)
    assert pipe.control.bandwidth == pytest.approx(5, rel=0.1)
