"""The contenders: one line each in TABLE. A new one is a name, a start function and the programs it needs.

A start function gets the row of hops (two, or none for `direct`) and a scratch directory, and gives the
started processes in the order of the row. It starts the last proxy first, so that nobody dials into the void.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness import peers
from harness.chain import Chain, Hop
from harness.places import LOOPBACK, TwoHosts, free_port
from harness.process import Group, Process, StartError

REPOSITORY = Path(__file__).resolve().parents[2]

DIRECT = "direct"
DIRECT_IPERF = "direct, iperf3"
MPROXY = "mproxy"
MPROXY_TLS = "mproxy tls"
MPROXY_TLS_BBR = "mproxy tls, bbr"  # of the kernel: the path's hosts are set to it
MPROXY_DATAGRAM = "mproxy datagram"
MPROXY_AUTO = "mproxy auto"
MPROXY_UNKEPT = "mproxy --no-keeper"
MPROXY_PLAIN = "mproxy --plain"
MPROXY_RELAY = "mproxy relay"
HAPROXY = "haproxy"
HAPROXY_BIG = "haproxy 256k"
HAPROXY_SPLICE = "haproxy splice"
NGINX = "nginx stream"
SOCAT = "socat"
STUNNEL = "stunnel"
HAPROXY_TLS = "haproxy tls"
SSH = "ssh -L"
PLAIN_SSH = "ssh"
MPROXY_SSH = "mproxy ssh"
MOSH = "mosh"  # keys alone: it carries a terminal, no connections
# Of transfers, started by harness.transfer.
MPROXY_CUBIC = "mproxy --congestion cubic"
MPROXY_GBN = "mproxy --recovery gbn"
SRT = "srt-file-transmit"
KCPTUN_BARE = "kcptun, wide, no FEC"
KCPTUN_DEFAULT = "kcptun"
AIOQUIC = "aioquic"
RSYNC = "rsync --fsync"
PATH = "path"
SCP = "scp"
RSYNC_SSH = "rsync over ssh"

MPROXY_UDP = "mproxy relay --udp"
NGINX_UDP = "nginx stream udp"
NGINX_UDP_MANY = "nginx udp, multi_accept"
SOCAT_UDP = "socat udp"
SESSION_UDP = "cproxy --udp, datagram"
SESSION_UDP_TCP = "cproxy --udp, tcp"
SOCAT_UDP_TWO = "two socats udp"
MPROXY_UDP_TWO = "two mproxy relays --udp"

PLAIN = "--plain"  # keeps no state, and refuses to be told where
PLAINTEXT = "--plaintext"  # beside peers that do not encrypt
NO_KEEPER = "--no-keeper"
EVERY_BREAK = ("--log-level", "debug")  # rows count the lines that say so

StartRow = Callable[[tuple[Hop, ...], Path], list[Process]]
HopCommand = Callable[[Hop, Path], list[str]]


@dataclass(frozen=True)
class Contender:
    """How to start one competitor, and the programs without which it is left out of the tables."""

    name: str
    start_row: StartRow
    needs: tuple[str, ...] = ()
    hops: int = 2
    modules: tuple[str, ...] = ()  # of Python

    def with_client_options(self, *options: str) -> Contender:
        """The same with more options of cproxy; for those that are an mproxy_pair."""
        assert isinstance(self.start_row, partial)
        given = self.start_row.keywords.get("cproxy", ())
        return replace(self, start_row=partial(self.start_row, cproxy=(*given, *options)))

    def missing(self) -> list[str]:
        programs = [program for program in self.needs if shutil.which(program) is None]
        return programs + [module for module in self.modules if importlib.util.find_spec(module) is None]

    def start(self, chain: Chain, work: Path) -> Group:
        return Group(self.start_row(chain.hops, work))

    def chain_between(self, target: str) -> Chain:
        """A row on this host, over loopback, that ends at `target`."""
        return self._chain([(LOOPBACK, free_port(), None) for _ in range(self.hops)], target)

    def chain_across(self, hosts: TwoHosts, target: str) -> Chain:
        """First proxy on host a (loopback side), last proxy on host b next to the daemon.

        `target` is on host b; without proxies the client has to reach it over the path.
        """
        if not self.hops:
            return Chain((), f"{hosts.address_b}:{target.rpartition(':')[2]}")
        return self._chain(
            [(LOOPBACK, free_port(), hosts.a), (hosts.address_b, free_port(), hosts.b)], target
        )

    def chain_through(self, middle: str, last_port: int, target: str) -> Chain:
        """A row whose first proxy reaches the last one by way of `middle`, a relay that leads to
        `last_port`."""
        if not self.hops:
            return Chain((), middle)
        first = Hop(LOOPBACK, free_port(), middle)
        return Chain((first, Hop(LOOPBACK, last_port, target, is_last=True)), target)

    def _chain(self, places: list[tuple[str, int, str | None]], target: str) -> Chain:
        hops: list[Hop] = []
        onward = target
        for address, port, netns in reversed(places):
            hops.insert(0, Hop(address, port, onward, netns, is_last=not hops))
            onward = f"{address}:{port}"
        return Chain(tuple(hops), target)


def started(command: list[str], hop: Hop, work: Path, udp: bool = False) -> Process:
    """Start one proxy and wait until it listens."""
    name = Path(command[0]).name
    process = Process(command, work / f"{name}-{hop.port}.log", hop.netns)
    try:
        process.wait_listening(hop.port, udp=udp)
    except StartError:
        process.stop()
        raise
    return process


def no_proxy(_hops: tuple[Hop, ...], _work: Path) -> list[Process]:
    return []


def same_program(command: HopCommand, hops: tuple[Hop, ...], work: Path) -> list[Process]:
    """Every hop is the same program with its own configuration."""
    row = [started(command(hop, work), hop, work) for hop in reversed(hops)]
    return row[::-1]


def ssh_pair(hops: tuple[Hop, ...], work: Path) -> list[Process]:
    first, last = hops
    server = started(peers.sshd(last, work), last, work)
    return [started(peers.ssh_forward(first, last, work), first, work), server]


def mproxy_pair(options: tuple[str, ...], hops: tuple[Hop, ...], work: Path, *, sproxy: tuple[str, ...] = (),
                cproxy: tuple[str, ...] = (), udp: bool = False) -> list[Process]:
    """`options` of both, and those that one of them has alone. `udp`: for datagrams, not for connections."""
    first, last = hops
    address, _, port = first.target.rpartition(":")
    state, server_state = (
        [] if PLAIN in options else ["--state-dir", str(work / f"state-{hop.port}")] for hop in hops
    )
    server_command = [
        str(REPOSITORY / "sproxy"),
        *options,
        *sproxy,
        *server_state,
        *EVERY_BREAK,
        "--bind",
        last.listen_address,
        str(last.port),
        last.target,
    ]
    client_command = [str(REPOSITORY / "cproxy"), *options, *cproxy, *state, *EVERY_BREAK]
    if udp:
        server_command[1:1] = ["--allow", last.target]
        client_command += ["--udp", f"{first.listen_address}:{first.port}:{last.target}"]
    else:
        client_command += ["--bind", first.listen_address, str(first.port)]
    server = started(server_command, last, work)
    return [started([*client_command, address, port], first, work, udp), server]


def _by_carrier(carrier: str, udp: bool = False) -> StartRow:
    return partial(mproxy_pair, (), cproxy=("--carrier", carrier), udp=udp)


def udp_hop(command: HopCommand, hops: tuple[Hop, ...], work: Path) -> list[Process]:
    """UDP relays of one kind."""
    return [started(command(hop, work), hop, work, udp=True) for hop in hops]


def mproxy_udp(hop: Hop, _work: Path) -> list[str]:
    address, _, port = hop.target.rpartition(":")
    return [_MPROXY, "relay", "--udp", "--workers", "1", f"{hop.listen_address}:{hop.port}", address, port]


_MPROXY = str(REPOSITORY / "bin" / "mproxy")
_MPROXY_PROGRAMS = (str(REPOSITORY / "cproxy"), str(REPOSITORY / "sproxy"))

TABLE: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(DIRECT, no_proxy, hops=0),
        Contender(DIRECT_IPERF, no_proxy, ("iperf3",), hops=0),
        Contender(MPROXY, partial(mproxy_pair, (PLAINTEXT,)), _MPROXY_PROGRAMS),
        Contender(MPROXY_TLS, _by_carrier("tcp"), _MPROXY_PROGRAMS),
        Contender(MPROXY_TLS_BBR, _by_carrier("tcp"), _MPROXY_PROGRAMS),
        Contender(MPROXY_DATAGRAM, _by_carrier("datagram"), _MPROXY_PROGRAMS),
        Contender(MPROXY_AUTO, _by_carrier("auto"), _MPROXY_PROGRAMS),
        Contender(MPROXY_UNKEPT, partial(mproxy_pair, (PLAINTEXT, NO_KEEPER)), _MPROXY_PROGRAMS),
        Contender(MPROXY_PLAIN, partial(mproxy_pair, (PLAIN,)), _MPROXY_PROGRAMS),
        Contender(MPROXY_RELAY, partial(same_program, peers.relay_hop), (str(peers.MPROXY),), hops=1),
        Contender(HAPROXY, partial(same_program, peers.haproxy), ("haproxy",)),
        Contender(HAPROXY_BIG, partial(same_program, peers.haproxy_big_buffers), ("haproxy",)),
        Contender(HAPROXY_SPLICE, partial(same_program, peers.haproxy_splice), ("haproxy",)),
        Contender(NGINX, partial(same_program, peers.nginx_stream), ("nginx",)),
        Contender(SOCAT, partial(same_program, peers.socat), ("socat",)),
        Contender(MPROXY_UDP, partial(udp_hop, mproxy_udp), (_MPROXY,), hops=1),
        Contender(NGINX_UDP, partial(udp_hop, peers.nginx_udp), ("nginx",), hops=1),
        Contender(NGINX_UDP_MANY, partial(udp_hop, peers.nginx_udp_many), ("nginx",), hops=1),
        Contender(SOCAT_UDP, partial(udp_hop, peers.socat_udp), ("socat",), hops=1),
        Contender(SESSION_UDP, _by_carrier("datagram", udp=True), _MPROXY_PROGRAMS),
        Contender(SESSION_UDP_TCP, _by_carrier("tcp", udp=True), _MPROXY_PROGRAMS),
        Contender(SOCAT_UDP_TWO, partial(udp_hop, peers.socat_udp), ("socat",)),
        Contender(MPROXY_UDP_TWO, partial(udp_hop, mproxy_udp), (_MPROXY,)),
        Contender(HAPROXY_TLS, partial(same_program, peers.haproxy_tls), ("haproxy", "openssl")),
        Contender(STUNNEL, partial(same_program, peers.stunnel), ("stunnel4", "openssl")),
        Contender(SSH, ssh_pair, ("ssh", "/usr/sbin/sshd", "ssh-keygen")),
        Contender(PLAIN_SSH, no_proxy, ("ssh", "/usr/sbin/sshd", "ssh-keygen")),
        Contender(MPROXY_SSH, no_proxy, ("ssh", "/usr/sbin/sshd", "ssh-keygen")),
        Contender(MOSH, no_proxy, ("mosh-server", "mosh-client")),
        Contender(MPROXY_CUBIC, no_proxy),
        Contender(MPROXY_GBN, no_proxy),
        Contender(SRT, no_proxy, ("srt-file-transmit",)),
        Contender(KCPTUN_BARE, no_proxy, ("kcptun-client", "kcptun-server")),
        Contender(KCPTUN_DEFAULT, no_proxy, ("kcptun-client", "kcptun-server")),
        Contender(AIOQUIC, no_proxy, modules=("aioquic",)),
        Contender(RSYNC, no_proxy, ("rsync",)),
        Contender(PATH, no_proxy, hops=0),
        Contender(SCP, no_proxy, ("scp", "/usr/sbin/sshd")),
        Contender(RSYNC_SSH, no_proxy, ("rsync", "ssh", "/usr/sbin/sshd")),
    )
}
