"""How a cproxy reaches sproxy: by its address, over TCP or over datagrams, by the command of --via, or by whichever of
address and command works."""

from __future__ import annotations

from mproxy.policy.dialer import Dialer
from mproxy.policy.resolver import Resolver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.policy.datagram_dialer import DatagramDialer
    from mproxy.policy.dialer import DialObserver
    from mproxy.policy.host_dialer import HostDialer
    from mproxy.policy.race_dialer import RaceDialer
    from mproxy.policy.via_dialer import ViaDialer
    from mproxy.programs.introduction import Introduction
    from mproxy.service.log import Log
    AnyDialer = Dialer | DatagramDialer | RaceDialer | ViaDialer | HostDialer


def make_dialer(config: CproxyConfig, log: Log, loop: Loop, observer: DialObserver,
                introduction: Introduction) -> AnyDialer:
    """What finds carriers for a cproxy with these settings; `introduction` hears which key sproxy has, where that is
    learned on the way."""
    if config.via is None:
        return _straight(config, loop, observer, introduction)
    if config.direct is not None:
        from mproxy.policy.host_dialer import HostDialer

        def make_direct(port: int, watching: DialObserver) -> Dialer:
            straight = config.replace(sproxy_host=config.direct, sproxy_port=port, via=None, direct=None)
            return Dialer(loop, Resolver(loop.call_soon_threadsafe), straight, watching)
        return HostDialer(loop, config, observer, log, make_direct, introduction.trust)
    from mproxy.policy.via_dialer import ViaDialer
    return ViaDialer(loop, config, observer, log)


def _straight(config: CproxyConfig, loop: Loop, observer: DialObserver,
              introduction: Introduction) -> Dialer | DatagramDialer | RaceDialer:
    """By sproxy's address. What goes with TCP alone leaves no choice."""
    resolver = Resolver(loop.call_soon_threadsafe)
    if config.carrier == "tcp" or config.plaintext or config.proxy is not None or config.stay:
        return Dialer(loop, resolver, config, observer)
    from mproxy.policy.datagram_dialer import DatagramDialer
    if config.carrier == "datagram":
        return DatagramDialer(loop, resolver, config, observer, introduction.make_keying)
    from mproxy.policy.race_dialer import RaceDialer
    return RaceDialer(
        loop, observer, lambda watching: Dialer(loop, resolver, config, watching),
        lambda watching, heard: DatagramDialer(loop, resolver, config, watching, introduction.make_keying, heard))
