"""mproxy send when the receiver falls silent: addresses that change, programs that are stopped, restarted or missing;
and interruptions by the user."""

import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest
from lab import SLOWNESS_S, outage, until
from test_transfer import MANY, MPROXY, MPROXY_ROOT, Transfer, blocks_of, content

SOURCE = {"PYTHONPATH": str(MPROXY_ROOT)}


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


def under_way(transfer, *options, size=20 << 20, rate="50Mbit"):
    """A receiver and a sender with some blocks between them: (receiver, its port, sender, data)."""
    data = content(21, size)
    path = transfer.file("f", data)
    receiver, port = transfer.recv(*options, once=False)
    _box, through = transfer.impair(port, "--rate", rate, "--delay", "1ms")
    sender = transfer.send(through, "--json", *options, path)
    until(lambda: blocks_of(transfer.target / ".f.mproxy-state") >= 2, 60, "some blocks")
    return receiver, port, sender, data


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_receiver_that_is_started_anew_is_dialled_anew(transfer, how, tmp_path):
    """After SIGTERM it announces that it stops; after SIGKILL it is just silent."""
    key = tmp_path / "secret"
    key.write_bytes(bytes(range(200, 232)))
    key.chmod(0o600)
    options = ("--key", key) if how == signal.SIGKILL else ()
    receiver, port, sender, data = under_way(transfer, *options)
    receiver.signal(how)
    receiver.wait()
    transfer.recv(*options, port=port, once=False)
    assert sender.wait(MANY) == 0, str(sender)
    assert (transfer.target / "f").read_bytes() == data
    sender.event("dialled-anew")
    assert json.loads(sender.out.lines[-1][1])["bytes"] < len(data) + (8 << 20), "what was there was kept"
    assert os.listdir(transfer.target) == ["f"]


def test_a_sender_that_was_stopped_goes_on(transfer):
    """It was stopped for longer than the receiver waits, and longer than it would wait itself."""
    data = content(22, 20 << 20)
    path = transfer.file("f", data)
    receiver, port = transfer.recv("--timeout", "2s", once=False)
    _box, through = transfer.impair(port, "--rate", "50Mbit")
    sender = transfer.send(through, "--timeout", "3s", path)
    until(lambda: blocks_of(transfer.target / ".f.mproxy-state") >= 2, 60, "some blocks")
    sender.signal(signal.SIGSTOP)
    receiver.event("broken-off", within=MANY)
    outage(2)  # what it says about that is answered no more
    sender.signal(signal.SIGCONT)
    assert sender.wait(MANY) == 0, str(sender)
    assert (transfer.target / "f").read_bytes() == data


def test_standard_input_is_not_sent_again(transfer):
    receiver, port = transfer.recv(once=False)
    sender = transfer.send(port, "--timeout", "6s", "-", stdin=subprocess.PIPE)
    sender.process.stdin.write(bytes(5 << 20))
    sender.process.stdin.flush()
    receiver.event("sender", within=MANY)
    receiver.signal(signal.SIGKILL)
    receiver.wait()
    transfer.recv(port=port, once=False)
    assert sender.wait(MANY) == 6
    assert sender.events("dialled-anew") == []


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_receivers_address_changes_in_mid_transfer(lab, tmp_path, family):
    """It finds the sender again, and nothing starts over."""
    (tmp_path / "in").mkdir()
    target = lab.server.home / "out"
    target.mkdir()
    data = content(23, 30 << 20)
    path = tmp_path / "in" / "f"
    path.write_bytes(data)
    lab.wifi.shape("100mbit")
    receiver = lab.server.start(*MPROXY, "recv", "--once", "--open", "7000", "-o", f"{target}/", env=SOURCE)
    receiver.event("listening", within=30)
    address = lab.core.address(2) if family == "IPv4" else lab.core.address6(2)
    sender = lab.client.start(*MPROXY, "send", "--json", path, address, "7000", env=SOURCE)
    until(lambda: blocks_of(target / ".f.mproxy-state") > 3, 60, "some blocks")
    lab.core.pull()
    lab.core.give(9)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0, str(receiver)
    assert (target / "f").read_bytes() == data
    assert len(receiver.events("sender")) == 1
    assert sender.events("dialled-anew") == []


