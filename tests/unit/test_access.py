"""Access to sproxy: where streams may go, which keys are let in, and what happens when the clock jumps."""

import os
import socket
import subprocess

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.config import SproxyConfig
from mproxy.ground.errors import PeerError, UsageError
from mproxy.policy.keys import public_line
from mproxy.policy.targets import is_guarded, without_guarded
from mproxy.policy.trust import SETTLE_S
from mproxy.programs import access as access_module
from mproxy.programs.access import Access, check_same_key
from mproxy.programs.own_key import open_context
from tests import keys

SPKI = keys.context(1, True).spki
NOON = 1_800_000_000.0


class Log:
    """Remembers the events."""

    def __init__(self):
        self.events = []

    def info(self, event, **fields):
        self.events.append((event, fields))

    warning = error = info

    def of(self, event):
        """The fields of the lines of one event."""
        return [fields for name, fields in self.events if name == event]


@pytest.fixture
def clock(monkeypatch):
    """The time of day, as `Access` sees it."""
    class Clock:
        now = NOON

        def time(self):
            return self.now

        monotonic = time
    clock = Clock()
    monkeypatch.setattr(access_module, "time", clock)
    return clock


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes an open Access from the lines of authorized_keys; None: there is no such file."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def access(lines, **settings):
        (tmp_path / "host-key.pem").touch(mode=0o600)
        (tmp_path / "host-key.pem").write_bytes(keys.pem(2))
        if lines is not None:
            (tmp_path / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))
            (tmp_path / "authorized_keys").chmod(0o600)
        made = Access(SproxyConfig(state_dir=str(tmp_path), port=0, **settings), Log())
        made.open()
        return made
    return access


def refused(access, spki=SPKI, host="10.0.0.1"):
    """Why the key is refused."""
    with pytest.raises(PeerError) as caught:
        access.grant(spki, host)
    assert caught.value.code == CloseCode.KEY_REFUSED
    return str(caught.value)


# ---- keys

def test_without_a_file_everybody_may_come_in(make):
    access = make(None)
    assert not access.guarded and access.grant(SPKI, "10.0.0.1") is None


def test_a_file_that_was_named_must_be_there(make, tmp_path):
    """A file name with a typo must not let everybody in."""
    with pytest.raises(UsageError, match="mistyped: no such file"):
        make(None, authorized_keys=str(tmp_path / "mistyped"))
    assert make([], authorized_keys=str(tmp_path / "authorized_keys")).guarded


def test_a_file_that_was_named_must_be_of_use(make, tmp_path):
    """A file that lets nobody in is an error at the start, not just a line in the log."""
    named = tmp_path / "list"
    os.mkfifo(named)
    with pytest.raises(UsageError, match="not a regular file"):
        make(None, authorized_keys=str(named))
    named.unlink()
    named.touch(mode=0o666)
    named.chmod(0o666)
    with pytest.raises(UsageError, match="chmod go-w"):
        make(None, authorized_keys=str(named))
    named.unlink()
    named.symlink_to("nowhere")
    with pytest.raises(UsageError, match="No such file"):
        make(None, authorized_keys=str(named))


def test_a_key_that_was_named_must_be_there(make, tmp_path):
    """A file name with a typo must not give the server another identity."""
    with pytest.raises(UsageError, match=r"--host-key .*mistyped: no such file; create it with 'mproxy keygen --host"):
        make(None, host_key=str(tmp_path / "mistyped"))
    assert not (tmp_path / "mistyped").exists()
    with pytest.raises(UsageError, match=r"--key mistyped: no such file; create it with 'mproxy keygen -f mistyped'"):
        open_context("mistyped", Log(), is_server=False, named="mistyped")


def test_a_key_without_a_place_is_told(tmp_path):
    """Such a key changes at each start, so clients that remember it will suspect somebody in the middle."""
    for is_server in (True, False):
        log = Log()
        open_context(None, log, is_server=is_server)
        assert "HOME is not set" in log.of("key-not-kept")[0]["why"]


def test_the_keys_in_force_are_counted_at_the_start(make):
    assert not make(None)._log.of("keys-read"), "there is no list"
    assert make([public_line(SPKI), "damaged"])._log.of("keys-read")[0]["keys"] == 1


# ---- open to everybody

