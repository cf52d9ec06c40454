"""How a cproxy reaches sproxy: by its address, or by the command of --via."""

from __future__ import annotations

from mproxy.policy.dialer import Dialer
from mproxy.policy.resolver import Resolver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.policy.dialer import DialObserver
    from mproxy.policy.via_dialer import ViaDialer
    from mproxy.service.log import Log


def make_dialer(config: CproxyConfig, log: Log, loop: Loop, observer: DialObserver) -> Dialer | ViaDialer:
    """What finds carriers for a cproxy with these settings."""
    if config.via is None:
        return Dialer(loop, Resolver(loop.call_soon_threadsafe), config, observer)
    from mproxy.policy.via_dialer import ViaDialer
    return ViaDialer(loop, config, observer, log)
