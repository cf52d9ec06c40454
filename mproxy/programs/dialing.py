"""How a cproxy reaches sproxy: by its address, over TCP or over datagrams, by the command of --via, or by whichever of
address and command works."""

from __future__ import annotations

from mproxy.ground.config import format_host_port
from mproxy.policy.dialer import Dialer
from mproxy.policy.resolver import Resolver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.policy.datagram_dialer import DatagramDialer
    from mproxy.policy.dialer import DialObserver
    from mproxy.policy.host_dialer import HostDialer
    from mproxy.policy.paths import Paths
    from mproxy.policy.race_dialer import RaceDialer
    from mproxy.policy.via_dialer import ViaDialer
    from mproxy.programs.introduction import Introduction
    from mproxy.service.log import Log
    AnyDialer = Dialer | DatagramDialer | RaceDialer | ViaDialer | HostDialer


# Carriers that cannot go over UDP, whatever --carrier says: what is not encrypted, and what has to choose its way.
TCP_ALONE = ("plaintext", "proxy", "stay")


def make_dialer(config: CproxyConfig, log: Log, loop: Loop, observer: DialObserver,
                introduction: Introduction) -> AnyDialer:
    """What finds carriers for a cproxy with these settings; `introduction` hears which key sproxy has, where that is
    learned on the way."""
    if config.via is None:
        return _straight(config, loop, observer, introduction)
    if config.direct is not None:
        from mproxy.policy.host_dialer import HostDialer

        def make_direct(port: int, watching: DialObserver) -> Dialer | DatagramDialer | RaceDialer:
            straight = config.replace(sproxy_host=config.direct, sproxy_port=port, via=None, direct=None)
            return _straight(straight, loop, watching, introduction)
        return HostDialer(loop, config, observer, log, make_direct, introduction.trust)
    from mproxy.policy.via_dialer import ViaDialer
    return ViaDialer(loop, config, observer, log)


def _straight(config: CproxyConfig, loop: Loop, observer: DialObserver,
              introduction: Introduction) -> Dialer | DatagramDialer | RaceDialer:
    """By sproxy's address."""
    resolver = Resolver(loop.call_soon_threadsafe)

    def make_tcp(watching: DialObserver) -> Dialer:
        return Dialer(loop, resolver, config, watching)

    def make_datagram(watching: DialObserver, heard: Callable[[], object] = lambda: None,
                      paths: Paths | None = None) -> DatagramDialer:
        from mproxy.policy.datagram_dialer import DatagramDialer
        return DatagramDialer(loop, resolver, config, watching, introduction.make_keying, lambda: introduction.tag,
                              heard, paths)
    if config.carrier == "tcp" or any(getattr(config, name) for name in TCP_ALONE):
        return make_tcp(observer)
    if config.carrier == "datagram":
        return make_datagram(observer)
    from mproxy.policy.race_dialer import RaceDialer
    from mproxy.policy.udp_record import UdpRecord
    record = UdpRecord(config.state_dir, format_host_port(config.sproxy_host, config.sproxy_port))
    return RaceDialer(loop, observer, record, config.stdio, make_tcp, make_datagram)
