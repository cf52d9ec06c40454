"""Places where sproxy listens for its clients (cproxy -R).

What comes in there becomes a stream that sproxy opens. The listening sockets outlive a worker: each client's record
names them (client_record.py), and the next worker takes them up again; so does the next build, which gets them with
its other heirlooms. Those of unix sockets do not, and are opened again when cproxy asks again, which it does on every
carrier.
"""

from __future__ import annotations

import os
import socket
import zlib
from functools import partial

from mproxy._inherit import kept_record
from mproxy._session import CarrierState
from mproxy._wire import MAX_PLACES
from mproxy.endpoint._asking import answer_place
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.forwarding import ANYWHERE, is_path, parse_spot
from mproxy.ground.words import printable
from mproxy.io import heirlooms
from mproxy.io._accept import AcceptGate
from mproxy.io.accept_observer import AcceptLog
from mproxy.io.bind import UnixListener
from mproxy.programs.client_record import DamagedRecord, decode_record
from mproxy.programs.common import listen_at
from mproxy.programs.served_place import EVERY_ADDRESS, HEIRLOOM, ServedPlace, inode_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mproxy.ground.shapes import Spot
    from mproxy.io._loop import Loop
    from mproxy.keeper.estate import Estate
    from mproxy.programs.access import Access
    from mproxy.programs.client_record import PlaceSocket
    from mproxy.programs.clients import Client, Clients
    from mproxy.service.log import Log

LOOPBACK = ("127.0.0.1", "::1")

NOT_ALLOWED = "sproxy does not allow listening there (see its --allow-listen, and listen= in authorized_keys)"
TOO_MANY = f"sproxy already listens at {MAX_PLACES} places for this key, which is the limit"


