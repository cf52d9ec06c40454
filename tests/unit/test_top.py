"""The table of mproxy top: rows, rates, order, and columns that fit the screen."""

import pytest

from mproxy.programs import top
from mproxy.programs.top_table import COLUMNS, TopTable, columns_within


def session(name, state="connected", sent=0, received=0, outages=0, **more):
    return {"session": name, "peer": "server:6200", "comment": None, "state": state, "since_s": 5.0,
            "round_trip_ms": 1.5, "streams": 2, "sent_bytes": sent, "received_bytes": received,
            "unacknowledged_bytes": 3, "undelivered_bytes": 4,
            "outages": {"count": outages, "longest_s": 0, "total_s": 0, "recent": []}, **more}


def program(*sessions, pid=1, name="laptop"):
    return {"program": "cproxy", "name": name, "pid": pid, "state": "running", "uptime_s": 7.0, "socket": "/s",
            "sessions": list(sessions)}


def column(title):
    return next(each for each in COLUMNS if each.title == title)


def names(table):
    return [row.session for row in table.rows]


def test_rates_are_those_between_two_looks():
    table = TopTable()
    table.update([program(session("a", sent=1000, received=50))], 10.0)
    assert (table.rows[0].up, table.rows[0].down) == (0, 0)
    table.update([program(session("a", sent=3000, received=50), session("b", sent=9))], 12.0)
    rates = {row.session: (row.up, row.down) for row in table.rows}
    assert rates == {"a": (1000, 0), "b": (0, 0)}
    table.update([program(session("a", sent=10))], 14.0)
    assert table.rows[0].up == 0, "another session may have the name"


@pytest.mark.parametrize(("title", "reverse", "order"), [
    ("SESSION", False, "abc"), ("SESSION", True, "cba"), ("OUTAGES", False, "bca"), ("OUTAGES", True, "acb"),
    ("RTT ms", False, "abc"), ("RTT ms", True, "bac")])
def test_order(title, reverse, order):
    """Numbers are sorted with the largest first; unknown values are last, in either direction."""
    table = TopTable()
    table.update([program(session("b", outages=7, round_trip_ms=1), session("c", outages=2, round_trip_ms=None),
                          session("a", outages=1, round_trip_ms=2))], 1.0)
    table.sort_by(column(title), reverse)
    assert "".join(names(table)) == order


def test_the_choice_stays_with_its_row():
    table = TopTable()
    table.sort_by(column("SESSION"))
    table.update([program(session("b"), session("d"))], 1.0)
    table.choose(1)
    table.update([program(session("a"), session("b"), session("c"), session("d"))], 2.0)
    assert table.row.session == "d"
    table.update([program(session("a"))], 3.0)
    assert table.row.session == "a"
    table.update([], 4.0)
    assert table.row is None and table.chosen == 0
    table.choose(5)
    assert table.chosen == 0


@pytest.mark.parametrize("width", [0, 10, 20, 40, 80, 100, 200])
def test_columns_fit(width):
    shown = columns_within(width)
    assert sum(len(each.head()) + 1 for each in shown) - 1 <= max(0, width)
    assert [each for each in COLUMNS if each in shown] == shown
    table = TopTable()
    table.update([program(session("a" * 50), name="n" * 50)], 1.0)
    for each in shown:
        assert len(each.say(table.rows[0])) == each.width
    if width >= 20:
        assert column("SESSION") in shown and column("STATE") in shown


def test_until_all_were_asked_nobody_says_that_nothing_runs():
    table = TopTable()
    assert table.say_none().startswith("asking ")
    table.update([], 1.0)
    assert table.say_none().startswith("nothing is running")


def test_programs_without_sessions_have_a_row():
    relay = {"program": "relay", "name": "relay", "pid": 2, "state": "running", "uptime_s": 7, "rules": [{}],
             "totals": {"tcp": {"connections": 3, "bytes_in": 5}, "udp": {"sessions": 4, "bytes_out": 6}}}
    sending = {"program": "send", "name": "send", "pid": 3, "state": "running", "uptime_s": 7, "transfers": [
        {"peer": "server:7000", "age_s": 3, "moved_bytes": 10, "kept_bytes": 0, "total_bytes": 30,
         "bytes_per_second": 3, "left_s": 7}]}
    table = TopTable()
    table.update([program(), relay, sending], 1.0)
    rows = {row.program["program"]: row for row in table.rows}
    assert rows["cproxy"].state == "idle"
    assert (rows["relay"].streams, rows["relay"].sent, rows["relay"].received) == (7, 5, 6)
    assert (rows["send"].sent, rows["send"].waiting, rows["send"].is_session) == (10, 20, False)
    assert "3 running, 0 sessions (0 away)" in table.summary()
    for row in table.rows:
        for each in COLUMNS:
            assert len(each.say(row)) == each.width


def test_a_fault_of_the_thread_that_asks_is_one_of_the_program(monkeypatch):
    """Goal: it is not printed over the screen, and nobody waits for news that never come."""
    monkeypatch.setattr(top, "ask_all", lambda *_: 1 // 0)
    sampler = top.Sampler(None, 1.0)
    sampler.run()
    with pytest.raises(ZeroDivisionError):
        sampler.results.get()(None)
