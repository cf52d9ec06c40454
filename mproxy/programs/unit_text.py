"""The systemd unit of an entry, with no more rights than its program needs.

A unit of the system has a user of its own, and sees of the file system what it must. The service manager of a user can
take away only what the kernel lets an ordinary process take away from itself: privileges, system calls, families of
addresses. The units in contrib/ are sandboxed alike; a test compares them.
"""

from __future__ import annotations

import itertools

from mproxy.ground.config import CproxyConfig, ProgramConfig, format_duration
from mproxy.ground.errors import UsageError
from mproxy.relay.relay_config import RelayConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mproxy.programs.entries import Entry

# Without rights over the file system and the machine.
SYSTEM_SANDBOX = """\
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes"""

# What a user's own service manager can do, too.
SANDBOX = """\
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077"""

LOW_PORTS = "CAP_NET_BIND_SERVICE"

# What ProtectHome=yes hides.
HOMES = ("/home", "/root", "/run/user")

# Options by which files are written elsewhere than in the state directory.
WRITTEN = ("output", "log-file", "pidfile", "state-dir")

# For cproxy and sproxy with --survive, as in the units in contrib/.
SURVIVAL = [
    "# `systemctl restart` ends no connection: the manager keeps them for the next start. A stop ends them.",
    "RestartKillSignal=SIGUSR1", "NotifyAccess=main", "FileDescriptorStoreMax=4096",
    "# The same number, which systemd tells by itself since version 254.", "Environment=FDSTORE=4096"]

# What a stop may take beyond the time in which connections can end.
STOP_MARGIN_US = 10_000_000


def in_home(path: str) -> bool:
    """Whether a service of the system does not see the file."""
    return path.startswith(tuple(f"{home}/" for home in HOMES))


def unit_name(entry: Entry) -> str:
    """`mproxy-office.service`."""
    return f"mproxy-{entry.name}.service"


def unit_text(entry: Entry, mproxy: list[str], is_system: bool) -> str:
    """The unit; `mproxy` are the words by which the command is called."""
    config = entry.parse()
    words = entry.words()
    user = getattr(config, "user", None) if is_system else None
    if user is not None:
        words = _without(words, "--user")  # systemd makes it that user
    elif is_system and entry.program == "recv":
        raise UsageError(f"{entry.path}:{entry.line}: a service of the system that writes files needs an owner for"
                         " them; expected user = NAME")
    if _survives(config):
        words = ["--survive", *(word for word in words if word != "--survive")]
    sections = [
        [f"# Written by 'mproxy service install {'--system ' if is_system else ''}{entry.name}', from {entry.path}.",
         "[Unit]",
         f"Description=mproxy {entry.program} {entry.name}",
         f"Documentation=man:{_page(entry.program)}(1)",
         *(["Wants=network-online.target", "After=network-online.target"] if is_system else [])],
        ["[Service]", *_type(config), f"ExecStart={_quoted([*mproxy, entry.program, *words])}",
         *_reload(config, mproxy),
         "Restart=on-failure", "RestartSec=1",
         f"TimeoutStopSec={format_duration(_stop_us(config))}",
         *(["# A connection takes two descriptors at most.", "LimitNOFILE=1048576"] if is_system else [])],
    ]
    if is_system:
        sections.append(_rights(entry, config, user))
        is_in_home = any(map(in_home, words))
        sections.append([SYSTEM_SANDBOX.replace("Home=yes", "Home=read-only") if is_in_home else SYSTEM_SANDBOX])
    sections.append([SANDBOX])
    sections.append(["[Install]", f"WantedBy={'multi-user.target' if is_system else 'default.target'}"])
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _page(program: str) -> str:
    return program if program in ("cproxy", "sproxy") else f"mproxy-{program}"


def _type(config: Any) -> list[str]:
    """How the service manager knows that it serves."""
    if not isinstance(config, RelayConfig):
        return []
    return ["Type=notify", "NotifyAccess=main", "WatchdogSec=30",
            "# Its supervisor alone gets the signal, and tells its workers.", "KillMode=mixed",
            "# The manager holds the listening sockets during a restart, so it refuses nobody.",
            "FileDescriptorStoreMax=10000"]


def _reload(config: Any, mproxy: list[str]) -> list[str]:
    """What `systemctl reload` does; recv has nothing to read again."""
    if isinstance(config, ProgramConfig):
        return ["# The version that is installed now takes over, and reads all files again; no connection ends.",
                f"ExecReload={_quoted([*mproxy, 'upgrade'])} $MAINPID",
                "# Where memory is short the worker is killed, and the next one takes its connections.",
                "OOMPolicy=continue", *(SURVIVAL if _survives(config) else [])]
    if isinstance(config, RelayConfig) and config.file is not None:
        return ["ExecReload=kill -HUP $MAINPID"]
    return []


def _survives(config: Any) -> bool:
    """Whether its connections outlive `systemctl restart`."""
    return isinstance(config, ProgramConfig) and config.keeper and not config.plain


def _stop_us(config: Any) -> int:
    drain_us: int = getattr(config, "drain_us", getattr(config, "drain_timeout_us", 0))
    return drain_us + STOP_MARGIN_US


def _rights(entry: Entry, config: Any, user: str | None) -> list[str]:
    """Who it is, where it keeps its keys and its control socket, and which ports it may open."""
    if user is None:
        lines = ["# All services of mproxy have one user, and so one state directory for their keys.", "User=mproxy",
                 "DynamicUser=yes", "StateDirectory=mproxy"]
    else:
        lines = [f"User={user}", f"StateDirectory=mproxy-{user}"]
    lines += ["StateDirectoryMode=0700", f"RuntimeDirectory=mproxy-{entry.name}", "RuntimeDirectoryMode=0700"]
    if any(port < 1024 for port in _ports(config)):
        lines += [f"AmbientCapabilities={LOW_PORTS}", f"CapabilityBoundingSet={LOW_PORTS}"]
    else:
        lines.append("CapabilityBoundingSet=")
    return lines + [f"ReadWritePaths={_quoted([path])}" for path in _written(entry)]


def _ports(config: Any) -> Iterable[int]:
    """TCP and UDP ports at which it listens; of rules in a file nobody knows what they will be: 0."""
    if isinstance(config, RelayConfig):
        return [rule.listen_port for rule in config.rules] or [1]
    if isinstance(config, CproxyConfig):
        spots = [listening for listening, _ in (*config.forward, *config.udp)] + list(config.dynamic)
        return [port for port in (config.port, *(port for path, port in spots if not path.startswith("/"))) if port]
    return [port for port in [config.port] if port]


def _written(entry: Entry) -> list[str]:
    words = entry.words()
    found = []
    for option in WRITTEN:
        for flag, path in itertools.pairwise(words):
            if flag == f"--{option}":
                found.append(path if path.endswith("/") or option == "state-dir" else path.rpartition("/")[0] or "/")
    return list(dict.fromkeys(found))


def _without(words: list[str], option: str) -> list[str]:
    at = words.index(option)
    return words[:at] + words[at + 2:]


def _quoted(words: Iterable[str]) -> str:
    """Words as ExecStart= takes them (systemd.service(5))."""
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    if escaped and not any(character in escaped for character in " \t\"';"):
        return escaped
    return '"' + escaped.replace('"', '\\"') + '"'
