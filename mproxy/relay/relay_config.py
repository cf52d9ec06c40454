"""Every setting of `mproxy relay`: unit, default, allowed range, and why. Those of a single rule: rules.RuleOptions."""

from __future__ import annotations

from mproxy.ground.config import HOUR_US, SECOND_US, LogConfig, Setting, format_host_port
from mproxy.ground.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.relay.rules import Rule

MOST_WORKERS = 64


class RelayConfig(LogConfig):
    """One relay, with `rules` from the command line or those of the file `file`."""

    rules: Setting[tuple[Rule, ...]] = Setting(())
    file: Setting[str | None] = Setting(None)

    # Processes that relay. One moves as much as one CPU can; more of them also hold more connections, since the limit
    # of open files is per process. More than there are CPUs serve only the second purpose.
    workers = Setting(1, 1, MOST_WORKERS)

    # Connections outlive the worker that has them: a keeper beside each has the next one take them over.
    keeper = Setting(True)

    # TCP connections, and UDP flows, of all rules together; 0: what the descriptors allow.
    max_connections = Setting(0, 0, 10_000_000)

    # The rules become an nftables table; no process of ours touches a packet.
    kernel = Setting(False)

    # Run in the background; keep the process's number in this file.
    daemon = Setting(False)
    pidfile: Setting[str | None] = Setting(None)

    # The user whose rights the workers have: they read what strangers send. None: the supervisor's, which keeps its own
    # to bind the ports of later reloads.
    user: Setting[str | None] = Setting(None)

    # Listen on addresses that this host does not have yet: at boot the relay may be earlier than the network.
    wait_addresses = Setting(False)

    # Microseconds that existing connections have after SIGTERM. 10 s let web requests end and stay well below the 90 s
    # after which systemd kills; longer suits connections that are worth waiting for.
    drain_timeout_us = Setting(10 * SECOND_US, 0, 24 * HOUR_US)

    # What `mproxy status` calls this relay; None: made from its file, or its rule.
    name: Setting[str | None] = Setting(None)

    # Every process appends its lines here; it is reopened at each reload, so that it can be rotated.
    log_file: Setting[str | None] = Setting(None)

    # A line for each connection that has ended goes here.
    access_log: Setting[str | None] = Setting(None)

    @property
    def origin(self) -> str:
        """Where the rules come from, for messages."""
        return self.file or "command line"

    @property
    def shown_name(self) -> str:
        """`name` or its default: `relay:/etc/mproxy/relay.conf`, `relay:7005->10.0.0.2:8005`."""
        if self.name or self.file:
            return self.name or f"relay:{self.file}"
        (rule, *_) = self.rules
        return f"relay:{rule.listen_text}->{format_host_port(*rule.targets[0])}"

    def _check(self) -> None:
        if self.kernel and self.user:
            raise UsageError("--user and --kernel cannot be used together: kernel mode has no workers")
        if self.kernel and self.access_log:
            raise UsageError("--access-log and --kernel cannot be used together: the kernel does not say what ended")
        super()._check()
