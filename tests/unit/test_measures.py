"""What `mproxy metrics` makes of the programs' answers: sums, counters that never fall, and strange answers."""

import copy
import os
import time

import pytest

from mproxy.service import measures
from mproxy.service.measures import METRICS, PROGRAM_STATES, Ledger
from mproxy.service.survey import Surveyed

HERE = os.getpid()  # a process that is there


def session(**facts):
    return {
        "session": "4f2a91c0", "state": "connected", "since_s": 60.0, "why": "", "last_heard_s": 0.5,
        "round_trip_ms": 20.0, "streams": 2, "streams_ever": 5, "sent_bytes": 1000, "received_bytes": 3000,
        "resent_bytes": 10, "unacknowledged_bytes": 7, "undelivered_bytes": 8, "memory_bytes": 9000,
        "outages": {"count": 2, "longest_s": 3.0, "total_s": 4.5}, "peer": "192.0.2.1", "carrier": None} | facts


def sproxy(*sessions, **facts):
    return {
        "program": "sproxy", "name": "office", "version": "0.1.0", "state": "running", "sessions": list(sessions),
        "ended": {"sessions": 3, "streams_ever": 4, "sent_bytes": 100, "received_bytes": 200, "resent_bytes": 1,
                  "outages": {"count": 1, "total_s": 0.5}}} | facts


def relay(**facts):
    rule = {"protocol": "tcp", "down": {"192.0.2.1:80": "refused"}, "counters": {},
            "checked": {"192.0.2.1:80": "down", "192.0.2.2:80": "up"}}
    return {
        "program": "relay", "name": "relay:rules", "version": "0.1.0", "state": "running", "reloads": 2,
        "last_reload_errors": [], "unresolved": {"nowhere": "unknown host"}, "rules": [rule],
        "checks": {"asked": 5, "failed": 2},
        "workers": [{"pid": HERE, "state": "running", "deaths": 1}],
        "totals": {
            "tcp": {"connections": 4, "total": 9, "refused": 1, "limited": 1, "failed": 2, "timed_out": 3,
                    "bytes_in": 5,
                    "bytes_out": 6},
            "udp": {"sessions": 7, "total": 8, "refused": 0, "limited": 0,
                    "evicted": 1, "expired": 2, "errors": 3, "dropped": 4,
                    "packets_in": 10, "packets_out": 11, "bytes_in": 12, "bytes_out": 13}}} | facts


def asked(facts, program="sproxy", pid=HERE, uid=0):
    return Surveyed(program, pid, f"/run/mproxy/{program}-{pid}.sock", uid, facts)


class Exporter:
    """A ledger, and what it makes of each survey: {metric: value}, labels beside the group's behind a slash."""

    def __init__(self, monkeypatch):
        self.started = {}  # pid -> when
        monkeypatch.setattr(measures, "look_at_process", lambda pid: {
            "cpu": 1.5, "started": self.started.get(pid, 1000.0), "memory": 4096.0})
        self.ledger = Ledger(lambda uid: {0: "root"}.get(uid, str(uid)))

    def groups(self, *surveyed):
        found = {}
        for group, samples in self.ledger.take(list(surveyed)).items():
            values = found.setdefault(group, {})
            for name, labels, value in samples:
                assert len(labels) == len(METRICS[name].labels)
                key = "/".join((name.removeprefix("mproxy_"), *labels))
                assert key not in values, f"{key} twice"
                values[key] = value
        return found

    def only(self, *surveyed):
        (values,) = self.groups(*surveyed).values()
        return values


@pytest.fixture
def exporter(monkeypatch):
    return Exporter(monkeypatch)


