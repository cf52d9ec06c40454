"""The handshake with a secret for one transfer."""

import pytest

from mproxy.ground.errors import PeerError
from mproxy.transport.one_time import OneTimeKeying

SECRET = bytes(range(32))


class OneEnd:
    """A Link as far as a handshake needs one."""

    def __init__(self, prologue=b"prologue"):
        self.prologue, self.sent, self.keys = prologue, [], None

    def send_handshake(self, data):
        self.sent.append(data)

    def secure(self, *keys):
        self.keys = keys


def both(secret=SECRET, prologue=b"prologue"):
    return (OneTimeKeying(SECRET, True), OneEnd()), (OneTimeKeying(secret, False), OneEnd(prologue))


def test_both_sides_get_the_same_keys_and_others_each_time():
    seen = set()
    for _ in range(2):
        (caller, here), (listener, there) = both()
        caller.take(here, b"")
        listener.take(there, here.sent[0])
        caller.take(here, there.sent[0])
        (a, b, cipher), (c, d, other) = here.keys, there.keys
        assert (a, b, cipher) == (d, c, other) and {len(a), len(b)} == {32}
        seen |= {a, b}
    assert len(seen) == 4


@pytest.mark.parametrize("secret, prologue", [(bytes(32), b"prologue"), (SECRET, b"another")])
def test_a_stranger_gets_no_answer(secret, prologue):
    (caller, here), (listener, there) = both(secret, prologue)
    caller.take(here, b"")
    with pytest.raises(PeerError):
        listener.take(there, here.sent[0])
    assert not there.sent and there.keys is None


@pytest.mark.parametrize("change", [lambda m: m[:-1], lambda m: m + b"x", lambda m: m[:-1] + bytes([m[-1] ^ 1]),
                                    lambda m: bytes([m[0] ^ 1]) + m[1:], lambda m: b"", lambda m: b"\1" + m[1:]])
def test_a_changed_message_is_refused(change):
    (caller, here), (listener, there) = both()
    caller.take(here, b"")
    with pytest.raises(PeerError):
        listener.take(there, change(here.sent[0]))
    (caller, here), (listener, there) = both()
    caller.take(here, b"")
    listener.take(there, here.sent[0])
    with pytest.raises(PeerError):
        caller.take(here, change(there.sent[0]))
    assert here.keys is None


def test_a_reflected_message_is_refused():
    caller, here = both()[0]
    caller.take(here, b"")
    with pytest.raises(PeerError):
        caller.take(here, here.sent[0][1:])
