"""What a worker's death means: statuses as waitpid gives them, in virtual time."""

import signal

import pytest

from mproxy.keeper.deaths import BLAME_US, MOST_YOUNG, YOUNG_US, Blame, Deaths, is_crash, is_death


def exited(status):
    return status << 8


@pytest.mark.parametrize("status", [0, 1, 2, 128 + signal.SIGINT])
def test_an_exit_status_of_its_own_choice_is_an_end(status):
    assert not is_death(exited(status)) and not is_crash(exited(status))


@pytest.mark.parametrize("status", [exited(70), signal.SIGSEGV, signal.SIGABRT | 0x80, signal.SIGBUS])
def test_what_a_worker_did_wrong_is_a_crash(status):
    assert is_death(status) and is_crash(status)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGRTMIN + 3])
def test_what_was_done_to_it_is_a_death_and_nobodys_fault(number):
    assert is_death(number) and not is_crash(number)


def test_pauses_grow_while_workers_die_young():
    deaths = Deaths()
    pauses = [deaths.note(YOUNG_US - 1) for _ in range(MOST_YOUNG)]
    assert pauses == [0, 0, *(100_000 << n for n in range(MOST_YOUNG - 3)), None]
    assert deaths.count == MOST_YOUNG


def test_a_worker_that_has_lived_is_followed_at_once():
    deaths = Deaths()
    for _ in range(MOST_YOUNG - 1):
        deaths.note(0)
    assert deaths.note(YOUNG_US) == 0
    assert [deaths.note(0) for _ in range(3)] == [0, 0, 100_000]


def test_one_that_is_killed_now_and_then_goes_on_for_ever():
    deaths = Deaths()
    assert {deaths.note(YOUNG_US) for _ in range(1000)} == {0}


def test_a_session_is_blamed_for_its_second_crash():
    blame = Blame()
    assert not blame.note(7, 0)
    assert not blame.note(8, 1)
    assert blame.note(7, 2)


def test_old_crashes_are_forgotten():
    blame = Blame()
    assert not blame.note(7, 0)
    assert not blame.note(7, BLAME_US)
    assert blame.note(7, BLAME_US + 1)


def test_nobodys_turn_is_nobodys_fault():
    blame = Blame()
    assert not blame.note(0, 0) and not blame.note(0, 1)
