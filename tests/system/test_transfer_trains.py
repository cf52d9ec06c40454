"""If the kernel does not cut trains (UDP_SEGMENT), packets are sent one by one, and everything arrives."""

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import threading

import pytest
from test_transfer import MANY, Transfer, content
from trains import REFUSALS, Refusal

UDP_SEGMENT = 103  # linux/udp.h
SO_NO_CHECK = 11  # asm-generic/socket.h; a socket without checksums gets EINVAL for a train
SYS_PIDFD_GETFD = 438

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


def udp_sockets_of(pid):
    """Duplicates of the UDP sockets of a running program: options set here are set there."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(name), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            sock = socket.socket(fileno=fd)
            if sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6):
                yield sock
            else:
                sock.close()
    finally:
        os.close(pidfd)


def refuse_trains(sock):
    sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)


def send_train():
    """The error that the kernel gives for a train on a socket that refuses them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        refuse_trains(sock)
        sock.connect(("127.0.0.1", 9))
        sock.sendmsg([bytes(3000)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1000))])


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
def test_a_system_that_cuts_no_trains(transfer, tmp_path, sealed):
    """Goal: the same bytes, and hardly a loss. Method: in the middle of a transfer over packets of 1,500 bytes both
    ends' sockets begin to refuse trains."""
    with pytest.raises(OSError, match="Invalid argument"):
        send_train()
    (tmp_path / "key").write_bytes(bytes(range(200, 232)))
    (tmp_path / "key").chmod(0o600)
    key = ("--key", tmp_path / "key") if sealed else ()
    data = content(5, 20 << 20)
    receiver, port = transfer.recv(*key)
    _impair, port = transfer.impair(port, "--mtu", "1500")
    sender = transfer.send(port, *key, "--json", "-", stdin=subprocess.PIPE)
    receiver.event("sender", within=MANY)
    sender.process.stdin.write(data[:10 << 20])
    sockets = [sock for program in (sender, receiver) for sock in udp_sockets_of(program.pid)]
    assert len(sockets) >= 2
    for sock in sockets:
        refuse_trains(sock)
        sock.close()
    threading.Thread(target=write_rest, args=(sender.process.stdin, data[10 << 20:]), daemon=True).start()
    arrives(transfer, sender, receiver, data)


def write_rest(pipe, data):
    """Body of a thread, since a program that has stopped reads no more."""
    pipe.write(data)
    pipe.close()


def arrives(transfer, sender, receiver, data):
    """The transfer succeeds, and less than one packet in a hundred was lost, on a path that loses none by itself."""
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0, str(receiver)
    (arrived,) = transfer.target.iterdir()
    assert arrived.read_bytes() == data
    assert json.loads(sender.out.lines[-1][1])["lost"] < len(data) / 1500 / 100, str(sender)


@pytest.mark.parametrize("error", REFUSALS, ids=lambda number: errno.errorcode[number])
def test_whatever_the_system_says_to_a_train(transfer, tmp_path, error):
    """Goal: the same from the first packet on, for each of the errors; trains are tried again only now and then."""
    refusal = Refusal(tmp_path, error)
    data = content(6, 8 << 20)
    receiver, port = transfer.recv(env=os.environ | refusal.environment)
    _impair, port = transfer.impair(port, "--mtu", "1500")
    sender = transfer.send(port, "--json", transfer.file("f", data), env=os.environ | refusal.environment)
    arrives(transfer, sender, receiver, data)
    assert 0 < refusal.refused < 20
