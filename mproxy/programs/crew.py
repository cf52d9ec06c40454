"""The crew: what the workers of one sproxy have to do with each other (`sproxy --workers`).

All accept at the same port. Whoever has accepted looks at the preamble: its tag leads to the worker that has the
session, and without one the connection goes to the worker that has the least to do. It goes with what was read, before
anything else was said. Where the tag was no help, HELLO says whose session it is, or that this cproxy has had one in
another worker; then it goes with the keys of its TLS, too (docs/decisions/several-workers.md).

What must hold for all together, such as --max-sessions, is decided under the roster's lock, by what it shows.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import time
from contextlib import suppress

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.keeper.inboxes import Inboxes
from mproxy.keeper.main_process import main_pid
from mproxy.policy._roster import Roster
from mproxy.policy.places import Places
from mproxy.policy.sources import source_of
from mproxy.policy.tags import worker_in
from mproxy.programs.client_board import ClientBoard, Remote, holder_mark, instance_mark
from mproxy.programs.clients import MADE_ROOM, Clients
from mproxy.programs.guest import Elsewhere
from mproxy.service.control import Desk, open_control
from mproxy.service.merging import Merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.handshake import Hello
    from mproxy.io._loop import Loop
    from mproxy.policy.grants import Grant
    from mproxy.programs.access import Access
    from mproxy.programs.clients import Client
    from mproxy.programs.greeting import Reception
    from mproxy.programs.guest import Guest, SocketGuest
    from mproxy.service.control import Command, Server
    from mproxy.service.log import Log

    # Ends a session of ours: (client, code, why).
    End = Callable[[Client, int, str], object]

# How often a worker shows what changes without anybody being told: how many streams its sessions have.
SHOW_US = 250_000

# A guest is handed over so many times: what leads it may change meanwhile, and the last one serves or refuses it.
MOST_HOPS = 4

# Rows beyond a worker's part of all sessions: an old one ends only when a new one has begun.
MORE_ROWS = 64


# Where the address is in a struct sockaddr_in6.
IN6_ADDR = slice(8, 24)


class Crew:
    """Of one sproxy; made by the main process. `most`: sessions that all workers may have together."""

    def __init__(self, workers: int, most: int) -> None:
        self.most = most
        self._part = -(-most // workers)  # of one worker
        self.roster = Roster(workers, self._part + MORE_ROWS)
        self._inboxes = Inboxes(workers)
        self.number = 0
        self._desk: Desk | None = None  # where worker 0 asks this one
        self.clients = Clients(self._part, ClientBoard(self.roster))

    def join(self, number: int) -> None:
        """This process is of that worker."""
        self.number = number

    def start(self, loop: Loop, log: Logger, access: Access, reception: Reception, listeners: list[socket.socket],
              end: End) -> None:
        """In a worker: begin; its sessions of before are shown as they are added."""
        self._listeners = listeners
        self._loop, self._log = loop, log
        self._access = access
        self._reception = reception
        self._end = end
        self.roster.begin(self.number, settled=False)
        self._inboxes.open(loop, self.number, self._hear)
        self._show()
        loop.call_later(0, self.roster.settled)  # by then all that the worker before had has been added

    def stop_accepting(self) -> None:
        """Close the port: the other processes have it, too."""
        for listener in self._listeners:
            with suppress(OSError):  # another worker was quicker
                listener.shutdown(socket.SHUT_RDWR)

    def _show(self) -> None:
        self.roster.refresh()
        self._loop.call_later(SHOW_US, self._show)

    # ---- whose guest it is

    def count(self, guests: int) -> None:
        """We have so many now."""
        self.roster.show_guests(guests)

    def place(self, guest: SocketGuest, tag: int) -> None:
        """Raise Elsewhere if a guest that shows this tag is for another worker."""
        worker = self._by_tag(tag)
        if worker is None:
            worker = self._least_busy()
        if worker != self.number:
            raise Elsewhere(worker)

    def _by_tag(self, tag: int) -> int | None:
        """Where the session with that tag is; None: nobody knows. It may be elsewhere than the tag says: a run before
        had another number of workers."""
        named = self._access.tags.worker(tag, time.time()) if tag else None
        if named is None:
            return None
        worker = self.roster.find_tag(tag, named % self.roster.workers)
        if worker is not None:
            return worker
        return named if named < self.roster.workers else None

    def choose_by_packet(self, tag: int, address: bytes) -> int:
        """The worker for who dials over datagrams with that tag from that address (a PeerAddress's bytes). The address
        may be false, so this must be cheap: no MAC is computed, and a tag counts only if a session has it."""
        worker = self.roster.find_tag(tag, worker_in(tag) % self.roster.workers) if tag else None
        if worker is None:
            source = source_of(socket.inet_ntop(socket.AF_INET6, address[IN6_ADDR]))
            worker = self.roster.expected(number_of(source), self._loop.now())
        if worker is not None:
            return worker
        loads = list(map(self.roster.load, range(self.roster.workers)))
        return random.choice([number for number, load in enumerate(loads) if load == min(loads)])

    def guess_by_tag(self, tag: int) -> int:
        """The same in a storm: looking for the tag of each would take too long. A false one leads to some worker."""
        return worker_in(tag) % self.roster.workers

    def expect(self, address: str, worker: int) -> None:
        """Whoever dials from there next, over datagrams and without a tag, is for that worker."""
        self.roster.expect(number_of(source_of(address)), worker, self._loop.now())

    def _least_busy(self) -> int:
        """This worker, unless another one has less to do even with this guest."""
        best = min(range(self.roster.workers), key=self.roster.load)
        return best if self.roster.load(best) < self.roster.load(self.number) - 1 else self.number

    def find(self, guest: Guest, session_id: bytes) -> None:
        """Raise Elsewhere if another worker has the session."""
        worker = self.roster.find_session(session_id)
        if worker is None:
            with self.roster:  # a worker may just be going on with sessions
                worker = self.roster.find_session(session_id)
        if worker is not None and guest.hops < MOST_HOPS:
            raise Elsewhere(worker)

    def choose(self, guest: Guest, hello: Hello, grant: Grant | None, holder: bytes | str) -> None:
        """Raise Elsewhere if a new session is to begin in another worker: the one with the former session of the same
        cproxy, which it replaces; with others of a key whose streams or flows are counted; or that has room. Under the
        lock."""
        if guest.hops >= MOST_HOPS:
            return
        worker = self.roster.find_instance(instance_mark(guest.spki, hello.instance_id))
        if worker is None and self.clients.of_instance(guest.spki, hello.instance_id) is None:
            if grant is not None and grant.counts_in_one_process and not self.clients.places.held(holder):
                worker = self.roster.find_holder(holder_mark(holder))
            if self.roster.sessions(self.number if worker is None else worker) >= self._part:
                worker = min(range(self.roster.workers), key=self.roster.sessions)
                if self.roster.sessions(worker) >= self._part:
                    return  # one of all has to make room, and then it is here or there
        if worker is not None and worker != self.number:
            raise Elsewhere(worker)

    def hand_over(self, guest: SocketGuest, where: Elsewhere) -> None:
        """Give a guest, and all that it has said, to that worker."""
        about: dict[str, Any] = {"guest": guest.sockaddr, "local": guest.local_peer, "hops": guest.hops + 1,
                                 "balanced": guest.is_balanced}
        words: bytes | bytearray = guest.words
        if where.hello is not None:
            try:
                head, secret = guest.greeter.hand_over(where.hello, os.urandom(16))
            except PeerError as error:
                self._reception.refuse(guest, error)
                return
            about |= {"spki": guest.spki.hex(), "certificate": guest.certificate.hex(), "secret": len(secret)}
            words = secret + head
            secret[:] = bytes(len(secret))
        guest.release()
        with guest.sock:
            if not self._inboxes.send(where.worker, about, words, [guest.sock.fileno()]):
                self._log.warning("refused", peer=guest.peer, why="the worker that has its session is busy")
        if isinstance(words, bytearray):
            words[:] = bytes(len(words))
        self.roster.send_guest(where.worker)

    def _hear(self, message: dict[str, Any], data: bytearray, fds: list[int]) -> None:
        if "guest" in message and fds:
            self._receive(socket.socket(fileno=fds[0]), message, data)
        elif "asked" in message and fds:
            sock = socket.socket(fileno=fds[0])
            if self._desk is not None:
                self._desk.adopt(sock)
            else:
                sock.close()
        elif "end" in message:
            client = self.clients.find(bytes.fromhex(message["end"]))
            if client is not None:
                self._end(client, CloseCode.REPLACED, message["why"])

    def _receive(self, sock: socket.socket, message: dict[str, Any], data: bytearray) -> None:
        """Go on with another worker's guest, as slow work: what it said comes before what it says next."""
        sock.setblocking(False)
        guest = self._reception.receive_from(sock, tuple(message["guest"]), message["local"], message["hops"],
                                             message["balanced"])
        if "spki" not in message:
            self._loop.call_slow(lambda: guest.say_again(bytes(data)))
            return
        secret, words = data[:message["secret"]], bytes(data[message["secret"]:])

        def go_on() -> None:
            guest.go_on(words, secret, bytes.fromhex(message["spki"]), bytes.fromhex(message["certificate"]))
            secret[:] = bytes(len(secret))
        self._loop.call_slow(go_on)
        data[:] = bytes(len(data))

    # ---- places

    def make_room(self, guest: Guest, holder: bytes | str, quota: int | None, now: int) -> Client | None:
        """The session of ours that gives way to a new one, if one has to. Elsewhere: it is another worker's, and the
        new one begins there. PeerError: none has to. Under the lock."""
        mark = holder_mark(holder)
        own, _streams = self.roster.count(mark)
        if self.roster.total() < self.most and (quota is None or own < quota):
            return None
        places: Places[Client | Remote] = Places(self.most)
        everybody: list[Client | Remote] = [*self.clients, *map(Remote, self.roster.others())]
        for each in sorted(everybody, key=lambda session: session.began_at):
            places.add(each, each.mark)
        leaving = places.make_room(mark, quota, now)
        if not isinstance(leaving, Remote):
            return leaving
        if guest.hops < MOST_HOPS:
            raise Elsewhere(leaving.worker)
        self._dismiss(leaving, MADE_ROOM)
        return None

    def end_others(self, why: str) -> None:
        """End all sessions of the other workers. Under the lock."""
        for row in self.roster.others():
            self._dismiss(Remote(row), why)

    def _dismiss(self, session: Remote, why: str) -> None:
        """End a session of another worker, which counts no more from now on."""
        self.roster.dismiss(session.worker, session.row)
        self._inboxes.send(session.worker, {"end": session.session_id.hex(), "why": why})

    @property
    def in_use(self) -> bool:
        """Whether any worker has a session."""
        return self.roster.total() > 0

    def end_program(self) -> None:
        """Have all workers stop."""
        os.kill(main_pid(), signal.SIGTERM)

    # ---- from outside

    def open_desk(self, loop: Loop, log: Log, name: str, commands: Mapping[str, Command]) -> Desk | Server | None:
        """Where this worker is asked: worker 0 by everybody, the others by that one."""
        if self.number:
            self._desk = Desk(loop, commands)
            return self._desk
        merged = Merged(loop, log, commands, range(1, self.roster.workers), lambda worker, sock: self._inboxes.send(
            worker, {"asked": True}, fds=[sock.fileno()]))
        return open_control(loop, log, name, merged.commands())


def number_of(source: str) -> int:
    """64 bits for a source, never 0."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) or 1
