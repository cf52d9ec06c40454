"""--authorized-keys-command: what it says counts as a file would, what it does not say lets nobody in, and the loop
goes on meanwhile."""

import os
import time

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError, UsageError
from mproxy.io._loop import Loop
from mproxy.policy.grants import Grant
from mproxy.policy.keys import fingerprint, public_line
from mproxy.policy.trust import SETTLE_S
from mproxy.programs import keys_command
from mproxy.programs.keys_command import AGAIN_S, CACHE_S, MOST_ANSWERS, MOST_RUNS, Answer, KeysCommand
from tests.issuing import NOW, Authority, spki_of

ONE, OTHER = spki_of(bytes(32)), spki_of(bytes(31) + b"\1")
SOME, NONE = [Grant(ONE, 1)], []


class Log:
    def __init__(self):
        self.said = []

    def error(self, event, **fields):
        self.said.append((event, fields["why"]))

    warning = error


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Runs commands: `lab.command(script, words)` makes a KeysCommand, `lab.ask(it, key)` waits for its answer."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if os.geteuid() == 0:
        monkeypatch.setattr(keys_command, "own_entry", lambda: ("tester", 1, 1))

    class Lab:
        loop, log, path = Loop(), Log(), tmp_path / "who"

        def write(self, script):
            self.path.write_text(f"#!/bin/sh\n{script}\n")
            self.path.chmod(0o755)

        def command(self, script, words="%f", living=()):
            self.write(script)
            made = KeysCommand(f"{self.path} {words}", None, None, self.log)
            made.start(self.loop, lambda: living)
            return made

        def run(self, until, within=20):
            """The loop, until a condition holds."""
            end = time.monotonic() + within
            def look():
                if until() or time.monotonic() > end:
                    self.loop.stop()
                else:
                    self.loop.call_later(2000, look)
            look_now = self.loop.call_later(0, look)
            self.loop.run()
            assert look_now and until()

        def ask(self, command, *spkis, living=False):
            answered = []
            for spki in spkis:
                assert command.ask(spki, living, lambda spki=spki: answered.append(spki))
            self.run(lambda: len(answered) == len(spkis))
    return Lab()


def refusal(command, spki, certificate=b""):
    with pytest.raises(PeerError) as caught:
        command.find(spki, "10.0.0.1", NOW, certificate)
    assert caught.value.code == CloseCode.KEY_REFUSED
    return str(caught.value)


def test_what_it_says_counts_as_a_file_does(lab):
    command = lab.command(f'test "$1" = {fingerprint(ONE)} && echo \'max-streams=3 {public_line(ONE, "ann")}\'; exit 0')
    assert "not in authorized_keys" in refusal(command, ONE)
    lab.ask(command, ONE, OTHER)
    grant = command.find(ONE, "10.0.0.1", NOW, b"")
    assert (grant.max_streams, grant.comment) == (3, "ann")
    assert fingerprint(OTHER) in refusal(command, OTHER)
    command.check(ONE)
    with pytest.raises(PeerError):
        command.check(OTHER)
    assert not lab.log.said


def test_it_may_name_a_ca(lab):
    ca = Authority()
    command = lab.command(f"echo 'cert-authority {public_line(ca.spki)}'")
    lab.ask(command, ONE)
    assert command.find(ONE, "10.0.0.1", NOW, ca.certify(ONE)).spki == ONE
    assert "not in authorized_keys" in refusal(command, ONE)


def test_words_are_filled_in_and_nothing_else_is_done_to_them(lab):
    """Goal: no shell sees them; %-words anywhere, quotes as in a shell."""
    command = lab.command('printf "%s\\n" "$@" >&2; exit 3', "'a b' %%x%t $HOME '%u' k=%k")
    lab.ask(command, ONE)
    key = public_line(ONE).split()[1]
    said = command._expand(ONE)[1:]
    assert said == ["a b", "%xmproxy-ed25519", "$HOME", "tester" if os.geteuid() == 0 else said[3], f"k={key}"]
    assert lab.log.said == [("authorized-keys-command", f"exit status 3: k={key}")]


@pytest.mark.parametrize(("script", "why"), [
    ("echo wrong >&2; exit 1", "exit status 1: wrong"), ("kill -9 $$", "SIGKILL"),
    ("cat /dev/zero", "printed more than 1 MiB"), ("printf 'a\\033[2Jb' >&2; exit 1", r"exit status 1: a\x1b[2Jb"),
    ("sleep 1000 & sleep 1000", "has not ended within 0s")])
def test_when_it_fails_nobody_new_comes_in(lab, monkeypatch, script, why):
    """Goal: and what it has started is gone, too; who has a session stays."""
    command = lab.command(f"echo '{public_line(ONE)}'")
    lab.ask(command, ONE)
    monkeypatch.setattr(keys_command, "CACHE_S", 0)
    monkeypatch.setattr(keys_command, "LIMIT_US", 500_000 if "sleep" in script else 10_000_000)
    lab.write(script)
    lab.ask(command, ONE, OTHER)
    assert "has failed" in refusal(command, ONE) and "has failed" in refusal(command, OTHER)
    assert why in lab.log.said[-1][1]
    assert command.find_living(ONE, "10.0.0.1", NOW, b"").spki == ONE