def test_sessions_of_a_program_are_added_up(exporter):
    away = session(state="away", since_s=12.0, round_trip_ms=None)
    found = exporter.only(asked(sproxy(session(), session(round_trip_ms=40.0, last_heard_s=0.9), away)))
    assert (found["up"], found["processes/running"], found["processes/silent"]) == (1, 1, 0)
    assert (found["sessions/connected"], found["sessions/away"], found["sessions/connecting"]) == (2, 1, 0)
    assert (found["session_bytes_total/sent"], found["session_bytes_total/received"]) == (3100, 9200)
    assert (found["sessions_begun_total"], found["streams_opened_total"], found["streams"]) == (6, 19, 6)
    assert (found["session_outages_total"], found["session_outage_seconds_total"]) == (7, 14.0)
    assert (found["session_away_seconds"], found["session_silence_seconds"]) == (12.0, 0.9)
    assert found["session_round_trip_seconds/median"] == pytest.approx(0.03)
    assert found["session_round_trip_seconds/longest"] == pytest.approx(0.04)
    assert found["info/0.1.0"] == 1
    assert (found["session_memory_bytes"], found["session_undelivered_bytes"]) == (27_000, 24)


def test_what_carries_sessions_and_datagrams(exporter):
    values = exporter.only(asked(sproxy(
        session(carrier={"kind": "datagram"}, datagrams={"flows": 3}), session(carrier={"kind": "datagram"}),
        session(carrier={"kind": "tcp+tls"}), session(carrier={"kind": "command"}), session(state="away"))))
    assert [values[f"session_carriers/{kind}"] for kind in ("tcp", "datagram", "command")] == [1, 2, 1]
    assert values["session_flows"] == 3


def test_ten_thousand_sessions_have_no_more_series_than_one(exporter):
    few = exporter.only(asked(sproxy(session())))
    assert exporter.only(asked(sproxy(*[session()] * 10_000))).keys() == few.keys()


def test_what_is_not_known_is_left_out(exporter):
    found = exporter.only(asked(sproxy()))
    assert "session_round_trip_seconds/median" not in found and "session_silence_seconds" not in found
    assert found["session_away_seconds"] == 0


def test_a_relay(exporter):
    found = exporter.only(asked(relay(), "relay"))
    assert (found["relay_connections/tcp"], found["relay_connections/udp"], found["relay_rules/tcp"]) == (4, 7, 1)
    assert (found["relay_opened_total/tcp"], found["relay_opened_total/udp"]) == (9, 8)
    assert (found["relay_bytes_total/tcp/in"], found["relay_packets_total/udp/out"]) == (5, 11)
    assert (found["relay_dropped_packets_total/udp"], found["relay_timed_out_total/tcp"]) == (4, 3)
    assert (found["relay_targets_down"], found["relay_unresolved_names"], found["relay_workers"]) == (1, 1, 1)
    assert (found["relay_worker_deaths_total"], found["relay_last_reload_failed"]) == (1, 0)
    assert found["resident_memory_bytes"] == 2 * 4096  # the supervisor, and a worker


def test_transfers(exporter):
    transfer = {"moved_bytes": 50, "kept_bytes": 5, "left_s": 9.0}
    recv = {"program": "recv", "name": "inbox", "version": "0.1.0", "state": "running", "transfers": [transfer],
            "ended": {"transfers": 2, "moved_bytes": 100, "kept_bytes": 10}}
    found = exporter.only(asked(recv, "recv"))
    assert (found["transfers"], found["transfers_begun_total"], found["transfer_left_seconds"]) == (1, 3, 9.0)
    assert (found["transfer_bytes_total/moved"], found["transfer_bytes_total/kept"]) == (150, 15)


def test_every_metric_has_been_seen(exporter, monkeypatch):
    """Goal: every metric in the table can come from some program."""
    monkeypatch.undo()
    monkeypatch.setattr(os, "listdir", lambda _path: ["0", "1"])
    transfer = {"moved_bytes": 50, "kept_bytes": 5, "left_s": 9.0}
    send = {"program": "send", "name": "x", "version": "1", "state": "running", "transfers": [transfer]}
    found = Ledger(str).take([asked(sproxy(session(), deaths=1, upgrades=2)), asked(relay(), "relay", os.getppid()),
                               asked(send, "send", 1)])
    assert {name for samples in found.values() for name, _, _ in samples} == METRICS.keys()


def test_programs_of_one_name_are_one_and_users_are_not(exporter):
    found = exporter.groups(asked(sproxy(session()), pid=1), asked(sproxy(session()), pid=2),
                            asked(sproxy(session()), pid=3, uid=1000))
    assert set(found) == {("root", "sproxy", "office"), ("1000", "sproxy", "office")}
    assert found["root", "sproxy", "office"]["session_bytes_total/sent"] == 2200
    assert found["root", "sproxy", "office"]["processes/running"] == 2


