"""A small HTTP (CONNECT) and SOCKS 5 proxy: `proxy_server.py PORT [USER:PASSWORD]`, both kinds on one port.

It says `ready`, and a line for each connection that it makes: `KIND HOST:PORT`.
"""

import base64
import socket
import sys
import threading

LOGIN = sys.argv[2] if len(sys.argv) > 2 else None


def read(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def answer_http(connection):
    head = b"C"
    while not head.endswith(b"\r\n\r\n"):
        head += read(connection, 1)
    host, _, port = head.split()[1].decode().rpartition(":")
    if LOGIN and b"Basic " + base64.b64encode(LOGIN.encode()) not in head:
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        raise ConnectionError
    return host.strip("[]"), int(port), b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n"


def answer_socks(connection):
    methods = read(connection, read(connection, 1)[0])
    connection.sendall(b"\5\2" if LOGIN and 2 in methods else b"\5\xff" if LOGIN else b"\5\0")
    if LOGIN:
        read(connection, 1)
        words = [read(connection, read(connection, 1)[0]).decode() for _ in range(2)]
        connection.sendall(b"\1" + bytes([":".join(words) != LOGIN]))
    kind = read(connection, 4)[3]
    host = (read(connection, read(connection, 1)[0]).decode() if kind == 3 else
            socket.inet_ntop(socket.AF_INET, read(connection, 4)) if kind == 1 else
            socket.inet_ntop(socket.AF_INET6, read(connection, 16)))
    port = int.from_bytes(read(connection, 2))
    return host, port, b"\5\0\0\1" + bytes(6), b"\5\5\0\1" + bytes(6)


def serve(connection):
    try:
        first = read(connection, 1)
        kind = "http" if first == b"C" else "socks5h"
        host, port, good, bad = (answer_http if first == b"C" else answer_socks)(connection)
        try:
            target = socket.create_connection((host, port), timeout=5)
        except OSError:
            connection.sendall(bad)
            raise
        target.settimeout(None)
        print(kind, f"{host}:{port}", flush=True)
        connection.sendall(good)
        threading.Thread(target=copy, args=(target, connection), daemon=True).start()
        copy(connection, target)
    except OSError:
        connection.close()


def copy(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, sink):
            each.close()


with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