class ServedPlaces:
    """All places of all clients."""

    def __init__(self, log: Log, loop: Loop, access: Access, clients: Clients) -> None:
        self._log = log
        self._access = access
        self._clients = clients
        self._gate = AcceptGate(loop, AcceptLog(log))
        self._found: dict[int, int] = {}  # inode -> descriptor, of sockets from before that nobody has taken up yet

    # ---- what there was before

    def open(self) -> None:
        """Take what the build before had."""
        self._found = {inode_of(fd): fd for fd in heirlooms.take_all(HEIRLOOM)}

    def claim(self, fds: Iterable[int], estate: Estate) -> Iterator[socket.socket]:
        """Those of a dead worker's descriptors at which it listened for the sessions of the estate, which need be known
        only when the first is asked for."""
        left = set(fds)
        for each in (place for number in estate.sessions for place in _noted_places(number)):
            fd = each.fd if each.fd in left else self._found.get(each.inode, -1)
            if _listens(fd, each.inode):
                self._found[each.inode] = fd
                yield socket.socket(fileno=os.dup(fd))

    def claimed(self) -> set[int]:
        """The descriptors that `claim` has named."""
        return set(self._found.values())

    def recall(self, clients: Iterable[Client], accepted: Iterable[int]) -> None:
        """Go on with the places of these clients, and with connections that had just come in at some."""
        for client in clients:
            noted: dict[tuple[int, int], list[socket.socket]] = {}
            for each in client.kept_places:
                fd = self._found.pop(each.inode, None)
                if fd is not None and _listens(fd, each.inode):
                    noted.setdefault((each.number, each.mark), []).append(socket.socket(fileno=fd))
            client.kept_places = []
            for (number, mark), sockets in noted.items():
                place = ServedPlace(number, mark, None, sockets)
                client.places[number] = place
                place.start(self._gate, client.endpoint, partial(self.accept, client, place))
        while self._found:
            _inode, fd = self._found.popitem()
            if _listens(fd, _inode):
                os.close(fd)
        for fd in accepted:
            self._take_in(fd)

    def _take_in(self, fd: int) -> None:
        connection = socket.socket(fileno=fd)
        address = connection.getsockname()[:2]
        for client in self._clients:
            for place in client.places.values():
                if place.leads_here(address):
                    self.accept(client, place, connection.detach())
                    return
        connection.close()

    # ---- what clients ask for

    def settle(self, client: Client) -> None:
        """A client has asked, on this carrier, for all that it wants."""
        for place in [each for each in client.places.values() if each.epoch != client.endpoint.session.epoch]:
            self._end(client, place, "cproxy no longer asks for it")

    def listen(self, client: Client, number: int, text: str) -> None:
        """A client asks for a place."""
        mark = zlib.crc32(text.encode())
        former = client.places.get(number)
        if former is not None and former.mark != mark:
            self._end(client, former, "cproxy gave its number to another one")
            former = None
        try:
            spot = parse_spot(text)
            if not self._access.may_listen(spot, client.grant):
                raise MproxyError(NOT_ALLOWED)
            place = former or self._open(client, number, mark, spot)
        except MproxyError as error:
            if former is not None:
                self._end(client, former, "it is no longer allowed")
            why = f"not a place to listen at: {error}" if isinstance(error, UsageError) else str(error)
            self._log.warning("remote-refused", session=client.name, peer=client.peer, at=printable(text), why=why)
            answer_place(client.endpoint, number, False, why)
            return
        place.epoch, place.spot = client.endpoint.session.epoch, spot
        answer_place(client.endpoint, number, True, place.say())

    def _open(self, client: Client, number: int, mark: int, spot: Spot) -> ServedPlace:
        if sum(len(each.places) for each in self._clients.places.held(client.holder)) >= MAX_PLACES:
            raise MproxyError(TOO_MANY)
        host, port = spot
        if is_path(host):
            at = UnixListener(host)
            place = ServedPlace(number, mark, spot, [at.sock], at)
        else:
            hosts = EVERY_ADDRESS if host == ANYWHERE else (host,) if host else LOOPBACK
            place = ServedPlace(number, mark, spot, listen_at(hosts, port, named=len(hosts) == 1, outlive=False))
        client.places[number] = place
        client.note()  # before anything can come in
        place.start(self._gate, client.endpoint, partial(self.accept, client, place))
        self._log.info("remote-listening", session=client.name, peer=client.peer, at=place.say(), **client.say_key())
        return place

    def accept(self, client: Client, place: ServedPlace, fd: int) -> None:
        """Somebody has connected."""
        most = client.grant.max_streams if client.grant is not None else None
        if most is not None and self._clients.streams_of(client.holder) >= most:
            self._log.warning("refused", session=client.name, target=place.say(), why=(
                f"the key has reached its limit of {most} streams (max-streams= in authorized_keys)"))
            os.close(fd)  # with a reset, as all that come in at a listener
        else:
            client.endpoint.add_greeted(fd, place.target, 0, 0)

    def judge(self, client: Client) -> None:
        """The client's rights have changed."""
        for place in list(client.places.values()):
            if place.spot is not None and not self._access.may_listen(place.spot, client.grant):
                self._end(client, place, "it is no longer allowed")
                if client.endpoint.session.state == CarrierState.ACTIVE:
                    answer_place(client.endpoint, place.number, False, NOT_ALLOWED)

    def forget(self, client: Client) -> None:
        """Its session is over."""
        for place in client.places.values():
            place.close()
        client.places.clear()

    def _end(self, client: Client, place: ServedPlace, why: str) -> None:
        self._log.info("remote-closed", session=client.name, peer=client.peer, at=place.say(), why=why)
        place.close()
        del client.places[place.number]
        client.note()


def _listens(fd: int, inode: int) -> bool:
    """Whether that descriptor is the listening socket that it was."""
    try:
        if fd < 0 or inode_of(fd) != inode:
            return False
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        sock.detach()


def _noted_places(number: int) -> list[PlaceSocket]:
    try:
        return decode_record(kept_record(number)).places
    except DamagedRecord:
        return []