def test_a_program_that_is_silent_keeps_its_name_and_its_counters(exporter):
    before = exporter.only(asked(sproxy(session())))
    silent = exporter.only(asked(None))
    assert (silent["up"], silent["processes/silent"], silent["processes/running"]) == (0, 1, 0)
    assert silent["session_bytes_total/sent"] == before["session_bytes_total/sent"]
    assert "sessions/connected" not in silent  # nobody knows


def test_a_program_that_never_answered_goes_by_its_number(exporter):
    assert set(exporter.groups(asked(None))) == {("root", "sproxy", f"sproxy-{HERE}")}
    assert set(exporter.groups(asked(sproxy()))) == {("root", "sproxy", "office")}


def test_counters_do_not_fall_when_one_of_several_ends(exporter):
    two = [asked(sproxy(session()), pid=1), asked(sproxy(session()), pid=2)]
    before = exporter.only(*two)
    after = exporter.only(two[0])
    assert after["session_bytes_total/sent"] == before["session_bytes_total/sent"] == 2200
    assert (after["streams"], after["processes/running"]) == (2, 1)
    exporter.started[2] = 2000.0  # another process that has the same number
    assert exporter.only(*two)["session_bytes_total/sent"] == 3300
    assert exporter.groups() == {}
    assert exporter.only(two[0])["session_bytes_total/sent"] == 1100  # begun anew, as a counter may be


def test_counters_do_not_fall_when_a_session_was_between_two_slices_of_an_answer(exporter):
    before = exporter.only(asked(sproxy(session())))
    after = exporter.only(asked(sproxy()))
    assert after["session_bytes_total/sent"] == before["session_bytes_total/sent"]


def wrong(change):
    facts = sproxy(session())
    change(facts)
    return facts


STRANGE = {
    "nothing": {}, "another program": sproxy(program="relay"), "no name": wrong(lambda facts: facts.pop("name")),
    "a number for a name": sproxy(name=7), "sessions are text": sproxy(sessions="many"),
    "a session is none": sproxy(sessions=[None]), "text for bytes": sproxy(session(sent_bytes="1")),
    "not a number": sproxy(session(sent_bytes=float("nan"))), "endless": sproxy(session(streams=float("inf"))),
    "a strange state": sproxy(state="dancing"), "no totals": wrong(lambda facts: facts.pop("ended")),
    "huge": sproxy(session(sent_bytes=10 ** 400)), "a version without text": sproxy(version=[1])}


@pytest.mark.parametrize("facts", STRANGE.values(), ids=STRANGE)
def test_strange_answers_are_none(exporter, facts):
    """Goal: somebody who can put a socket into the right directory cannot spoil the scrape."""
    found = exporter.groups(asked(copy.deepcopy(facts)), asked(sproxy(session()), pid=2, uid=1000))
    assert found["root", "sproxy", f"sproxy-{HERE}"]["up"] == 0
    assert found["1000", "sproxy", "office"]["up"] == 1


def test_names_are_made_harmless(exporter):
    (group,) = exporter.groups(asked(sproxy(name="x\n\ud800" + "y" * 1000)))
    assert group[2].startswith("x\\n\\ud800y") and len(group[2]) == measures.LONGEST_VALUE


def test_look_at_process():
    seen = measures.look_at_process(HERE)
    assert seen["memory"] > 1 << 20 and seen["cpu"] > 0 and seen["fds"] >= 3 and seen["max_fds"] >= seen["fds"]
    assert 0 <= time.time() + 1 - seen["started"] < 86_400
    assert measures.look_at_process(1 << 30) == {}


def test_names_follow_the_conventions():
    for metric in METRICS.values():
        assert metric.name.endswith("_total") == (metric.kind == measures.COUNTER), metric.name
        assert metric.text.endswith(".") and "\n" not in metric.text
        for word in ("milli", "_ms", "kilo", "minutes", "bits"):
            assert word not in metric.name
    assert len(set(PROGRAM_STATES)) == 4
