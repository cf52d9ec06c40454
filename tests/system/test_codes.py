"""mproxy send without a host, mproxy recv CODE: from one host of a network to another, and to somewhere else."""

import json
import os
import signal

import pytest
from lab import until
from relays import MPROXY

pytest.importorskip("spake2")

PATIENCE = 60


def offer(host, *words):
    """A sender that waits, its code and its port."""
    sender = host.start(MPROXY, "send", "--json", *words)
    until(lambda: sender.out.lines, PATIENCE, "the code")
    said = json.loads(sender.out.lines[0][1])
    return sender, said["code"], said["port"]


@pytest.fixture
def source(lab):
    path = lab.router.home / "a file"
    path.write_bytes(os.urandom(3_000_000))
    return path


def test_in_the_same_network(lab, source):
    """Goal: the code alone, typed in capitals; the sender is found."""
    sender, code, _port = offer(lab.router, source)
    receiver = lab.client.start(MPROXY, "recv", code.upper())
    assert (receiver.wait(PATIENCE), sender.wait(PATIENCE)) == (0, 0), f"{receiver} {sender}"
    assert (lab.client.home / "a file").read_bytes() == source.read_bytes()


def test_on_the_same_host_several_at_once(lab, source):
    """Goal: each receiver finds its own sender."""
    offers = [offer(lab.router, source) for _ in range(3)]
    while len({code.split("-")[0] for _, code, _ in offers}) < 3:
        offers.append(offer(lab.router, source))
    receivers = [lab.router.start(MPROXY, "recv", code, "-o", f"{lab.router.home}/{code}/") for _, code, _ in offers]
    for (sender, code, _), receiver in zip(offers, receivers, strict=True):
        assert (receiver.wait(PATIENCE), sender.wait(PATIENCE)) == (0, 0), f"{receiver} {sender}"
        assert (lab.router.home / code / "a file").read_bytes() == source.read_bytes()


def test_from_another_network(lab, source):
    """Goal: what the sender shows for it works."""
    sender = lab.server.start(MPROXY, "send", source)
    until(lambda: len(sender.out.lines) >= 2, PATIENCE, "the code, and where else")
    shown = [line.split("mproxy recv ")[1].split() for _, line in sender.out.lines]
    assert shown[1][0] == shown[0][0]
    receiver = lab.client.start(MPROXY, "recv", *shown[1])
    assert (receiver.wait(PATIENCE), sender.wait(PATIENCE)) == (0, 0), f"{receiver} {sender}"
    assert (lab.client.home / "a file").read_bytes() == source.read_bytes()


def test_nobody_has_that_code(lab):
    receiver = lab.client.start(MPROXY, "recv", "--timeout", "7s", "7-violet-harbour")
    assert receiver.wait(PATIENCE) == 6
    hint, end = receiver.log.text.splitlines()
    assert "add the HOST PORT" in hint and "nobody in this network has code 7" in end


def test_one_wrong_guess_ends_the_code(lab, source):
    sender, code, port = offer(lab.server, source)
    number, first, second = code.split("-")
    wrong = f"{number}-{second}-{'acorn' if first != 'acorn' else 'actor'}"
    guess = lab.client.start(MPROXY, "recv", wrong, lab.server_address, port)
    assert guess.wait(PATIENCE) == 7
    assert "the code is wrong" in guess.log.text
    assert sender.wait(PATIENCE) == 7
    assert "a wrong code was tried" in sender.log.text
    assert not (lab.client.home / "a file").exists()


def test_a_stranger_with_a_key_does_not_end_it(lab, source):
    """Goal: only a guess is one."""
    key = lab.client.home / "secret"
    key.write_bytes(bytes(range(100, 132)))
    key.chmod(0o600)
    sender, code, port = offer(lab.server, source)
    stranger = lab.client.start(MPROXY, "send", "--timeout", "3s", "--key", key, source, lab.server_address, port)
    assert stranger.wait(PATIENCE) == 7
    receiver = lab.client.start(MPROXY, "recv", code, lab.server_address, port)
    assert (receiver.wait(PATIENCE), sender.wait(PATIENCE)) == (0, 0), f"{receiver} {sender}"


def test_a_new_code_goes_on_where_the_last_one_stopped(lab, source):
    sender, code, port = offer(lab.server, "--limit", "10Mbit", source)
    receiver = lab.client.start(MPROXY, "recv", code, lab.server_address, port)
    state = lab.client.home / ".a file.mproxy-state"
    until(lambda: state.exists() and any(state.read_bytes()[64:]), PATIENCE, "a block")
    sender.signal(signal.SIGINT)
    assert sender.wait(PATIENCE) == 130 and receiver.wait(PATIENCE) not in (0, 130)
    sender, code, port = offer(lab.server, source)
    receiver = lab.client.start(MPROXY, "recv", code, lab.server_address, port)
    assert (receiver.wait(PATIENCE), sender.wait(PATIENCE)) == (0, 0), f"{receiver} {sender}"
    assert (lab.client.home / "a file").read_bytes() == source.read_bytes()
