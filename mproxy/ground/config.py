"""Every setting of cproxy and sproxy: unit, default, allowed range, and why.

Ground layer: imports nothing but `errors`. The defaults are here and nowhere else; the parsers of
command lines take them from the `Setting` objects, which are attributes of a configuration class, while those of an
instance are values:

    SessionConfig.heartbeat_us.default    1_000_000
    SessionConfig().heartbeat_us          1_000_000

Durations are whole microseconds (`_us`), sizes whole bytes (`_bytes`).
"""

from __future__ import annotations

import os

from mproxy.ground.errors import UsageError

TYPE_CHECKING = False  # of `typing`, whose import takes time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Network, IPv6Network
    from typing import Any, Generic, Self, TypeVar, overload

    from mproxy.ground.shapes import Forward, ProxyWords, Sockaddr, Spot
    Value = TypeVar("Value")
else:
    Generic, Value = {None: object}, None

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# Largest first, as `format_*` take the first one that divides; `parse_*` of `ground.words` read the same spellings.
DURATION_UNITS = (
    ("d", DAY_US), ("h", HOUR_US), ("m", MINUTE_US), ("s", SECOND_US), ("ms", MILLISECOND_US), ("us", 1))
SIZE_UNITS = (("GiB", GIB), ("MiB", MIB), ("KiB", KIB))

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


def format_duration(duration_us: int) -> str:
    """Microseconds in the largest unit that divides them, so that nothing is rounded: `90s`, `7d`."""
    for unit, unit_us in DURATION_UNITS:
        if duration_us and duration_us % unit_us == 0:
            return f"{duration_us // unit_us}{unit}"
    return "0s"


def format_size(size_bytes: int) -> str:
    """Bytes in the largest unit that divides them, so that nothing is rounded: `4MiB`, `65000`."""
    for unit, unit_bytes in SIZE_UNITS:
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return str(size_bytes)


def format_host_port(host: str, port: int | str) -> str:
    """`host:port`, an IPv6 address in brackets (RFC 3986 section 3.2.2): `[::1]:6200`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def say_place(host: str, port: int | None) -> str:
    """`host:port`, or only the host where there is no port: it is the name of a command (`CproxyConfig.via`)."""
    return format_host_port(host, port) if port else host


def say_address(sockaddr: Sockaddr) -> str:
    """A socket address as the log shows it: `10.0.0.1:6200`, `[::1]:6200`; one of IPv4 never in the form of IPv6."""
    return format_host_port(sockaddr[0].removeprefix("::ffff:"), sockaddr[1])


class Setting(Generic[Value]):
    """One setting: its default, its allowed range, and the option that sets it.

    `option` is made from the attribute's name without its unit (`window_bytes` is `--window`). `lowest` and `highest`
    are both inclusive; None leaves that end open.
    """

    __slots__ = ("default", "lowest", "highest", "option", "format")

    option: str
    format: Callable[[Any], str]

    def __init__(self, default: Value, lowest: int | None = None, highest: int | None = None) -> None:
        self.default = default
        self.lowest = lowest
        self.highest = highest

    def __set_name__(self, owner: type[Config], name: str) -> None:
        stem, _, unit = name.rpartition("_")
        self.format = {"us": format_duration, "bytes": format_size}.get(unit, str)
        self.option = "--" + (stem if unit in ("us", "bytes") else name).replace("_", "-")

    if TYPE_CHECKING:
        @overload
        def __get__(self, config: None, owner: type[Config]) -> Self: ...
        @overload
        def __get__(self, config: Config, owner: type[Config]) -> Value: ...

    def __get__(self, config: Config | None, owner: type[Config]) -> object:
        """The setting itself, on the class; an instance finds its value first, in its own dictionary."""
        return self

    def check(self, value: Any) -> None:
        """Raise UsageError with option, value and allowed range if `value` is outside."""
        too_low = self.lowest is not None and value is not None and value < self.lowest
        too_high = self.highest is not None and value is not None and value > self.highest
        if too_low or too_high:
            allowed = f"{self.format(self.lowest)} to {self.format(self.highest)}"
            raise UsageError(f"{self.option} {self.format(value)}: out of range ({allowed})")


class Config:
    """Base of the configuration classes: frozen values, one for every `Setting` of the class and its bases.

    Not a dataclass: importing `dataclasses` takes more time than all of this program's own Python.
    """

    def __init__(self, **values: Any) -> None:
        for name, setting in self.settings().items():
            value = values.pop(name, setting.default)
            setting.check(value)
            self.__dict__[name] = value
        if values:
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(sorted(values))}")
        self._check()

    @classmethod
    def settings(cls) -> dict[str, Setting[Any]]:
        """{attribute name: Setting}, those of the base classes first."""
        return {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()
                if isinstance(value, Setting)}

    def replace(self, **values: Any) -> Self:
        """A copy with some values changed, checked again."""
        return type(self)(**{**self.__dict__, **values})

    def _check(self) -> None:
        """Check rules between settings."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a configuration is frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({values})"