def test_what_the_network_says_is_told_at_once(lab, tmp_path):
    """Nobody listens on the port, no route, packets too large: each is reported at once, and Ctrl-C ends it."""
    path = tmp_path / "f"
    path.write_bytes(b"data")

    def send(host):
        return lab.client.start(*MPROXY, "send", path, host, "9", env=SOURCE)

    def why(program, text):
        return until(lambda: any(text in event["why"] for event in program.events("not-reached")), 20, text)

    nobody = send(lab.server_address)
    why(nobody, "nothing is listening at")
    lab.client.ip("route del default")
    no_route = send("203.0.113.1")
    why(no_route, "there is no route to 203.0.113.1:9 (Network is unreachable)")
    lab.client.ip("link set wifi mtu 1000")
    narrow = send(lab.wifi.address(1))
    why(narrow, "at most 1000 bytes, but 1228 are needed (MTU)")
    for program in (nobody, no_route, narrow):
        began = time.monotonic()
        program.signal(signal.SIGINT)
        assert program.wait(20) == 130
        assert time.monotonic() - began < 3 + SLOWNESS_S
        assert "mproxy send: interrupted; send again to continue" in program.log.text


def test_an_interruption_in_mid_transfer_ends_at_once_and_the_next_one_goes_on(transfer):
    """This holds whether or not the receiver is told."""
    receiver, port, sender, data = under_way(transfer)
    receiver.signal(signal.SIGSTOP)
    began = time.monotonic()
    sender.signal(signal.SIGINT)
    assert sender.wait(20) == 130
    assert time.monotonic() - began < 3 + SLOWNESS_S
    assert "interrupted; send again to continue" in sender.log.text
    receiver.signal(signal.SIGCONT)
    again = transfer.send(port, "--json", transfer.source / "f")
    assert again.wait(MANY) == 0, str(again)
    assert json.loads(again.out.lines[-1][1])["kept"] >= 2 << 20
    assert (transfer.target / "f").read_bytes() == data


def test_an_interruption_while_the_name_is_looked_up(transfer, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text("""
import sys, time
import mproxy.programs.transfer as transfer
transfer.look_up_host = lambda host: time.sleep(60)
from mproxy.programs.send import main
sys.exit(main(sys.argv[1:]))
""")
    program = transfer.start_python(script, transfer.file("f", b"x"), "slow.example", "9")
    until(lambda: blocked_in_sleep(program), 20, "it looks the name up")
    program.signal(signal.SIGINT)
    assert program.wait(20) == 130


def blocked_in_sleep(program):
    """Whether the lookup is running: there is more than one thread."""
    return len(os.listdir(f"/proc/{program.pid}/task")) > 1


def test_an_answer_with_a_code_that_nobody_knows_ends_it(transfer):
    """A receiver of another version says goodbye with code 99."""
    script = transfer.directory / "odd.py"
    script.write_text("""
import sys
from mproxy.programs import recv
recv.EndCode = type("Odd", (), {"ABORTED": 99, "TIMED_OUT": 2})
recv.Recv.on_open = lambda self, receiver: receiver.give_up(99, "odd")
sys.exit(recv.main(sys.argv[1:]))
""")
    receiver = transfer.start_python(script, "--open", "0", "-o", f"{transfer.target}/")
    port = receiver.event("listening", within=30)["port"]
    sender = transfer.send(port, transfer.file("f", b"x"))
    assert sender.wait(MANY) == 1
    assert "odd" in sender.log.text


def test_progress_on_a_terminal_stands_below_the_log(lab, tmp_path):
    """Log lines are not broken by what is drawn; the last line says how it ended."""
    source = tmp_path / "tree"
    source.mkdir()
    for number in range(20):
        (source / f"f{number}").write_bytes(content(number, 200_000))
    target = lab.client.home / "out"
    target.mkdir()
    receiver = lab.client.start(*MPROXY, "recv", "--once", "--open", "7000", "-o", f"{target}/", env=SOURCE)
    receiver.event("listening", within=30)
    lab.client.ip("link set lo up")
    sender = lab.client.start_on_terminal(*MPROXY, "send", source, "127.0.0.1", "7000", env=SOURCE)
    sender.expect("finished", within=MANY)
    receiver.wait(MANY)
    lines = [line for _, line in sender.out.lines if " info sent " in line]
    assert len(lines) == 20
    for line in lines:
        assert re.search(r"(^|\s)\d{4}-\d\d-\d\dT\S+ info sent file=tree/f\d+ bytes=200000 hash=\w{64}$", line), line
    assert any(re.search(r"100%  4.00 MB of 4.00 MB", line) for _, line in sender.out.lines)


def test_nobody_there_ends_with_the_reason(transfer):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    sender = transfer.send(port, "--timeout", "2s", transfer.file("f", b"x"))
    assert sender.wait(MANY) == 6
    assert "does not answer: nothing is listening at 127.0.0.1" in sender.log.text
