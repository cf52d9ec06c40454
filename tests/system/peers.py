"""Daemons behind sproxy, as programs for `Host.start`.

    peers.py echo PORT [all]            sends back what comes; ends a direction when it ended
    peers.py count PORT INTERVAL        sends 0, 1, 2, ... a line each, one every INTERVAL seconds, like ping
    peers.py glut PORT BYTES            sends so much, and never reads
    peers.py inetd PORT COMMAND...      runs COMMAND for every connection, on the connection

All listen on 127.0.0.1, with `all` on every address, and print `ready` when they do. Most tests start one, so this
imports little.
"""

import contextlib
import itertools
import resource
import select
import socket
import sys
import threading
import time

PORTION = 1 << 18
BACKLOG = 4096


def listeners(port, everywhere):
    """Listening sockets on 127.0.0.1, or on every address; connections that they accept send at once (TCP_NODELAY)."""
    places = [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)] if everywhere else [("127.0.0.1", socket.AF_INET)]
    for address, family in places:
        listener = socket.create_server((address, port), family=family, backlog=BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def echo(port, everywhere):
    """Sends everything back, and ends a connection when its client has ended its direction."""
    accepting = {listener.fileno(): listener for listener in listeners(port, everywhere)}
    waiter = select.epoll()
    for fd in accepting:
        waiter.register(fd, select.EPOLLIN)
    connections, pending = {}, {}
    print("ready", flush=True)
    while True:
        for fd, _ in waiter.poll():
            if fd in accepting:
                connection, _ = accepting[fd].accept()
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                waiter.register(connection, select.EPOLLIN)
                continue
            try:
                rest = send_back(connections[fd], pending.pop(fd, b""))
            except OSError:
                rest = None
            if rest is None:
                connections.pop(fd).close()
                continue
            if rest:
                pending[fd] = rest
            waiter.modify(fd, select.EPOLLOUT if rest else select.EPOLLIN)


def send_back(connection, data):
    """Sends `data`, or what has come; returns what did not fit, or None at the end."""
    try:
        data = data or memoryview(connection.recv(PORTION))
        return data[connection.send(data):] if data else None
    except BlockingIOError:
        return data


def count(port, interval):
    """Sends numbers to each connection, as long as it is there."""
    listener, = listeners(port, everywhere=False)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=count_up, args=(connection, interval), daemon=True).start()


def count_up(connection, interval):
    with connection, contextlib.suppress(OSError):
        for number in itertools.count():
            connection.sendall(b"%d\n" % number)
            time.sleep(interval)


def glut(port, count):
    """A daemon that causes no work: its connections fill up in both directions and wait until the other side ends."""
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    # A daemon's memory would be another host's; here one kernel's TCP memory is for all (tcp_mem in tcp(7)).
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listener.setsockopt(socket.SOL_SOCKET, option, 32768)
    waiter = select.epoll()
    waiter.register(listener, select.EPOLLIN)
    connections = {}
    print("ready", flush=True)
    while True:
        for fd, _ in waiter.poll():
            if fd != listener.fileno():
                connections.pop(fd).close()
                continue
            connection, _ = listener.accept()
            connections[connection.fileno()] = connection
            waiter.register(connection, select.EPOLLRDHUP)
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.send(bytes(count))


def inetd(port, command):
    """The oldest way to run a daemon: the connection is its stdin, stdout and, as inetd has it, no stderr."""
    import subprocess
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    print("ready", flush=True)
    children = []
    while True:
        connection, _ = listener.accept()
        with connection:
            children.append(subprocess.Popen(command, stdin=connection, stdout=connection))
        children = [child for child in children if child.poll() is None]


def main(kind, port, *rest):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind == "inetd":
        inetd(int(port), rest)
    elif kind == "glut":
        glut(int(port), int(rest[0]))
    elif kind == "echo":
        echo(int(port), everywhere=rest == ("all",))
    else:
        count(int(port), float(rest[0]))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
