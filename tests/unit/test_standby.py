"""Who waits for the next ssh, and when."""

import os
import select
import socket
import time
from types import SimpleNamespace

import pytest

from mproxy.ground.config import CproxyConfig, SessionConfig
from mproxy.ground.errors import MproxyError
from mproxy.io._loop import Loop
from mproxy.programs import next_ssh, standby
from mproxy.programs.connect import parse
from mproxy.programs.next_ssh import NextSsh, standby_name
from tests.unit.descriptors import open_descriptors

DEADLINE_S = 30


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The directory of the sockets; this process keeps its terminal and its standard error."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(standby, "leave_directory", lambda: None)
    shown = []

    def use(fd):
        shown.append(os.readlink(f"/proc/self/fd/{fd}"))
        os.close(fd)
    monkeypatch.setattr(standby, "_use_for_errors", use)
    return SimpleNamespace(path=tmp_path / "mproxy", shown=shown)


class Host:
    """A Standby in a loop, and those who come."""

    def __init__(self, works=lambda: True):
        self.loop = Loop()
        self.errors, self.added = [], []
        self.loop.on_error = self.errors.append
        self.standby = standby.Standby(self.loop, "standby-x", works, lambda *fds: self.added.append(fds))

    def turn_until(self, condition):
        deadline = time.monotonic() + DEADLINE_S

        def look():
            if condition() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(1000, look)
        look_now = self.loop.call_later(0, look)
        self.loop.run()
        look_now.cancel()
        assert condition() and not self.errors, self.errors


def reach(place):
    guest = socket.socket(socket.AF_UNIX)
    fd = os.open(place.path, os.O_PATH)
    guest.connect(f"/proc/self/fd/{fd}/standby-x")
    os.close(fd)
    return guest


def is_readable(sock):
    return bool(select.select([sock], [], [], 0)[0])


def test_its_pipes_are_another_application_s(place):
    """Goal: non-blocking, with the guest's standard error as ours, and everything let go of at the end."""
    host = Host()
    assert os.stat(place.path).st_mode & 0o777 == 0o700
    guest, pipes, errors = reach(place), [os.pipe(), os.pipe()], os.pipe()
    host.turn_until(lambda: is_readable(guest))
    assert guest.recv(2) == standby.READY
    socket.send_fds(guest, [b"+"], [pipes[0][0], pipes[1][1], errors[1]])
    host.turn_until(lambda: host.added)
    ((read, write),) = host.added
    assert not os.get_blocking(read) and not os.get_blocking(write)
    os.write(pipes[0][1], b"to")
    assert os.read(read, 9) == b"to"
    os.write(write, b"from")
    assert os.read(pipes[1][0], 9) == b"from"
    assert place.shown == ["/dev/null", os.readlink(f"/proc/self/fd/{errors[1]}")]
    assert not is_readable(guest)
    host.standby.rest()
    assert guest.recv(1) == b"" and place.shown[-1] == "/dev/null"
    host.standby.close()
    assert not list(place.path.iterdir())


def test_errors_of_who_has_ended_are_let_go_of(place):
    """Goal: whoever reads them sees their end, although others are still there."""
    host = Host()

    def come():
        guest, pipes, errors = reach(place), [os.pipe(), os.pipe()], os.pipe()
        host.turn_until(lambda: is_readable(guest))
        assert guest.recv(2) == standby.READY
        before = len(host.added)
        socket.send_fds(guest, [b"+"], [pipes[0][0], pipes[1][1], errors[1]])
        host.turn_until(lambda: len(host.added) > before)
        return guest, os.readlink(f"/proc/self/fd/{errors[1]}")
    (first, first_errors), (second, second_errors), (third, third_errors) = come(), come(), come()
    assert place.shown[1:] == [first_errors, second_errors, third_errors]
    second.close()
    host.turn_until(lambda: len(host.standby._here) == 2)
    assert place.shown[-1] == third_errors, "those of the newest are in use"
    third.close()
    host.turn_until(lambda: place.shown[-1] == "/dev/null")
    assert not is_readable(first)
    host.standby.rest()
    host.standby.close()


def test_when_the_session_does_not_work_nobody_is_taken(place):
    host = Host(works=lambda: False)
    guest = reach(place)
    host.turn_until(lambda: is_readable(guest))
    assert guest.recv(1) == b""
    host.standby.close()