class SessionConfig(Config):
    """What one end of a session abides by. The peer's limits arrive with HELLO and WELCOME."""

    # Microseconds from one heartbeat to the next. 1 s finds a dead carrier in 3 s for one small
    # frame a second; 100 ms finds it in 0.3 s. Below 10 ms a busy host's scheduling alone would look like a
    # dead peer.
    heartbeat_us = Setting(SECOND_US, 10 * MILLISECOND_US, HOUR_US)

    # Microseconds from one heartbeat to the next at rest (no byte of an application for ten heartbeats, none that waits
    # for its ack), as cproxy asks for; 0: as always. Below 30 s, after which many a NAT forgets a UDP mapping.
    idle_heartbeat_us = Setting(0, 0, HOUR_US)

    # Heartbeat intervals without a byte after which the carrier is given up. Nearly one interval of silence
    # is normal, so 1 would kill living carriers; one lost packet costs a retransmission timeout of 200 ms and
    # more, so 2 suits only long intervals.
    misses = Setting(3, 2, 1000)

    # Bytes of one stream, in one direction, that may be written but not yet acknowledged. Memory: up to this
    # much in the sender's ring and as much in the receiver's while its application does not read; nothing
    # while idle. 4 MiB lets one stream fill 300 Mbit/s on a path of 100 ms.
    window_bytes = Setting(4 * MIB, 4 * KIB, GIB)

    # Bytes that all streams of a session together may hold in one direction: a session takes at most twice this
    # much memory. 64 MiB is sixteen full windows; a stream gets at most half of what is still free.
    session_budget_bytes = Setting(64 * MIB, 4 * KIB, 1024 * GIB)

    # Microseconds that a session without a carrier is kept before its streams are reset. A week covers a
    # laptop that is closed over the holidays; it costs the daemon's idle connection and what the rings hold.
    session_ttl_us = Setting(7 * DAY_US, SECOND_US, 3650 * DAY_US)

    # Streams open at once in one session. Each takes one file descriptor and, when idle, at most 2 KiB of user
    # memory: 20,000 of them 40 MiB. The process's limit of open files must be higher than this.
    max_streams = Setting(20_000, 1, 1_000_000)

    def _check(self) -> None:
        if 0 < self.idle_heartbeat_us < self.heartbeat_us:
            raise UsageError(f"--idle-heartbeat {format_duration(self.idle_heartbeat_us)}: must not be less than"
                             f" --heartbeat, which is {format_duration(self.heartbeat_us)}")
        if self.session_budget_bytes < self.window_bytes:
            raise UsageError(
                f"--session-budget {format_size(self.session_budget_bytes)}: out of range"
                f" ({format_size(self.window_bytes)}, which is one --window, to {format_size(1024 * GIB)})")


