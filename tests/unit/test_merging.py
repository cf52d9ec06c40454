"""One answer made of several workers'."""

import json

from mproxy.service.merging import join_status
from mproxy.service.status import parts_of


def parts(*sessions, deaths=0, ended=0, endings=(), state="running"):
    """One worker's answer."""
    facts = {"program": "sproxy", "state": state, "deaths": deaths, "endings": [{"session": name, "ended_s": at}
                                                                               for name, at in endings],
             "ended": {"sessions": ended, "outages": {"count": ended, "total_s": 0.1}}}
    return parts_of(facts, "sessions", sessions)


def joined(own, *others):
    return json.loads("".join(join_status(own, ["".join(each) for each in others])))


def test_sessions_of_all_workers_in_one_list():
    for counts in ((0, 0), (0, 2), (2, 0), (1, 1, 1), (0, 0, 3), (3, 0, 1)):
        answers, expected = [], []
        for worker, count in enumerate(counts):
            mine = [{"session": f"{worker}-{number}", "stream_list": []} for number in range(count)]
            expected += mine
            answers.append(parts(*mine))
        assert joined(*answers)["sessions"] == expected


def test_a_session_may_come_in_parts():
    mine = iter(['{"session": "a", "stream_list": [', "]}"])
    other = {"session": 'b, "sessions": [', "stream_list": [1]}
    assert [each["session"] for each in joined(parts(mine), parts(other))["sessions"]] == ["a", other["session"]]


def test_sums_and_the_last_endings():
    found = joined(parts(deaths=1, ended=2, endings=[("a", 3.0), ("b", 5.0)]),
                   parts(deaths=2, ended=3, endings=[("c", 4.0)], state="stopping"))
    assert found["deaths"] == 3 and found["ended"] == {"sessions": 5, "outages": {"count": 5, "total_s": 0.2}}
    assert [end["session"] for end in found["endings"]] == ["a", "c", "b"]
    assert found["state"] == "stopping"
    many = [(str(number), float(number)) for number in range(16)]
    assert len(joined(parts(endings=many), parts(endings=many))["endings"]) == 16
