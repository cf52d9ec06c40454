"""sproxy's door: where streams may go, whose key may come in, and what a clock that jumps does to it."""

import socket

import pytest

from mproxy._wire import CloseCode
from mproxy.config import SproxyConfig
from mproxy.errors import PeerError, UsageError
from mproxy.policy.keys import public_line
from mproxy.policy.targets import is_guarded, without_guarded
from mproxy.programs import door as door_module
from mproxy.programs.door import Door, check_same_key, is_loopback
from tests import keys

SPKI = keys.context(1, True).spki
NOON = 1_800_000_000.0


class Log:
    """Remembers the events."""

    def __init__(self):
        self.events = []

    def info(self, event, **fields):
        self.events.append((event, fields))

    warning = info


@pytest.fixture
def clock(monkeypatch):
    """The time of day, as the door sees it."""
    class Clock:
        now = NOON

        def time(self):
            return self.now
    clock = Clock()
    monkeypatch.setattr(door_module, "time", clock)
    return clock


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes an open door from the lines of authorized_keys; None: there is no such file."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def door(lines, **settings):
        (tmp_path / "host-key.pem").touch(mode=0o600)
        (tmp_path / "host-key.pem").write_bytes(keys.pem(2))
        if lines is not None:
            (tmp_path / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))
            (tmp_path / "authorized_keys").chmod(0o600)
        made = Door(SproxyConfig(state_dir=str(tmp_path), port=0, **settings), Log())
        made.open()
        return made
    return door


def refused(door, spki=SPKI, host="10.0.0.1"):
    """Why the key may not come in."""
    with pytest.raises(PeerError) as caught:
        door.grant(spki, host)
    assert caught.value.code == CloseCode.KEY_REFUSED
    return str(caught.value)


# ---- keys

def test_without_a_file_everybody_may_come_in(make):
    door = make(None)
    assert not door.guarded and door.grant(SPKI, "10.0.0.1") is None
    assert "open-door" in [event for event, _ in door._log.events]


def test_a_file_that_was_named_must_be_there(make, tmp_path):
    """A mistyped name must not leave the door open."""
    with pytest.raises(UsageError, match="mistyped: there is no such file"):
        make(None, authorized_keys=str(tmp_path / "mistyped"))
    assert make([], authorized_keys=str(tmp_path / "authorized_keys")).guarded


def test_with_a_file_its_keys_alone(make):
    door = make([public_line(SPKI)])
    assert door.guarded and door.grant(SPKI, "10.0.0.1").spki == SPKI
    assert "not in authorized_keys" in refused(door, keys.context(3, True).spki)


def test_a_file_that_appears_later_counts_from_then_on(make, tmp_path):
    """And so does one that vanishes again: then nobody may come in. The log has a line for both."""
    door = make(None)
    assert not door.changed()
    file = tmp_path / "authorized_keys"
    file.write_text(public_line(SPKI) + "\n")
    file.chmod(0o600)
    assert door.changed() and door.guarded and not door.changed()
    assert door.grant(SPKI, "10.0.0.1").spki == SPKI
    refused(door, keys.context(3, True).spki)
    file.unlink()
    assert door.changed() and door.guarded
    refused(door)
    assert [fields["keys"] for event, fields in door._log.events if event == "keys-read"] == [1, 0]
    assert "nobody may connect" in str([fields for event, fields in door._log.events if event == "authorized-keys"])


def test_a_change_that_a_new_client_sees_first_is_told_all_the_same(make, tmp_path):
    """Otherwise a removed key kept its carrier when somebody else connected in that half second."""
    door = make([public_line(SPKI)])
    (tmp_path / "authorized_keys").write_text("# nobody\n")
    refused(door)
    assert door.changed() and not door.changed()


def test_a_clock_that_jumps_closes_the_door_and_opens_it_again(make, clock):
    """Nothing is remembered of an earlier time: only the present one counts."""
    door = make([f'expiry="20270115200000Z" {public_line(SPKI)}'])
    clock.now = 1_800_043_199.0
    assert door.grant(SPKI, "10.0.0.1")
    clock.now = 1_800_043_201.0
    assert "expiry" in refused(door)
    clock.now = 4_000_000_000.0
    assert "expiry" in refused(door)
    clock.now = 0.0
    assert door.grant(SPKI, "10.0.0.1")


def test_plaintext_asks_for_no_key_and_warns(tmp_path):
    for bind, warned in (((), True), (("127.0.0.1", "::1"), False), (("127.0.0.1", "10.0.0.1"), True)):
        door = Door(SproxyConfig(state_dir=str(tmp_path), port=0, plaintext=True, bind=bind), Log())
        door.open()
        assert door.make_tls() is None and not door.guarded and door.grant(b"", "10.0.0.1") is None
        assert ("plaintext" in [event for event, _ in door._log.events]) == warned
    assert not list(tmp_path.iterdir()), "a key was made"


def test_a_session_belongs_to_the_key_that_began_it():
    check_same_key(SPKI, SPKI)
    with pytest.raises(PeerError) as caught:
        check_same_key(keys.context(3, True).spki, SPKI)
    assert caught.value.code == CloseCode.BAD_PROOF


def test_tags_hold_when_sproxy_is_started_anew_and_not_elsewhere(make):
    """By the host key, which is wiped; without one they are of this process alone."""
    door = make(None)
    tag = door.tags.make(b"abc", NOON)
    assert make(None).tags.holds(tag, NOON)
    other = Door(SproxyConfig(port=0, plaintext=True, bind=("127.0.0.1",)), Log())
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
    door = make([f'target="intranet:80,elsewhere:1" {public_line(SPKI)}'], allow=(("intranet", 80), ("other", 80)))
    grant = door.grant(SPKI, "10.0.0.1")
    assert door.target(b"intranet:80", grant) == ("intranet", 80)
    for words in (b"", b"other:80", b"elsewhere:1"):
        assert door.target(words, grant) is None


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


@pytest.mark.parametrize(("host", "ours"), [
    ("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("::", False),
    ("server", False), ("10.0.0.1", False),
])
def test_loopback(host, ours):
    assert is_loopback(host) == ours
