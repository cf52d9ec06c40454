"""How a cproxy reaches sproxy: by its address, by the command of --via, or by whichever of both works."""

from __future__ import annotations

from mproxy.policy.dialer import Dialer
from mproxy.policy.resolver import Resolver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.policy.dialer import DialObserver
    from mproxy.policy.host_dialer import HostDialer
    from mproxy.policy.via_dialer import ViaDialer
    from mproxy.service.log import Log


def make_dialer(config: CproxyConfig, log: Log, loop: Loop, observer: DialObserver,
                trust: Callable[[str], object]) -> Dialer | ViaDialer | HostDialer:
    """What finds carriers for a cproxy with these settings; `trust(fingerprint)` says which key sproxy has, where that
    is learned on the way."""
    if config.via is None:
        return Dialer(loop, Resolver(loop.call_soon_threadsafe), config, observer)
    if config.direct is not None:
        from mproxy.policy.host_dialer import HostDialer

        def make_direct(port: int, watching: DialObserver) -> Dialer:
            straight = config.replace(sproxy_host=config.direct, sproxy_port=port, via=None, direct=None)
            return Dialer(loop, Resolver(loop.call_soon_threadsafe), straight, watching)
        return HostDialer(loop, config, observer, log, make_direct, trust)
    from mproxy.policy.via_dialer import ViaDialer
    return ViaDialer(loop, config, observer, log)