ANYWHERE, HERE = [("0.0.0.0", 6200), ("::", 6200)], [("127.0.0.1", 6200)]


@pytest.mark.parametrize(("listening", "settings", "level", "words"), [
    (ANYWHERE, {}, "error", "ANYONE whose packets arrive here, not only this host, can use them through"
                            " 0.0.0.0:6200 or [::]:6200"),
    (ANYWHERE, {"daemon_host": "10.0.0.9"}, "warning", "anyone whose packets arrive here can use them through"),
    (ANYWHERE, {"daemon_host": "10.0.0.9", "allow": (("localhost", 80),)}, "error", "ANYONE"),
    (ANYWHERE, {"daemon_host": "0.0.0.0"}, "error", "ANYONE"),
    (ANYWHERE, {"daemon_host": "10.0.0.9", "allow": (("::", 80),)}, "error", "ANYONE"),
    (HERE, {}, "warning", "every user of this host can use them through 127.0.0.1:6200"),
])
def test_an_open_door_is_told(make, tmp_path, listening, settings, level, words):
    """Goal: the log says who can reach what and how to end that, as an error if the daemon itself is local only."""
    access = make(None, **settings)
    access._log.warning = lambda event, **fields: access._log.events.append((f"warning {event}", fields))
    access._log.error = lambda event, **fields: access._log.events.append((f"error {event}", fields))
    access.say_open(listening)
    line, = access._log.of(f"{level} open-door")
    assert words in line["why"] and f"{settings.get('daemon_host', '127.0.0.1')}:23" in line["daemons"]
    assert line["close"] == f"touch {tmp_path}/authorized_keys"
    assert access.open_to(listening) in line["why"].replace("ANYONE", "anyone")


def test_the_command_that_is_told_ends_that(make, tmp_path, clock):
    access = make(None)
    access.say_open(ANYWHERE)
    subprocess.run(["sh", "-c", access._log.of("open-door")[0]["close"]], check=True)
    refused(access)
    before = len(access._log.events)
    access.say_open(ANYWHERE)
    assert len(access._log.events) == before, "it is not open any more"


def test_a_door_that_starts_closed(make):
    access = make(None, closed=True)
    access.say_open(ANYWHERE)
    assert access.guarded and not access._log.of("open-door") and access._log.of("keys-read")[0]["keys"] == 0
    assert access.open_to(ANYWHERE) is None
    refused(access)


def test_without_encryption_the_door_is_open_too(tmp_path):
    access = Access(SproxyConfig(state_dir=str(tmp_path), port=0, plaintext=True), Log())
    access.open()
    access.say_open(ANYWHERE)
    assert "--plaintext" in access._log.of("open-door")[0]["close"]


def test_with_a_file_its_keys_alone(make):
    access = make([public_line(SPKI)])
    assert access.guarded and access.grant(SPKI, "10.0.0.1").spki == SPKI
    assert "not in authorized_keys" in refused(access, keys.context(3, True).spki)


def test_a_file_that_appears_later_counts_from_then_on(make, tmp_path, clock):
    """So does its removal: then nobody is let in. The log has a line for each."""
    access = make(None)
    assert not access.changed()
    file = tmp_path / "authorized_keys"
    file.write_text(public_line(SPKI) + "\n")
    file.chmod(0o600)
    assert not access.changed() and access.guarded
    assert access.grant(SPKI, "10.0.0.1").spki == SPKI
    refused(access, keys.context(3, True).spki)
    assert access.grant_living(keys.context(3, True).spki, "10.0.0.1") is None, "it may still be written to"
    clock.now += SETTLE_S
    assert access.changed() and not access.changed()
    file.unlink()
    assert not access.changed() and access.guarded
    refused(access)
    clock.now += SETTLE_S
    assert access.changed()
    assert [fields["keys"] for fields in access._log.of("keys-read")] == [1, 0]
    assert "nobody may connect" in str(access._log.of("authorized-keys"))


def test_a_change_that_a_new_client_sees_first_is_told_all_the_same(make, tmp_path, clock):
    """Otherwise a removed key would keep its carrier if somebody else connected in that half second."""
    access = make([public_line(SPKI)])
    (tmp_path / "authorized_keys").write_text("# nobody\n")
    refused(access)
    clock.now += SETTLE_S
    assert access.changed() and not access.changed()


