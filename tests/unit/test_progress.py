"""The text of the progress line of `mproxy send`."""

import pytest

from mproxy.programs.progress import describe, show_bytes, show_time


@pytest.mark.parametrize("count, text", [
    (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_949, "99.9 kB"),
    (99_960, "100 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"), (5 * 10**12, "5.00 TB"), (10**21, "1000 EB")])
def test_bytes(count, text):
    assert show_bytes(count) == text


@pytest.mark.parametrize("seconds, text", [
    (0.2, "0s"), (59.4, "59s"), (59.6, "1m00s"), (125, "2m05s"), (3600, "1h00m"), (90_000, "1d")])
def test_time(seconds, text):
    assert show_time(seconds) == text


def test_a_line():
    assert describe(123_000_000, 246_000_000, 12_300_000.0, 1) == (
        " 50%  123 MB of 246 MB  12.3 MB/s  10s left  1 packet lost")
    assert describe(5000, None, 0.0, 0) == "5.00 kB  0 B/s"
    assert describe(5000, None, 0.0, 0, 7000) == "5.00 kB of 7.00 kB found so far  0 B/s"
    assert describe(7, 7, 0.0, 0) == "100%  7 B of 7 B  0 B/s"
