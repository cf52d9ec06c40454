"""sproxy's part in datagrams (cproxy --udp): where a client's may go. What is permitted are the same targets as for
streams (access.py)."""

from __future__ import annotations

from functools import partial

from mproxy._session import CarrierState
from mproxy.endpoint._asking import answer_target
from mproxy.endpoint._served_flows import ServedFlows
from mproxy.ground.forwarding import is_path, say_target
from mproxy.ground.words import printable
from mproxy.io._socket import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Address, Spot
    from mproxy.io._loop import Loop
    from mproxy.programs.access import Access
    from mproxy.programs.clients import Client, Clients
    from mproxy.programs.daemons import Daemons
    from mproxy.service.log import Log


class DatagramTargets:
    """Those of all clients."""

    def __init__(self, config: SproxyConfig, log: Log, loop: Loop, access: Access, clients: Clients,
                 daemons: Daemons) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._access = access
        self._clients = clients
        self._daemons = daemons

    def serve(self, client: Client) -> None:
        """A client has a session: it may ask from now on."""
        flows = ServedFlows(self._loop, client.endpoint, self._config.udp_idle_us)
        flows.told = partial(self._asked, client)
        flows.may_open = partial(self._may_open, client)
        client.endpoint.flows = flows

    def judge(self, client: Client) -> None:
        """The client's rights have changed."""
        for number, (_epoch, words) in list(client.datagrams.items()):
            if self._target(client, words) is None:
                self._refuse(client, number, words, self._access.why_not(client.grant))

    def _may_open(self, client: Client) -> bool:
        """Whether the client's key may have one more flow."""
        most = client.grant.max_flows if client.grant is not None else None
        return most is None or self._clients.flows_of(client.holder) < most

    def _target(self, client: Client, words: str) -> Spot | None:
        found = self._access.target(words.encode(), client.grant) if words else None
        return None if found is None or is_path(found[0]) else found

    def _asked(self, client: Client, endpoint: Endpoint, number: int, was_last: bool, words: str) -> None:
        """ASSOCIATE: datagrams with that number are to go to a target, or, with `was_last`, those whose numbers were
        not named on this carrier nowhere."""
        epoch = endpoint.session.epoch
        if was_last:
            for left in [each for each, (asked, _words) in client.datagrams.items() if asked != epoch]:
                self._forget(client, left)
            return
        former = client.datagrams.get(number)
        client.datagrams[number] = epoch, words
        target = self._target(client, words)
        if target is None:
            self._refuse(client, number, words, self._access.why_not(client.grant))
            return
        if former is None or former[1] != words:
            self._flows(client).expect(number)
        self._daemons.resolve(target, partial(self._resolved, client, number, words, target))

    def _resolved(self, client: Client, number: int, words: str, target: Spot, addresses: list[Address],
                  error: str | None) -> None:
        if self._clients.find(client.session_id) is not client or client.datagrams.get(number, (0, ""))[1] != words:
            return
        text = say_target(*target)
        if error is not None:
            self._refuse(client, number, words, error)
            return
        self._flows(client).associate(number, Target(text, addresses))
        self._answer(client, number, True, text)

    def _refuse(self, client: Client, number: int, words: str, why: str) -> None:
        self._log.warning("datagrams-refused", session=client.name, peer=client.peer, target=printable(words), why=why)
        self._forget(client, number)
        self._answer(client, number, False, why)

    def _forget(self, client: Client, number: int) -> None:
        client.datagrams.pop(number, None)
        self._flows(client).associate(number, None)

    def _answer(self, client: Client, number: int, goes: bool, text: str) -> None:
        if client.endpoint.session.state == CarrierState.ACTIVE:
            answer_target(client.endpoint, number, goes, text)

    @staticmethod
    def _flows(client: Client) -> ServedFlows:
        flows = client.endpoint.flows
        assert isinstance(flows, ServedFlows)
        return flows