@pytest.mark.parametrize("nonsense", ["nothing", "gone", "two", "files", "bytes"])
def test_nonsense_costs_its_connection(place, nonsense, tmp_path, monkeypatch):
    """Goal: no descriptor stays open, and the next guest is served."""
    if nonsense == "nothing":
        monkeypatch.setattr(standby, "PATIENCE_US", 50_000)
    host = Host()
    before = open_descriptors()
    guest = reach(place)
    host.turn_until(lambda: is_readable(guest))
    guest.recv(1)
    with open(tmp_path / "file", "w") as file:
        if nonsense == "gone":
            guest.shutdown(socket.SHUT_WR)
        elif nonsense == "two":
            socket.send_fds(guest, [b"+"], [guest.fileno()] * 2)
        elif nonsense == "files":
            socket.send_fds(guest, [b"+"], [file.fileno()] * 3)
        elif nonsense == "bytes":
            guest.sendall(b"{}\n" * 1000)
    host.turn_until(lambda: is_readable(guest))
    guest.close()
    assert not host.added
    assert open_descriptors() == before
    guest = reach(place)
    host.turn_until(lambda: is_readable(guest))
    assert guest.recv(1) == standby.READY
    guest.close()
    host.standby.close()


def test_not_more_guests_than_that(place, monkeypatch):
    monkeypatch.setattr(standby, "MOST_GUESTS", 1)
    host = Host()
    first, second = reach(place), reach(place)
    host.turn_until(lambda: is_readable(first) and is_readable(second))
    assert (first.recv(1), second.recv(1)) == (standby.READY, b"")
    first.close()
    second.close()
    host.standby.close()


def test_one_that_is_there_already_is_left_alone(place):
    """Goal: of two whose ssh has ended only one waits; a socket that the dead left behind is replaced."""
    host = Host()
    with pytest.raises(MproxyError):
        Host()
    guest = reach(place)
    host.turn_until(lambda: is_readable(guest))
    guest.close()
    host.standby._listener.sock.close()  # as if killed: the file is still there
    Host().standby.close()
    assert not list(place.path.iterdir())


def test_the_name_is_of_all_that_leads_there(monkeypatch):
    names = {standby_name(words) for words in (["a"], ["a", ""], ["a", "b"], ["ab"], ["\udcff"])}
    monkeypatch.setenv("HOME", "/other")
    names.add(standby_name(["a"]))
    monkeypatch.setenv("XDG_STATE_HOME", "/other")
    names.add(standby_name(["a"]))
    assert len(names) == 7


def test_how_long_is_asked_for():
    assert parse(["ann@server:22"]).idle_us == 600_000_000
    config = parse(["--idle", "0", "ann@server:22"])
    assert config.idle_us == 0 and config.standby == standby_name(["--idle", "0", "ann@server:22"])


# --- when the session is kept

class Endpoint:
    attached, receive_silence_us = True, 1_000_000
    session = SimpleNamespace(session_id=b"s")

    def __init__(self):
        self.pipes = []
        self.carrier = SimpleNamespace(describe=lambda: {"kind": "datagram", "peer": "there"})

    def add_pipes(self, *pipes):
        self.pipes.append(pipes)


class Timers:
    """A loop's, in virtual time."""

    def __init__(self):
        self.due = []

    def call_later(self, us, act):
        timer = SimpleNamespace(cancel=lambda: self.due.remove(entry) if entry in self.due else None)
        entry = (us, act)
        self.due.append(entry)
        return timer

    def ring(self):
        self.due.pop(0)[1]()


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(next_ssh, "_called_by_ssh", lambda: True)
    made = SimpleNamespace(endpoint=Endpoint(), loop=Timers(), told=[], standbys=[], finished=[])

    class Waiting:
        def __init__(self, _loop, name, works, add):
            self.name, self.works, self.add, self.events = name, works, add, []
            made.standbys.append(self)

        def rest(self):
            self.events.append("rest")

        def close(self):
            self.events.append("close")
    monkeypatch.setattr(standby, "Standby", Waiting)
    teller = SimpleNamespace(leave_terminal=lambda: made.told.append("leave"),
                             use_terminal=lambda: made.told.append("use"))
    config = CproxyConfig(session=SessionConfig(heartbeat_us=1_000_000), sproxy_host="h", sproxy_port=1,
                          idle_us=600_000_000, standby="standby-x")
    made.will_move = False
    monkeypatch.setattr(next_ssh, "owns_terminal", lambda: False)
    made.make = lambda **more: NextSsh(config.replace(**more), made.loop, made.endpoint, teller, b"",
                                       lambda: made.will_move, lambda: made.finished.append(True))
    return made