def test_a_program_that_became_dangerous_is_not_run(lab, monkeypatch):
    command = lab.command("exit 0")
    lab.path.chmod(0o777)
    lab.ask(command, ONE)
    assert "can be written by other users" in lab.log.said[0][1]
    lab.path.unlink()
    lab.ask(command, OTHER)
    assert "No such file" in lab.log.said[1][1]


def test_the_loop_goes_on_and_not_all_run_at_once(lab, tmp_path):
    """Goal: whoever shows many keys has a few programs run at a time, and each asks once for all who wait."""
    command = lab.command(f"echo x >> {tmp_path}/runs; sleep 0.1")
    keys = [spki_of(bytes([1, number]) + bytes(30)) for number in range(2 * MOST_RUNS)]
    ticks, most, answered = [], [], []
    def tick():
        ticks.append(time.monotonic())
        most.append(len(command._runs))
        lab.loop.call_later(5000, tick)
    tick()
    for spki in keys * 3:
        command.ask(spki, False, lambda: answered.append(1))
    lab.run(lambda: len(answered) == 3 * len(keys))
    assert max(most) == MOST_RUNS and len(ticks) > 10
    assert len((tmp_path / "runs").read_text().split()) == len(keys)


def test_answers_of_strangers_are_forgotten(lab, monkeypatch):
    monkeypatch.setattr(keys_command, "MOST_ANSWERS", 3)
    command = lab.command("exit 0", living=[ONE])
    keys = [ONE, *(spki_of(bytes([1, number]) + bytes(30)) for number in range(8))]
    lab.ask(command, *keys)
    assert len(command._answers) <= 7 and ONE in command._answers and MOST_ANSWERS > 3


def test_before_any_answer_a_session_may_do_nothing_new(lab):
    """As after the death of the worker before: it is asked at once, and sessions are judged again."""
    command = lab.command(f"echo '{public_line(ONE)}'")
    grant = command.find_living(ONE, "10.0.0.1", NOW, b"")
    assert not grant.allows_target("a", 1) and not grant.allows_place(("", 1000))
    lab.run(lambda: command.has_news)
    assert command.find_living(ONE, "10.0.0.1", NOW, b"").allows_target("a", 1)
    assert not command.ask(ONE, True, lambda: None)


# ---- what counts when

def test_an_answer_counts_for_a_while():
    answer = Answer()
    assert not answer.is_fresh(0.0) and answer.is_due(0.0)
    answer.asked_at = 100.0
    assert answer.is_fresh(100.0 + CACHE_S - 1) and not answer.is_fresh(100.0 + CACHE_S)
    assert not answer.is_due(100.0 + AGAIN_S - 1) and answer.is_due(100.0 + AGAIN_S)


def test_an_answer_that_changes_counts_for_sessions_once_it_stays_so():
    """Goal: a list that is empty for a moment ends no session; that it is asked again soon."""
    answer = Answer()
    assert answer.take(SOME, 100.0) and answer.settled == SOME
    assert not answer.take(SOME, 101.0)
    answer.asked_at = 160.0
    assert not answer.take(NONE, 160.0) and (answer.grants, answer.settled) == (NONE, SOME)
    assert answer.is_due(160.0 + SETTLE_S)
    assert not answer.take(SOME, 162.0) and answer.changed_at is None
    assert not answer.take(NONE, 170.0) and not answer.take(NONE, 171.0)
    assert answer.take(NONE, 170.0 + SETTLE_S) and answer.settled == NONE


def test_what_is_asked_for_by_sighup_counts_at_once():
    answer = Answer()
    answer.take(SOME, 100.0)
    answer.is_final = True
    assert answer.take(NONE, 100.1) and answer.settled == NONE and not answer.is_final


# ---- command lines

# In a user namespace they are nobody's.
files_of_root = pytest.mark.skipif(os.stat("/").st_uid != 0, reason="the host's programs do not belong to root here")


@files_of_root
@pytest.mark.parametrize(("command", "why"), [
    ("keys %f", "must begin with an absolute path"), ("", "must begin with an absolute path"),
    ("/nonexistent/keys", "No such file"), ("/bin/echo 'a", "no closing quotation"), ("/bin/echo %q", "unknown %q"),
    ("/bin/echo 50%", "unknown %"), ("/etc/passwd", "chmod \\+x"), ("/dev/null", "not a regular file"),
    ("/bin", "is a directory")])
def test_what_cannot_be_run_is_said_at_the_start(monkeypatch, command, why):
    monkeypatch.setattr(keys_command, "own_entry", lambda: ("tester", os.geteuid() or 1, 1))
    with pytest.raises(UsageError, match=why):
        KeysCommand(command, None, None, Log())


@files_of_root
def test_as_whom_it_runs(monkeypatch):
    monkeypatch.setattr(keys_command, "own_entry", lambda: ("root", 0, 0))
    with pytest.raises(UsageError, match="needs --authorized-keys-command-user where sproxy runs as root"):
        KeysCommand("/bin/echo", None, None, Log())
    with pytest.raises(UsageError, match="no such user"):
        KeysCommand("/bin/echo", "nobody-of-that-name", None, Log())
    assert KeysCommand("/bin/echo", "nobody", None, Log())._user[0] == "nobody"
    assert KeysCommand("/bin/echo", "nobody", "nobody", Log())._user is None
    with pytest.raises(UsageError, match="sproxy runs as nobody, and only root"):
        KeysCommand("/bin/echo", "root", "nobody", Log())
