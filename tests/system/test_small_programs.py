"""The message programs, by themselves and through the proxies."""

import struct
import subprocess

from lab import outage
from proxies import CPROXY_PORT, DAEMON_PORT, PYTHON
from traffic import read_to_end

MPROXY = [PYTHON, "-m", "mproxy.programs.main"]


def message_server(lab, *options, port=DAEMON_PORT):
    server = lab.server.start(*MPROXY, "message-server", *options, port)
    server.expect("listening", output=server.log)
    return server


def message_client(host, address, port):
    return host.start(*MPROXY, "message-client", address, port, stdin=subprocess.PIPE)


def type_line(client, text):
    client.process.stdin.write(text.encode() + b"\n")
    client.process.stdin.flush()


def test_messages_survive_a_change_of_address(pair, lab):
    """Goal: lines typed before, during and after an outage are printed once, in order, with their lengths."""
    server = message_server(lab)
    pair.start()
    client = message_client(lab.client, "127.0.0.1", CPROXY_PORT)
    type_line(client, "before")
    server.expect("^6\nbefore$")
    lab.wifi.pull()
    type_line(client, "meanwhile")
    outage(1)
    lab.wifi.give(9)
    server.expect("^9\nmeanwhile$")
    type_line(client, "x" * 1024)
    type_line(client, "")
    client.process.stdin.close()
    assert client.wait() == 0
    server.expect("^1024\nx{1024}\n0\n\n")
    assert server.out.text == f"6\nbefore\n9\nmeanwhile\n1024\n{'x' * 1024}\n0\n\n"


def test_message_server_and_bad_clients(lab):
    """Goal: partial reads work; a length above the limit or a cut message is an error for that client alone."""
    server = message_server(lab, "--bind", "0.0.0.0")
    good = lab.client.connect(DAEMON_PORT, lab.server_address)
    for byte in struct.pack(">I", 5) + b"hello":
        good.sendall(bytes([byte]))
    server.expect("^5\nhello$")
    large = lab.client.connect(DAEMON_PORT, lab.server_address)
    large.sendall(struct.pack(">I", 1025) + b"x")
    server.expect("1025.*1024", output=server.log)
    try:
        assert read_to_end(large) == b""
    except ConnectionResetError:
        pass
    cut = lab.client.connect(DAEMON_PORT, lab.server_address)
    cut.sendall(struct.pack(">I", 10) + b"only")
    cut.close()
    server.expect("cut", output=server.log)
    good.sendall(struct.pack(">I", 3) + b"yes")
    server.expect("^3\nyes$")
    assert server.out.text == "5\nhello\n3\nyes\n"
