"""Every setting of `mproxy send` and `mproxy recv` that is not a connection's (`transport/datagram_config`)."""

from __future__ import annotations

import os

from mproxy.ground.config import DAY_US, SECOND_US, LogConfig, Setting
from mproxy.transport.datagram_config import DatagramConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mproxy.transfer.selection import Rule
    from mproxy.transport.code_keying import Code
    from mproxy.transport.keying import Key


class TransferConfig(LogConfig):
    """What both programs know besides the DatagramConfig."""

    datagram = Setting(DatagramConfig())
    key: Setting[Key | None] = Setting(None)
    code: Setting[Code | None] = Setting(None)  # in place of a key
    secret: Setting[bytes | None] = Setting(None)  # for one transfer, in place of a key
    certificate: Setting[str | None] = Setting(None)  # its file; None: beside the key, if it is there
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
    revoked_keys: Setting[str | None] = Setting(None)
    open = Setting(False)
    # User whose rights the process takes once the port is open and the keys are read; None: it keeps its own.
    user: Setting[str | None] = Setting(None)
    sweep = Setting(True)  # remove abandoned partial files
    partial_ttl_us = Setting(7 * DAY_US, SECOND_US, 3650 * DAY_US)
    senders = Setting(16, 1, 1000)


# What a ring of `mproxy copy` may grow to. A lost packet holds up what came after it for a round trip, and at 5 % loss
# some are lost three times: four times what the path holds are needed, for 1 Gbit/s at 1 s half a gigabyte.
MOST_COPY_WINDOW_BYTES = 512 << 20
MEMORY_SHARE = 16  # of this host's memory, for each of two rings


def copy_datagram(given: Mapping[str, Any]) -> DatagramConfig:
    """The connection of `mproxy copy`, with these settings. It is the only one of its process, with a peer that ssh
    vouches for, so its windows may be larger than those of many; they grow where the path needs it."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = max(DatagramConfig.max_window_bytes.default, min(MOST_COPY_WINDOW_BYTES, memory_bytes // MEMORY_SHARE))
    return DatagramConfig(**{"sealed": True, "max_window_bytes": most, **given})