class LogConfig(Config):
    """What every program that keeps a log has in common."""

    # Lowest level that is logged; one of LOG_LEVELS.
    log_level = Setting("info")

    # One of LOG_FORMATS: `text` for people and grep, `json` for collectors.
    log_format = Setting("text")

    def _check(self) -> None:
        if self.log_level not in LOG_LEVELS:
            raise UsageError(f"--log-level {self.log_level}: must be one of {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise UsageError(f"--log-format {self.log_format}: must be one of {', '.join(LOG_FORMATS)}")


class ProgramConfig(LogConfig):
    """What cproxy and sproxy have in common."""

    session = Setting(SessionConfig())

    # TCP port to listen on; 0 takes any free one, which the log line `listening` tells. None: no listener
    # (--stdio, or only forwards).
    port: Setting[int | None] = Setting(None, 0, 65535)

    # Numeric addresses to listen on; empty: the program's default, see `bind_addresses`.
    bind: Setting[tuple[str, ...]] = Setting(())

    # A bare TCP relay: no session, no protocol between the proxies, nothing survives the connection.
    plain = Setting(False)

    # No encryption between the proxies; both sides must have it. For a trusted network.
    plaintext = Setting(False)

    # Microseconds for delivering what is queued after SIGTERM or SIGINT. 5 s is enough for a full window on a slow
    # path, and well below the 90 s after which systemd kills.
    drain_us = Setting(5 * SECOND_US, 0, HOUR_US)

    # Microseconds for one dial: to resolve the name, try every address and connect. 10 s outlasts two lost SYNs
    # (1 s + 2 s) and a name server that has to be tried twice.
    connect_timeout_us = Setting(10 * SECOND_US, 100 * MILLISECOND_US, 10 * MINUTE_US)

    # Microseconds after which a flow of datagrams in which nothing moves is forgotten, as NAT does (RFC 4787, REQ-5).
    udp_idle_us = Setting(2 * MINUTE_US, SECOND_US, DAY_US)

    # Directory for keys and for cproxy's instance ids, one small file per listening port. None keeps nothing: then the
    # peer sees another key after each start, and a restarted cproxy cannot end its former sessions.
    state_dir: Setting[str | None] = Setting(None)

    # A keeper has a worker do the work, and the next one when that dies, so that no connection ends with it. With
    # --stdio and --plain there is none.
    keeper = Setting(True)

    # At SIGUSR1 connections are left with the service manager, for the next start.
    survive = Setting(False)

    # What `mproxy status` calls this program; None: made from its ports and addresses.
    name: Setting[str | None] = Setting(None)

    # File that the log is appended to; None: standard error.
    log_file: Setting[str | None] = Setting(None)

    DEFAULT_BIND: tuple[str, ...] = ()

    def in_state_dir(self, name: str) -> str | None:
        """The path of a file in `state_dir`; None if nothing is kept."""
        return os.path.join(self.state_dir, name) if self.state_dir else None

    @property
    def bind_addresses(self) -> tuple[str, ...]:
        """Addresses to listen on: `bind`, or the program's default.

        If `bind` is empty, a host without IPv6 (or IPv4) does not keep the program from starting: one listener is
        enough. An address that the user named must work.
        """
        return self.bind or self.DEFAULT_BIND


class CproxyConfig(ProgramConfig):
    """Settings of cproxy, the proxy beside the application."""

    # Only programs on this host may use cproxy: whoever connects to it talks to the daemon.
    DEFAULT_BIND = ("127.0.0.1", "::1")

    # Where sproxy is; under --plain the daemon itself. Resolved again at every dial.
    sproxy_host = Setting("")
    sproxy_port: Setting[int] = Setting(None, 1, 65535)  # type: ignore[arg-type]  # no default: always given

    # What carries sessions: `tcp`, `datagram`: UDP, to the port of the same number, or `auto`: UDP where it passes.
    carrier = Setting("auto")

    # HTTP or SOCKS proxy through which sproxy is reached; None: directly.
    proxy: Setting[ProxyWords | None] = Setting(None)

    # Command whose standard input and output lead to sproxy. Then `sproxy_host` is what the user calls that sproxy, or
    # `VIA_HOST` and a name, without a port.
    via: Setting[str | None] = Setting(None)

    # That command may ask for a password at the terminal; with `stdio` until there is a session.
    via_terminal = Setting(False)

    # Host where the sproxy to which that command leads can also be reached, at the port that it announces; the key that
    # it announces is trusted. None: only by the command.
    direct: Setting[str | None] = Setting(None)

    # What the user's ssh calls that host, for advice.
    ssh_name = Setting("")

    # One stream on standard input and output instead of a listener, for ssh's ProxyCommand.
    stdio = Setting(False)

    # Once there is a session, log only what ends it: at this terminal somebody works, whom the line of `away` tells
    # more.
    hushed = Setting(False)

    # Dial sproxy at the start, not when the first application comes.
    eager = Setting(False)

    # Microseconds that the carrier is kept after the last stream has ended. 60 s spares the next application a dial, at
    # the cost of one heartbeat a second.
    idle_us = Setting(60 * SECOND_US, 0, 30 * DAY_US)

    # With `stdio`, the name of the socket at which the next ssh is awaited for that time (mproxy.programs.standby);
    # empty: nobody is.
    standby = Setting("")

    # Keep a carrier that works when the route to sproxy leads over another device; else it moves there.
    stay = Setting(False)

    # Desktop notifications when sproxy is away, and when it is back.
    notify = Setting(False)

    # The daemon to ask sproxy for; None: sproxy's default.
    target: Setting[Spot | None] = Setting(None)

    # More places where applications connect, each with the target of its streams (-L).
    forward: Setting[tuple[Forward, ...]] = Setting(())

    # More places, where applications say over SOCKS what the target is (-D).
    dynamic: Setting[tuple[Spot, ...]] = Setting(())

    # Places where sproxy is to listen, each with the target here of its streams (-R).
    remote: Setting[tuple[Forward, ...]] = Setting(())

    # Places where datagrams of applications arrive, each with the target of these (--udp).
    udp: Setting[tuple[Forward, ...]] = Setting(())

    # File with this client's key; the one in `state_dir` is made when there is none.
    key: Setting[str | None] = Setting(None)

    # File with a certificate of a CA for that key; None: the one beside the key, if there is one.
    certificate: Setting[str | None] = Setting(None)

    # File in which the keys of sproxies are remembered.
    known_hosts: Setting[str | None] = Setting(None)

    # Fingerprints (`SHA256:...`) of which sproxy must have one; if there are any, known_hosts is not used.
    host_fingerprint: Setting[tuple[str, ...]] = Setting(())

    @property
    def shown_name(self) -> str:
        """`name` or its default: `cproxy:5200->server:6200`."""
        place = "stdio" if self.stdio else self.first_place
        if place is None and self.udp:
            place = f"udp:{self.udp[0][0][1]}"
        if place is None and self.remote:
            host, port = self.remote[0][0]
            place = f"remote:{port or host}"
        return self.name or f"cproxy:{place}->{self.sproxy_name}"

    @property
    def first_place(self) -> int | str | None:
        """Port or path at which it listens, of several the first; None: there is none."""
        spots = [listening for listening, _ in self.forward] + list(self.dynamic)
        if self.port is not None or not spots:
            return self.port
        path, port = spots[0]
        return port if not path.startswith("/") else path

    @property
    def sproxy_name(self) -> str:
        """sproxy in messages: `server:6200`; of one that only a command leads to, `name` or that command."""
        return say_place(self.sproxy_host, self.sproxy_port) if self.sproxy_port else self.name or self.via or ""

    @property
    def key_file(self) -> str | None:
        """`key` or its default; None: there is no place to keep one, so the key is for this process only."""
        return self.key or self.in_state_dir("client-key.pem")

    @property
    def certificate_file(self) -> str | None:
        """`certificate` or its default."""
        return self.certificate or certificate_beside(self.key_file)

    @property
    def known_hosts_file(self) -> str | None:
        """`known_hosts` or its default; None: nothing is remembered."""
        return self.known_hosts or self.in_state_dir("known_hosts")


def certificate_beside(key_file: str | None) -> str | None:
    """Where the certificate for a key is looked for, named as ssh does: `client-key-cert.pub` beside `client-key.pem`;
    None without a key file."""
    return f"{key_file.removesuffix('.pem')}-cert.pub" if key_file is not None else None


# A routing tag has 6 bits for a worker's number.
MOST_WORKERS = 64


class SproxyConfig(ProgramConfig):
    """Settings of sproxy, the proxy beside the daemon."""

    DEFAULT_BIND = ("0.0.0.0", "::")

    # Sessions at once, including those without a carrier. Each costs a few KiB plus its streams; when all places are
    # taken a session that is not in use gives way, or the newcomer is refused.
    max_sessions = Setting(1000, 1, 1_000_000)

    # Processes that share the sessions, each with a keeper, and its part of the memory. Over UDP there is one.
    workers = Setting(1, 1, MOST_WORKERS)

    # Which of several sproxies with one host key this is: the first byte of its tags, for whoever stands in front.
    node = Setting(0, 0, 255)

    # Balancers in front of it, which say in the PROXY protocol from where each connection comes; empty: there are none.
    accept_proxy: Setting[tuple[IPv4Network | IPv6Network, ...]] = Setting(())

    # They send whoever comes back to the node that its routing tag names, as long as that is there.
    routed = Setting(False)

    # Where this sproxy alone can be reached over UDP, (host, port; 0: its own): what clients are told; None: nothing.
    advertise: Setting[Spot | None] = Setting(None)

    # Listen for carriers over UDP as well, at the port of the same number; None: if that can be had.
    udp: Setting[bool | None] = Setting(None)

    # The daemon that a stream without a target goes to; the default is a telnet daemon on this host.
    daemon_host = Setting("127.0.0.1")
    daemon_port = Setting(23, 1, 65535)

    # One session at a time: a new one closes the former one together with its daemon connections.
    single = Setting(False)

    # What clients may ask for besides the default; empty: nothing. Compared as text.
    allow: Setting[tuple[Spot, ...]] = Setting(())

    # Where clients may have it listen (cproxy -R); empty: nowhere.
    allow_listen: Setting[tuple[Spot, ...]] = Setting(())

    # Connections that have not said anything yet, and as many again that have begun but not said HELLO yet. Each costs
    # one file descriptor, and some 20 KiB once it encrypts. One source may have a quarter: 128 that dial at once.
    max_unfinished = Setting(512, 1, 65536)

    # Microseconds that a session of `cproxy --stdio` without a carrier is kept, if that is less than `session_ttl_us`.
    # Only that one process can resume it, and some end without a goodbye, with their host. A day covers a night with
    # the laptop closed.
    stdio_ttl_us = Setting(DAY_US, SECOND_US, 3650 * DAY_US)

    # File with sproxy's key; the one in `state_dir` is made when there is none.
    host_key: Setting[str | None] = Setting(None)

    # File with the keys that may connect. A file named here must exist; if there is none at the default place everybody
    # may connect, unless `closed`.
    authorized_keys: Setting[str | None] = Setting(None)

    # Program that is asked for the lines of a key that is not in that file, with its arguments; None: there is none.
    authorized_keys_command: Setting[str | None] = Setting(None)

    # User as whom it runs; None: as whom sproxy runs.
    authorized_keys_command_user: Setting[str | None] = Setting(None)

    # File with keys and certificates that count no more; None: there is none.
    revoked_keys: Setting[str | None] = Setting(None)

    # File with a certificate of a CA for sproxy's key; None: the one beside the key, if there is one.
    host_certificate: Setting[str | None] = Setting(None)

    # Without that file let nobody in, instead of everybody.
    closed = Setting(False)

    # Whoever comes through `sproxy --attach` is a user of this account: its key is let in, and remembered in
    # `authorized_keys`.
    trust_attached = Setting(False)

    # Microseconds without any session after which sproxy ends; None: it stays.
    exit_idle_us: Setting[int | None] = Setting(None, SECOND_US, 365 * DAY_US)

    # User whose rights the process takes once it listens and has read its keys; None: it keeps its own.
    user: Setting[str | None] = Setting(None)

    # Connect to daemons on 127.0.0.0/8 from an address there that is made from the client's key, so that a daemon's
    # limits and bans for one address concern one client.
    source_per_key = Setting(False)

    # Version of the PROXY protocol in which daemons are told first where the client comes from; None: they are not.
    send_proxy: Setting[int | None] = Setting(None)

    # Bytes that the buffers of all sessions may hold together. 1 GiB is eight sessions at their worst, or thousands
    # that do not stall; beyond it every stream keeps only what it must have (4 KiB) until others release some.
    memory_limit_bytes = Setting(GIB, 64 * MIB, 1024 * GIB)

    @property
    def may_take_udp(self) -> bool:
        """Whether carriers may come over UDP: those are always encrypted, and balancers pass on TCP, unless somebody
        has seen to more."""
        if self.udp is not None:
            return self.udp
        return not self.plaintext and (not self.accept_proxy or self.advertise is not None)

    @property
    def shown_name(self) -> str:
        """`name` or its default: `sproxy:6200->127.0.0.1:23`."""
        return self.name or f"sproxy:{self.port}->{format_host_port(self.daemon_host, self.daemon_port)}"

    @property
    def host_key_file(self) -> str | None:
        """`host_key` or its default; None: there is no place to keep one, so the key is for this process only."""
        return self.host_key or self.in_state_dir("host-key.pem")

    @property
    def certificate_file(self) -> str | None:
        """`host_certificate` or its default."""
        return self.host_certificate or certificate_beside(self.host_key_file)

    @property
    def authorized_keys_file(self) -> str | None:
        """`authorized_keys` or its default; None: everybody may connect."""
        return self.authorized_keys or self.in_state_dir("authorized_keys")


def default_state_dir(environ: Mapping[str, str] = os.environ, is_root: bool | None = None) -> str | None:
    """Where keys and instance ids are kept, or None if the environment names no place.

    First the service manager's directory (systemd.exec(5), STATE_DIRECTORY), then the state directory of the XDG base
    directory specification; root without one uses the system's (hier(7)).
    """
    if environ.get("STATE_DIRECTORY"):
        return environ["STATE_DIRECTORY"].split(":")[0]
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return os.path.join(environ["XDG_STATE_HOME"], "mproxy")
    if os.geteuid() == 0 if is_root is None else is_root:
        return "/var/lib/mproxy"
    if environ.get("HOME", "").startswith("/"):
        return os.path.join(environ["HOME"], ".local", "state", "mproxy")
    return None
