"""Every setting of `mproxy send` and `mproxy recv` that is not a connection's (`transport/datagram_config`)."""

from __future__ import annotations

from mproxy.ground.config import DAY_US, SECOND_US, LogConfig, Setting
from mproxy.transport.datagram_config import DatagramConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.selection import Rule
    from mproxy.transport.code_keying import Code
    from mproxy.transport.keying import Key


class TransferConfig(LogConfig):
    """What both programs know besides the DatagramConfig."""

    datagram = Setting(DatagramConfig())
    key: Setting[Key | None] = Setting(None)
    code: Setting[Code | None] = Setting(None)  # in place of a key
    secret: Setting[bytes | None] = Setting(None)  # for one transfer, in place of a key
    peers: Setting[tuple[str, ...]] = Setting(())
    bind: Setting[str | None] = Setting(None)
    json = Setting(False)
    quiet = Setting(False)
    xattrs = Setting(False)
    # What `mproxy status` calls this program; None: made from its port, or from where it sends.
    name: Setting[str | None] = Setting(None)
    # send
    paths: Setting[tuple[str, ...]] = Setting(())
    host = Setting("")
    port: Setting[int] = Setting(None, 0, 65535)  # type: ignore[arg-type]  # no default: always given
    ack_port: Setting[int | None] = Setting(None, 0, 65535)
    known_hosts: Setting[str | None] = Setting(None)
    links = Setting("omit")  # one of walk.LINKS
    rules: Setting[tuple[Rule, ...]] = Setting(())  # of --include and --exclude, in their order
    dry_run = Setting(False)
    update = Setting(False)
    delta = Setting(False)  # send of a changed file only what has changed
    compress = Setting(False)
    delete = Setting(False)  # recv: let senders delete
    yes = Setting(False)
    limit = Setting(0)  # bits a second; 0: no limit
    renamed: Setting[str | None] = Setting(None)  # what the receiver calls the only one of `paths`
    # recv
    output: Setting[str | None] = Setting(None)
    force = Setting(False)
    perms = Setting(False)
    once = Setting(False)
    ack_to: Setting[tuple[str, int] | None] = Setting(None)
    authorized_keys: Setting[str | None] = Setting(None)
    open = Setting(False)
    # User whose rights the process takes once the port is open and the keys are read; None: it keeps its own.
    user: Setting[str | None] = Setting(None)
    sweep = Setting(True)  # remove abandoned partial files
    partial_ttl_us = Setting(7 * DAY_US, SECOND_US, 3650 * DAY_US)
    senders = Setting(16, 1, 1000)
