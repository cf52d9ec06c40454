"""The board behind the page: it reports changes, keeps moments, finds outages, and its memory is bounded."""

import pytest

from mproxy.web import board as board_module
from mproxy.web import history
from mproxy.web.board import Board
from mproxy.web.history import MOST_GAPS, MOST_SAMPLES, Samples

PID, KEY = 4711, "4711/4f2a91c0"
START = 1000.0


class Told:
    """A program with one session, which is looked at once a second."""

    def __init__(self):
        self.board = Board()
        self.now = START
        self.uptime_s = 100.0
        self.session = {
            "session": "4f2a91c0", "state": "connected", "since_s": 50.0, "why": "", "last_heard_s": 0.3,
            "round_trip_ms": 12.345, "streams": 1, "streams_ever": 1, "sent_bytes": 0, "received_bytes": 0,
            "resent_bytes": 0, "unacknowledged_bytes": 0, "undelivered_bytes": 0, "peer": "server:6200", "key": None,
            "comment": None, "age_s": 60.0, "heartbeat_s": 1, "next_try_s": None, "carrier": None,
            "memory_bytes": 4096,
            "outages": {"count": 0, "longest_s": 0, "total_s": 0, "recent": []}}
        self.sessions = [self.session]

    def look(self, after_s=1.0, **session):
        self.now += after_s
        self.uptime_s += after_s
        for name in ("since_s", "age_s"):
            if self.session[name] is not None:
                self.session[name] += after_s
        self.session.update(session)
        self.board.begin(self.now)
        self.board.take(PID, "/run/x.sock", self.facts())

    def facts(self):
        return {"program": "cproxy", "name": "laptop", "version": "1", "pid": PID, "uid": 0, "state": "running",
                "uptime_s": self.uptime_s, "listening": ["127.0.0.1:5200"], "sessions": self.sessions,
                "ended": {"sessions": 2, "streams_ever": 3}}

    def row(self, table="sessions", key=KEY):
        return self.board.tables[table][key].fields

    def changes(self):
        """What the last look changed, for a page that has seen everything before it."""
        known = {name: set(rows) for name, rows in self.board.tables.items()}
        return self.board.changes(self.board.look - 1, known)

    def outages(self, *recent):
        """(began before, lasted, why) of each, the newest first."""
        return {"count": len(recent), "longest_s": 0, "total_s": 0,
                "recent": [{"began_s": began, "lasted_s": lasted, "why": why} for began, lasted, why in recent]}


@pytest.fixture
def told():
    told = Told()
    told.look()
    return told


def test_a_session_and_its_program(told):
    row = told.row()
    assert (row["state"], row["peer"], row["name"]) == ("connected", "server:6200", "laptop")
    assert (row["since"], row["began"]) == (told.now - 51, told.now - 61)
    assert told.row("programs", str(PID))["where"] == "127.0.0.1:5200"


def test_what_only_grows_older_is_not_told_again(told):
    for _ in range(3):
        told.look()
    changes = told.changes()
    assert changes["programs"] == {} and changes["sessions"] == {}


def test_ages_that_stray_mean_the_same_moment(told):
    since = told.row()["since"]
    told.session["since_s"] += 0.2
    told.look()
    assert told.row()["since"] == since
    told.look(since_s=0.1)
    assert told.row()["since"] == pytest.approx(told.now - 0.1)


def test_rates_are_by_the_programs_own_clock(told):
    told.look(sent_bytes=1000, received_bytes=3000)
    told.look(2.0, sent_bytes=5000)
    assert (told.row()["out_rate"], told.row()["in_rate"]) == (2000, 0)
    samples = told.board.histories([KEY, "no/such"])
    assert samples == {KEY: {"out": [None, 1000, 2000], "in": [None, 3000, 0], "round_trip": [12.3] * 3}}
    assert told.changes()["sessions"][KEY] == {"sent_bytes": 5000, "out_rate": 2000, "in_rate": 0}


def test_an_outage_is_a_gap_with_its_reason(told):
    told.look(state="away", since_s=2.0, why="nothing heard", outages=told.outages((2.0, 2.0, "nothing heard")))
    began = told.now - 2
    assert told.row()["gaps"] == [[began, None, "nothing heard"]]
    told.look(why="no route", outages=told.outages((3.0, 3.0, "no route")))
    assert told.row()["gaps"] == [[began, None, "no route"]]
    told.look(3.0, state="connected", since_s=0.5, why="", outages=told.outages((6.0, 5.5, "no route")))
    assert told.row()["gaps"] == [[began, told.now - 0.5, "no route"]]
    assert told.board.histories([KEY])[KEY]["round_trip"] == [12.3, None, None, 12.3]


def test_outages_that_the_program_remembers(told):
    """Those before the first look and those between two looks; each counts once, however often it is reported."""
    told.look(outages=told.outages((20.0, 2.0, "no route"), (90.0, 9.0, "nothing heard")))
    first = [[told.now - 90, told.now - 81, "nothing heard"], [told.now - 20, told.now - 18, "no route"]]
    assert told.row()["gaps"] == first
    told.look(3.0, outages=told.outages((2.0, 1.5, "dark"), (23.4, 2.0, "no route"), (92.7, 9.0, "nothing heard")))
    assert told.row()["gaps"] == [*first, [told.now - 2, told.now - 0.5, "dark"]]


