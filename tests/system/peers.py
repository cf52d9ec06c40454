"""Daemons behind sproxy, as programs for `Host.start`.

    peers.py echo PORT [all]            sends back what comes; ends a direction when it ended
    peers.py count PORT INTERVAL        sends 0, 1, 2, ... a line each, one every INTERVAL seconds, like ping
    peers.py pour PORT BYTES            sends BYTES bytes of the pattern, then closes; 0: never ends
    peers.py glut PORT BYTES            sends so much, and never reads
    peers.py inetd PORT COMMAND...      runs COMMAND for every connection, on the connection

All listen on 127.0.0.1, with `all` on every address, and print `ready` when they do.
"""

import asyncio
import contextlib
import resource
import select
import socket
import subprocess
import sys

from traffic import pattern

PORTION = 1 << 18


async def echo(reader, writer):
    while data := await reader.read(PORTION):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    await writer.drain()


def count(interval):
    async def serve(reader, writer):
        number = 0
        while True:
            writer.write(b"%d\n" % number)
            await writer.drain()
            number += 1
            await asyncio.sleep(interval)
    return serve


def pour(total):
    async def serve(reader, writer):
        sent = 0
        while not total or sent < total:
            portion = min(PORTION, total - sent) if total else PORTION
            writer.write(pattern(sent, portion))
            await writer.drain()
            sent += portion
    return serve


def closing(serve):
    """Ends the connection after `serve`; a peer that went away ends it too."""
    async def handler(reader, writer):
        with contextlib.suppress(OSError):
            await serve(reader, writer)
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()
    return handler


async def listen(port, serve, address):
    server = await asyncio.start_server(closing(serve), address, port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


def glut(port, count):
    """A daemon that causes no work: its connections fill up in both directions and wait until the other side ends."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
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
    if kind == "glut":
        glut(int(port), int(rest[0]))
    serve = {"echo": lambda: echo, "count": lambda: count(float(rest[0])), "pour": lambda: pour(int(rest[0]))}[kind]()
    asyncio.run(listen(int(port), serve, None if rest[-1:] == ("all",) else "127.0.0.1"))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
