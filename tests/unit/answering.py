"""Programs that answer on control sockets, in threads of the test; and answers of each program, as sound ones are."""

import contextlib
import copy
import json
import os
import socket
import threading

from mproxy.service import survey

HERE = os.getpid()

OUTAGES = {"count": 2, "longest_s": 3.0, "total_s": 4.5,
           "recent": [{"began_s": 9.5, "lasted_s": 3.0, "why": "silence"}]}
STREAM = {
    "stream": 1, "state": "open", "target": None, "age_s": 5.5, "sent_bytes": 10, "received_bytes": 20,
    "unacknowledged_bytes": 1, "undelivered_bytes": 2, "slow": "path",
    "application": {"local": ["127.0.0.1", 5200], "peer": ["127.0.0.1", 40_000], "pid": 4720, "process": "ssh"}}
SESSION = {
    "session": "4f2a91c0", "state": "connected", "since_s": 60.0, "why": "", "last_heard_s": 0.5, "round_trip_ms": 20.5,
    "streams": 2, "streams_ever": 5, "sent_bytes": 1000, "received_bytes": 3000, "resent_bytes": 10,
    "unacknowledged_bytes": 7, "undelivered_bytes": 8, "memory_bytes": 9000, "peer": "192.0.2.1:6200", "key": None,
    "comment": "anna", "age_s": 70.0, "heartbeat_s": 1, "next_try_s": None, "outages": OUTAGES,
    "carrier": {"kind": "tcp+tls", "local": ["10.0.0.2", 6200], "peer": ["192.0.2.1", 40_001]}, "stream_list": [STREAM]}
COUNTERS = {"connections": 4, "total": 9, "refused": 1, "bytes_in": 5, "bytes_out": 6}
PROGRAM = {"version": "0.1.0", "pid": HERE, "uid": 0, "state": "running", "uptime_s": 100.5}
SOUND = {
    "sproxy": {
        "program": "sproxy", "name": "office", **PROGRAM, "listening": ["[::]:6200"], "daemon": "127.0.0.1:23",
        "open": {"to": "anyone whose packets arrive here", "close": "touch /keys"}, "deaths": 2,
        "sessions": [SESSION],
        "endings": [{"session": "00112233", "peer": "192.0.2.9", "why": "ended by mproxy kill", "ended_s": 4.5}],
        "ended": {"sessions": 3, "streams_ever": 4, "sent_bytes": 100, "received_bytes": 200, "resent_bytes": 1,
                  "outages": {"count": 1, "total_s": 0.5}}},
    "recv": {
        "program": "recv", "name": "inbox", **PROGRAM, "listening": ["[::]:7000"],
        "ended": {"transfers": 1, "moved_bytes": 5, "kept_bytes": 6},
        "transfers": [{"peer": "192.0.2.1:5000", "age_s": 3.5, "moved_bytes": 10, "kept_bytes": 0, "total_bytes": 30,
                       "bytes_per_second": 3, "left_s": 7.5}]},
    "relay": {
        "program": "relay", "name": "relay:rules", **PROGRAM, "mode": "user", "rules_from": "/etc/rules", "reloads": 2,
        "last_reload_errors": ["rules:3: not a rule"], "unresolved": {"nowhere": "unknown host"},
        "circles": {"tcp 80 -> here:80": ["10.0.0.2"]}, "totals": {"tcp": COUNTERS, "udp": {"sessions": 7, "total": 8}},
        "rules": [{"line": 1, "protocol": "tcp", "address": "", "port": 80, "targets": ["192.0.2.1:80"],
                   "down": {"192.0.2.1:80": "refused"}, "counters": COUNTERS}],
        "workers": [{"worker": 0, "pid": HERE, "state": "running", "deaths": 1, "uptime_s": 5, "connections": 4,
                     "sessions": 7, "counters": COUNTERS}]}}


def sound(program, **fields):
    """The answer of a program that means well."""
    return copy.deepcopy(SOUND["sproxy" if program == "cproxy" else program]) | {"program": program} | fields


class AnsweringPrograms:
    """Control sockets in a directory; `add` has one answered by a function, in a thread."""

    def __init__(self, directory, stack, monkeypatch):
        self._directory = directory
        self._stack = stack
        self.running = []
        self.requests = []
        self._made = 0
        monkeypatch.setattr(survey, "find_running", lambda: self.running)

    def listen(self, name, pid=HERE):
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        self._made += 1
        path = self._directory / f"{name}-{self._made}.sock"
        listener.bind(str(path))
        self.running.append((name, pid, str(path)))
        return listener

    def add(self, name, answer, pid=HERE):
        """Each connection is handed to `answer`; returns the socket's path."""
        listener = self.listen(name, pid)
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        answer(connection)
        threading.Thread(target=serve, daemon=True).start()
        return self.running[-1][2]

    def say(self, name, facts, pid=HERE, **other):
        """A program with these facts; `other`: what it answers to other commands. Text is sent as it is."""
        def answer(connection):
            request = json.loads(connection.recv(4096))
            self.requests.append(request)
            said = other.get(request["command"], facts)
            connection.sendall(said.encode() if isinstance(said, str) else json.dumps(said).encode())
        return self.add(name, answer, pid)

    def end(self, path):
        """That one runs no more."""
        self.running = [each for each in self.running if each[2] != path]
