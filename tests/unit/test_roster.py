"""The roster: each worker sees what the others show, and one decides at a time."""

import multiprocessing
import os

import pytest

from mproxy._session import Session
from mproxy.ground.config import SessionConfig
from mproxy.policy._roster import Roster

ID = [bytes([number]) * 16 for number in range(8)]


@pytest.fixture
def session():
    return Session(SessionConfig(), is_server=True, session_id=ID[0], secret=bytes(32))


def in_worker(roster, number, work):
    """Do something in a process of another worker; it must not fail."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            roster.begin(number)
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def show(roster, session, session_id=ID[1], holder=ID[2], instance=ID[3], **more):
    number = roster.add(session_id, instance, session.streams, 5)
    roster.note(number, holder, **{"attached": True, "lost_at": 0, "lent": True, "tags": [], **more})
    return number


def test_others_see_what_a_worker_shows(session):
    roster = Roster(3, 4)
    in_worker(roster, 1, lambda: show(roster, session, attached=False, lost_at=7, lent=False))
    in_worker(roster, 2, lambda: roster.show_guests(3))
    roster.begin(0)
    assert roster.find_session(ID[1]) == roster.find_holder(ID[2]) == roster.find_instance(ID[3]) == 1
    assert roster.find_session(ID[4]) is None and roster.find_session(ID[2]) is None
    assert roster.count(ID[2]) == (1, 0) and roster.count(ID[1]) == (0, 0) and roster.total() == 1
    assert roster.others() == [(1, 0, ID[1], ID[2], 0, False, 7, 5, False)]
    assert [roster.load(worker) for worker in range(3)] == [0, 1, 3]
    roster.send_guest(1)
    assert roster.load(1) == 2 and roster.sessions(1) == 1


def test_own_rows_are_found_by_oneself_and_counted(session):
    roster = Roster(2, 4)
    roster.begin(1)
    number = show(roster, session)
    assert roster.find_session(ID[1]) is None, "whoever has it need not ask"
    assert roster.count(ID[2]) == (1, 0) and roster.others() == [] and roster.total() == 1
    roster.remove(number)
    assert roster.count(ID[2]) == (0, 0) and roster.total() == 0 and roster.load(1) == 0


def test_it_is_full_and_has_room_again(session):
    roster = Roster(1, 2)
    roster.begin(0)
    rows = [show(roster, session, ID[number]) for number in range(2)]
    assert roster.add(ID[2], ID[3], session.streams, 5) == -1
    roster.remove(rows[0])
    assert show(roster, session) >= 0 and roster.total() == 2


def test_a_session_that_was_told_to_leave_counts_no_more(session):
    roster = Roster(2, 4)
    in_worker(roster, 1, lambda: show(roster, session))
    roster.begin(0)
    roster.dismiss(1, 0)
    assert roster.total() == 0 and roster.count(ID[2]) == (0, 0) and roster.others() == []


def test_the_next_worker_begins_with_none(session):
    roster = Roster(2, 4)
    in_worker(roster, 1, lambda: show(roster, session))
    in_worker(roster, 1, lambda: None)
    roster.begin(0)
    assert roster.total() == 0 and roster.load(1) == 0


def test_one_decides_at_a_time():
    roster = Roster(4, 4)
    count = multiprocessing.RawValue("i", 0)

    def add_some(number):
        roster.begin(number)
        for _ in range(500):
            with roster:
                count.value += 1
    others = [multiprocessing.get_context("fork").Process(target=add_some, args=(number,)) for number in range(4)]
    for each in others:
        each.start()
    for each in others:
        each.join(60)
    assert count.value == 2000


def test_a_lock_goes_with_its_holder():
    roster = Roster(2, 4)
    in_worker(roster, 1, roster.__enter__)
    roster.begin(0)
    with roster:
        pass


def test_a_tag_is_found_wherever_its_session_is(session):
    roster = Roster(3, 4)
    in_worker(roster, 2, lambda: show(roster, session, tags=[7, 9]))
    roster.begin(0)
    number = show(roster, session, session_id=ID[4], tags=[11])
    for first in range(3):
        assert [roster.find_tag(tag, first) for tag in (7, 9, 11, 13)] == [2, 2, 0, None]
    roster.note(number, ID[2], True, 0, True, [12, 13])
    assert [roster.find_tag(tag, 0) for tag in (11, 12, 13)] == [None, 0, 0]
    roster.remove(number)
    assert roster.find_tag(12, 0) is None


def test_who_is_expected_from_a_source():
    roster = Roster(2, 4)
    in_worker(roster, 1, lambda: roster.expect(1000, 1, 5_000_000))
    roster.begin(0)
    assert roster.expected(1000, 15_000_000) == 1
    assert roster.expected(1000, 15_000_001) is None, "that was long ago"
    assert roster.expected(1000 + 256, 5_000_000) is None, "it has the same place"
    roster.expect(1000 + 256, 0, 5_000_000)
    assert roster.expected(1000, 5_000_000) is None and roster.expected(1000 + 256, 5_000_000) == 0


def test_nobody_decides_while_a_worker_goes_on_with_sessions(session):
    """Goal: a session is never taken for gone between the death of its worker and the next one's first look."""
    roster = Roster(2, 4)
    in_worker(roster, 1, lambda: show(roster, session))
    began, ended = multiprocessing.Pipe(False), multiprocessing.Pipe(False)
    pid = os.fork()
    if pid == 0:
        roster.begin(1, settled=False)
        began[1].send(None)
        ended[0].recv()
        show(roster, session)
        roster.settled()
        os._exit(0)
    roster.begin(0)
    began[0].recv()
    assert roster.find_session(ID[1]) is None
    ended[1].send(None)
    with roster:
        assert roster.find_session(ID[1]) == 1
    assert os.waitpid(pid, 0)[1] == 0
