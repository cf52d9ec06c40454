"""`mproxy web` on a host of the lab, and a browser's part of it in plain HTTP."""

import http.client
import json
import os
import socket
import threading
from urllib.parse import urlsplit

from lab import until
from relays import MPROXY

from mproxy.service.control import short_path

# Sums of a program that has just started.
ENDED = {"sessions": 0, "streams_ever": 0, "sent_bytes": 0, "received_bytes": 0, "resent_bytes": 0,
         "outages": {"count": 0, "total_s": 0}}


class WebClient:
    """Starts the page's server on `host`, and asks it."""

    def __init__(self, host, *options, env=None):
        self.host = host
        self.program = host.start(MPROXY, "web", *(options or ("--listen", "127.0.0.1:0")), env=env)
        self.url = self.program.expect(r"^http://\S+$")[0]
        parts = urlsplit(self.url)
        self.port = parts.port
        self.target = f"/?{parts.query}"
        self.name = f"127.0.0.1:{self.port}"
        self.headers = {}
        self.place = None

    def request(self, method, target, body=None, **headers):
        """An answer, with its headers read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        connection.sock = self.host.connect(self.port)
        connection.request(method, target, body, {"Host": self.name} | self.headers | headers)
        return connection.getresponse()

    def enter(self):
        """Visits the printed address, as a browser does."""
        answer = self.request("GET", self.target)
        assert answer.status == 303, answer.read()
        self.place = answer.headers["Location"]
        self.headers = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
        return self

    def get(self, name="", **headers):
        return self.request("GET", self.place + name, **headers)

    def kill(self, key, reason=None, stream=None, **headers):
        """(status, answer)."""
        request = {"key": key, "reason": reason} | ({} if stream is None else {"stream": stream})
        answer = self.request("POST", f"{self.place}kill", json.dumps(request),
                              **{"Origin": f"http://{self.name}"} | headers)
        body = answer.read()
        return answer.status, json.loads(body) if answer.headers["Content-Type"] == "application/json" else body

    def events(self):
        return Events(self.get("events"))


class Events:
    """The stream of changes, put together as the page does."""

    def __init__(self, answer):
        assert answer.status == 200, answer.read()
        self.answer = answer
        self.tables = {"programs": {}, "sessions": {}, "transfers": {}}

    def take(self):
        """The next change."""
        line = self.answer.readline()
        while line and not line.startswith(b"data: "):
            line = self.answer.readline()
        assert line, "the stream has ended"
        news = json.loads(line[6:])
        for name, rows in self.tables.items():
            if news["whole"]:
                rows.clear()
            for key in news[f"gone_{name}"]:
                del rows[key]
            for key, fields in news[name].items():
                rows.setdefault(key, {}).update(fields)
        return news

    def until(self, condition, within=30, what="it is shown"):
        """Takes changes until `condition(tables)`; its value."""
        def look():
            self.take()
            return condition(self.tables)
        return until(look, within, what)

    def session(self, condition=lambda row: row["session"]):
        """(key, row) of the one session for which the condition holds."""
        def find(tables):
            return [(key, row) for key, row in tables["sessions"].items() if condition(row)]
        return self.until(find)[0]


def fake_session(number, **fields):
    """What a program says of a session."""
    return {
        "session": f"{number:08x}", "state": "connected", "since_s": 50.0 + number, "why": "", "last_heard_s": 0.3,
        "round_trip_ms": 10.0 + number % 90, "streams": number % 7, "streams_ever": 9, "sent_bytes": number * 1000,
        "received_bytes": number, "resent_bytes": 0, "unacknowledged_bytes": 0, "undelivered_bytes": 0,
        "peer": f"10.0.{number >> 8}.{number & 255}", "key": None, "comment": f"user{number}", "age_s": 100.0 + number,
        "heartbeat_s": 1, "next_try_s": None, "carrier": None, "memory_bytes": 4096,
        "outages": outages()} | fields


def outages(*recent):
    """(began before, lasted, why) of each, the newest first, as a program reports them."""
    return {"count": len(recent), "longest_s": max((lasted for _, lasted, _ in recent), default=0),
            "total_s": sum(lasted for _, lasted, _ in recent),
            "recent": [{"began_s": began, "lasted_s": lasted, "why": why} for began, lasted, why in recent]}


def fake_stream(number, **fields):
    """What a program says of a stream."""
    return {
        "stream": number, "state": "open", "target": f"10.0.0.9:{number}", "age_s": 5.0 + number,
        "application": {"local": ["127.0.0.1", 5200], "peer": ["127.0.0.1", 40_000], "pid": number, "process": "ssh"},
        "sent_bytes": number * 1000, "received_bytes": number, "unacknowledged_bytes": number, "undelivered_bytes": 0,
        "slow": None} | fields


class FakeProgram:
    """Answers `status` as an sproxy of any size would; `kills` are the requests to kill."""

    def __init__(self, host, sessions):
        self.sessions = sessions
        self.streams = []  # of every session
        self.kills = []
        self.growth = {}  # number of a session: bytes that it has sent more at each answer, a second later
        self.uptime_s = 100.0
        directory = host.home / "runtime" / "mproxy"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        with short_path(str(directory / f"sproxy-{os.getpid()}.sock")) as short:
            self._socket.bind(short)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as file:
                request = json.loads(file.readline())
                self.uptime_s += 1
                file.write(json.dumps(self._answer(request)).encode())

    def _answer(self, request):
        if request["command"] == "kill":
            self.kills.append(request)
            return {"ok": True, "lines": [], "done": "ended"}
        for number, count in self.growth.items():
            self.sessions[number]["sent_bytes"] += count
        sessions = self.sessions
        if "session" in request:
            sessions = [session | {"stream_list": self.streams[:request["streams"]]} for session in sessions
                        if session["session"] == request["session"]]
        return {"program": "sproxy", "name": "crowd", "version": "1", "pid": os.getpid(), "uid": 0, "state": "running",
                "uptime_s": self.uptime_s, "listening": ["0.0.0.0:6200"], "ended": ENDED, "endings": [],
                "sessions": sessions}

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=10)