def test_a_reload_judges_everybody_at_once(make, tmp_path, clock):
    access = make([public_line(SPKI)])
    (tmp_path / "authorized_keys").write_text("# nobody\n")
    assert access.reload() == 0
    with pytest.raises(PeerError):
        access.grant_living(SPKI, "10.0.0.1")


def test_a_clock_that_jumps_closes_the_door_and_opens_it_again(make, clock):
    """Only the present time counts; nothing is remembered of an earlier one."""
    access = make([f'expiry="20270115200000Z" {public_line(SPKI)}'])
    clock.now = 1_800_043_199.0
    assert access.grant(SPKI, "10.0.0.1")
    clock.now = 1_800_043_201.0
    assert "expiry" in refused(access)
    clock.now = 4_000_000_000.0
    assert "expiry" in refused(access)
    clock.now = 0.0
    assert access.grant(SPKI, "10.0.0.1")


def test_plaintext_asks_for_no_key_and_warns(tmp_path):
    for bind, warned in (((), True), (("127.0.0.1", "::1"), False), (("127.0.0.1", "10.0.0.1"), True)):
        access = Access(SproxyConfig(state_dir=str(tmp_path), port=0, plaintext=True, bind=bind), Log())
        access.open()
        assert access.make_tls() is None and not access.guarded and access.grant(b"", "10.0.0.1") is None
        assert ("plaintext" in [event for event, _ in access._log.events]) == warned
    assert not list(tmp_path.iterdir()), "a key was made"


def test_a_session_belongs_to_the_key_that_began_it():
    check_same_key(SPKI, SPKI)
    with pytest.raises(PeerError) as caught:
        check_same_key(keys.context(3, True).spki, SPKI)
    assert caught.value.code == CloseCode.BAD_PROOF


def test_tags_hold_when_sproxy_is_started_anew_and_not_elsewhere(make):
    """They depend on the host key, which is wiped from memory; without one they hold for this process alone."""
    access = make(None)
    tag = access.tags.make(b"abc", NOON)
    assert make(None).tags.holds(tag, NOON)
    other = Access(SproxyConfig(port=0, plaintext=True, bind=("127.0.0.1",)), Log())
    other.open()
    assert not other.tags.holds(tag, NOON) and other.tags.holds(other.tags.make(b"abc", NOON), NOON)


# ---- targets

@pytest.mark.parametrize(("words", "found"), [
    (b"", ("127.0.0.1", 23)), (b"127.0.0.1:23", ("127.0.0.1", 23)), (b"intranet:80", ("intranet", 80)),
    (b"INTRANET:80", ("intranet", 80)), (b"intranet:81", None), (b"127.0.0.1:22", None), (b"junk", None),
    (b"\xff\xfe:80", None), (b"[::1]:80", None),
])
def test_targets(make, words, found):
    assert make(None, allow=(("intranet", 80),)).target(words, None) == found


def test_a_line_can_only_take_away(make):
    access = make([f'target="intranet:80,elsewhere:1" {public_line(SPKI)}'], allow=(("intranet", 80), ("other", 80)))
    grant = access.grant(SPKI, "10.0.0.1")
    assert access.target(b"intranet:80", grant) == ("intranet", 80)
    for words in (b"", b"other:80", b"elsewhere:1"):
        assert access.target(words, grant) is None


@pytest.mark.parametrize(("host", "guarded"), [
    ("169.254.169.254", True), ("169.254.0.1", True), ("fe80::1", True), ("fe80::1%eth0", True), ("febf::1", True),
    ("::ffff:169.254.169.254", True), ("fd00:ec2::254", True), ("100.100.100.200", True), ("192.0.0.192", True),
    ("127.0.0.1", False), ("10.0.0.1", False), ("fd00::7", False), ("192.168.1.1", False), ("fec0::1", False),
    ("not an address", False),
])
def test_link_local_and_metadata_addresses(host, guarded):
    assert is_guarded(host) == guarded


def test_a_name_does_not_lead_there_but_a_number_does():
    addresses = [(socket.AF_INET, ("169.254.169.254", 80)), (socket.AF_INET, ("10.0.0.1", 80))]
    assert without_guarded(addresses, "metadata.example") == addresses[1:]
    assert without_guarded(addresses[:1], "metadata.example") == []
    assert without_guarded(addresses[:1], "169.254.169.254") == addresses[:1]