def test_kept_for_its_time_after_the_last_guest(parts):
    keeps = parts.make()
    assert keeps.begin() and parts.told == ["leave"]
    (waiting,) = parts.standbys
    waiting.add(8, 9)
    assert parts.endpoint.pipes == [(8, 9, b"")] and not parts.loop.due and parts.told == ["leave", "use"]
    assert keeps.begin() and waiting.events == ["rest"] and keeps.begin() and len(parts.loop.due) == 1
    assert parts.loop.due[0][0] == 600_000_000
    parts.loop.ring()
    assert parts.finished == [True]
    keeps.close()
    assert waiting.events == ["rest", "rest", "close"] and not keeps.begin()


@pytest.mark.parametrize("why", ["not ssh's", "not asked for", "no carrier", "silent", "through ssh", "no session",
                                 "there is one"])
def test_not_kept(parts, why, monkeypatch):
    if why == "not ssh's":
        monkeypatch.setattr(next_ssh, "_called_by_ssh", lambda: False)
    elif why == "there is one":
        def refuse(*_args):
            raise MproxyError("another one listens")
        monkeypatch.setattr(standby, "Standby", refuse)
    keeps = parts.make(idle_us=0 if why == "not asked for" else 600_000_000)
    if why == "no carrier":
        parts.endpoint.attached = False
    elif why == "silent":
        parts.endpoint.receive_silence_us = 2_000_000
    elif why == "through ssh":
        parts.endpoint.carrier = THROUGH_SSH
    elif why == "no session":
        parts.endpoint.session = SimpleNamespace(session_id=b"")
    assert not keeps.begin()
    assert not parts.loop.due and not parts.told


THROUGH_SSH = SimpleNamespace(describe=lambda: {"kind": "command", "through": "ssh"})


def test_one_through_ssh_is_kept_while_it_may_go_straight(parts):
    """Goal: the very next ssh is served, too; and no login stays open that nobody sees."""
    straight, parts.endpoint.carrier, parts.will_move = parts.endpoint.carrier, THROUGH_SSH, True
    keeps = parts.make()
    assert keeps.begin() and [us for us, _act in parts.loop.due] == [600_000_000, next_ssh.LOOK_US]
    idle = parts.loop.due.pop(0)
    parts.loop.ring()
    assert [us for us, _act in parts.loop.due] == [next_ssh.LOOK_US] and not parts.finished
    parts.endpoint.carrier = straight
    parts.loop.ring()
    assert not parts.loop.due and not parts.finished
    parts.endpoint.carrier, parts.will_move = THROUGH_SSH, False
    parts.loop.due.append(idle)
    assert keeps.begin() and parts.finished == [True], "it has gone back to ssh while somebody used it"


def test_one_through_ssh_whose_port_is_shut_ends(parts):
    parts.endpoint.carrier, parts.will_move = THROUGH_SSH, True
    keeps = parts.make()
    assert keeps.begin()
    parts.will_move = False
    parts.loop.due.pop(0)
    (waiting,) = parts.standbys
    waiting.add(8, 9)
    parts.loop.ring()
    assert not parts.finished, "somebody uses it"
    assert keeps.begin()
    parts.loop.due.reverse()
    parts.loop.ring()
    assert parts.finished == [True]


def test_an_ssh_with_our_standard_error_is_not_kept(parts, monkeypatch):
    """Goal: `mproxy ssh host true 2>&1 | cat` ends with ssh."""
    monkeypatch.setattr(next_ssh, "owns_terminal", lambda: True)
    monkeypatch.setattr(os, "isatty", lambda fd: False)
    parts.endpoint.carrier, parts.will_move = THROUGH_SSH, True
    assert not parts.make().begin()


def test_sighup_is_the_end_of_ssh_or_ours(parts):
    """Goal: ssh sends it when it ends, and its pipes end with it; if they do not, somebody else has sent it."""
    ended = []
    keeps = parts.make()
    assert keeps.hung_up(lambda: ended.append(1))
    assert keeps.begin()
    parts.loop.ring()
    assert not ended
    keeps = parts.make()
    parts.loop.due.clear()
    assert keeps.hung_up(lambda: ended.append(1))
    parts.loop.ring()
    assert ended == [1]
    parts.endpoint.attached = False
    assert not keeps.hung_up(lambda: None), "there is nothing to be kept"