def test_gaps_are_bounded(told):
    for _ in range(MOST_GAPS + 20):
        told.look(10, outages=told.outages((1.0, 0.5, "dark")))
    assert len(told.row()["gaps"]) == MOST_GAPS


def test_samples_keep_the_newest():
    samples = Samples()
    for number in range(MOST_SAMPLES + 7):
        samples.add(number)
    assert samples.values() == list(range(7, MOST_SAMPLES + 7))
    assert history.MOST_SAMPLES * 4 * 3 <= 4096, "what docs/web.md says of a session's memory"


def test_a_session_that_ended_stays_a_while(told):
    told.look(state="away", since_s=1.0, why="nothing heard", outages=told.outages((1.0, 1.0, "nothing heard")))
    told.sessions = []
    told.look()
    assert told.row()["state"] == "ended" and told.row()["gaps"][0][1] == told.now
    assert told.board.session(KEY) is None
    told.look(board_module.ENDED_KEPT_S - 1)
    assert KEY in told.board.tables["sessions"]
    known = {"sessions": {KEY}}
    told.look(2)
    assert told.board.changes(0, known)["gone_sessions"] == [KEY]
    assert told.board.histories([KEY]) == {}


def test_why_a_session_ended_where_its_program_says_so(told):
    told.sessions = []
    told.now += 1
    told.board.begin(told.now)
    endings = [{"session": "4f2a91c0", "peer": "server:6200", "why": "ended by mproxy kill", "ended_s": 0.1}]
    told.board.take(PID, "/run/x.sock", told.facts() | {"endings": endings})
    assert told.row()["why"] == "ended by mproxy kill"


def test_a_session_that_never_was_leaves_nothing():
    told = Told()
    told.session.update(session="", state="connecting", since_s=None, age_s=None)
    told.look()
    assert told.row(key=f"{PID}/")["state"] == "connecting"
    told.sessions = []
    told.look()
    assert told.board.tables["sessions"] == {}


def test_ended_sessions_are_bounded(told, monkeypatch):
    monkeypatch.setattr(board_module, "MOST_ENDED", 5)
    for number in range(50):
        told.look(session=f"{number:08x}")
    assert len(told.board.tables["sessions"]) <= 7 and len(told.board._histories) <= 7


def test_a_program_that_is_silent_and_comes_back(told):
    told.now += 1
    told.board.begin(told.now)
    told.board.silent(PID, "cproxy", told.now - 3, "no answer for 3 s")
    assert told.row("programs", str(PID))["state"] == "silent" and told.row()["state"] == "unknown"
    told.look()
    assert told.row("programs", str(PID))["state"] == "running" and told.row()["state"] == "connected"


def test_a_program_that_was_never_heard(told):
    told.board.silent(99, "sproxy", told.now, "no answer")
    assert told.row("programs", "99")["name"] == "sproxy"


def test_a_program_that_is_gone(told):
    told.board.lose(str(PID))
    assert told.board.tables["programs"] == {} and told.row()["state"] == "ended"
    assert told.board.session(KEY) is None


def test_rows_are_bounded_and_the_rest_is_counted(monkeypatch):
    monkeypatch.setattr(board_module, "MOST_ROWS", 10)
    told = Told()
    told.sessions = [told.session | {"session": f"{number:08x}"} for number in range(25)]
    told.look()
    assert len(told.board.tables["sessions"]) == 10 and told.board.changes(-1, {})["more"] == 15


def test_long_texts_are_cut(told):
    told.look(peer="x" * 100_000)
    assert len(told.row()["peer"]) == board_module.LONGEST_TEXT


def test_transfers(told):
    facts = told.facts() | {"program": "recv", "sessions": [], "transfers": [
        {"peer": "10.0.0.1:7", "age_s": 2, "moved_bytes": 10, "kept_bytes": 5, "total_bytes": 100,
         "bytes_per_second": 5, "left_s": 17.0}]}
    told.board.take(12, "/run/y.sock", facts)
    row = told.row("transfers", "12/10.0.0.1:7")
    assert (row["done_bytes"], row["total_bytes"], row["rate"], row["left_s"]) == (15, 100, 5, 17.0)
    told.board.take(12, "/run/y.sock", facts | {"transfers": []})
    assert told.board.tables["transfers"] == {}


@pytest.mark.parametrize("change", [
    {"sessions": [{}]}, {"sessions": [1]}, {"sessions": 5}, {"sessions": None}, {"uptime_s": "x"}, {"version": {}}])
def test_an_answer_that_is_none_is_an_error_of_four_kinds(told, change):
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        told.board.take(PID, "/run/x.sock", told.facts() | change)
        told.board.changes(-1, {})["programs"][str(PID)]["version"].upper()
