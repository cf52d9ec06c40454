"""What `mproxy doctor` does to find out about a path: each function tries one thing, with a deadline, and judges
nothing.

What is said to sproxy is said by the same handshake that cproxy uses, as far as the answer to a session that there
never was: that begins none, ends none, and takes no place.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time

from mproxy import _wire
from mproxy.carrier._tls import Tls
from mproxy.ground.errors import MproxyError, PeerError
from mproxy.handshake import Caller
from mproxy.policy.attempt import connect_to, reason_of
from mproxy.policy.candidate import unacknowledged_bytes
from mproxy.policy.resolver import interleave, look_up_host, numeric_address, with_port
from mproxy.programs.introduction import make_hello

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.carrier._tls import TlsContext
    from mproxy.ground.config import CproxyConfig
    from mproxy.handshake import Hello
    from mproxy.policy.paths import Way
    from mproxy.policy.resolver import Answer
    from mproxy.policy.tunnel import ProxyTunnel

RECEIVE_BYTES = 65536

# linux/in.h, linux/in6.h: not in Python's socket module. By family: level, IP_RECVERR, IP_MTU.
_FAMILIES = {socket.AF_INET: (socket.IPPROTO_IP, 11, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 25, 24)}


# ---- names

def resolve(host: str, port: int, patience_s: float) -> Answer:
    """([(family, sockaddr)], None), or ([], why)."""
    numeric = numeric_address(host, port)
    if numeric is not None:
        return numeric
    found: list[Answer] = []
    thread = threading.Thread(target=lambda: found.append(look_up_host(host)), daemon=True)
    thread.start()
    thread.join(patience_s)  # getaddrinfo(3) cannot be interrupted
    if not found:
        return [], f"the name service has not answered for {patience_s:g} s"
    addresses, error = found[0]
    return [(family, with_port(address, port)) for family, address in interleave(addresses)], error


# ---- connections

class Silence:
    """A log that nobody reads: the findings say what there is to say."""

    def debug(self, event: str, /, **fields: object) -> None: ...
    def info(self, event: str, /, **fields: object) -> None: ...
    def warning(self, event: str, /, **fields: object) -> None: ...
    def error(self, event: str, /, **fields: object) -> None: ...
    def restrain(self, call_later: Callable[[int, Callable[[], None]], object]) -> None: ...
    def tell_rest(self) -> None: ...


class Connected:
    """What became of one attempt: a blocking socket, or None and why. `heard`: what sproxy said through a proxy while
    the proxy was asked."""

    __slots__ = ("error", "heard", "sock", "took_s", "way")

    def __init__(self, way: Way, sock: socket.socket | None, took_s: float, error: OSError | None = None) -> None:
        self.way = way
        self.sock = sock
        self.took_s = took_s
        self.error = error
        self.heard = b""


def connect_all(ways: list[Way], patience_s: float, segment_bytes: int = 0) -> list[Connected]:
    """Connect to all of them at once; in the same order."""
    done: dict[Way, Connected] = {}
    racing: dict[int, tuple[Way, socket.socket]] = {}
    poll = select.poll()
    began = time.monotonic()
    for way in ways:
        try:
            sock = connect_to(way, segment_bytes)
        except OSError as error:
            done[way] = Connected(way, None, 0.0, error)
            continue
        racing[sock.fileno()] = way, sock
        poll.register(sock, select.POLLOUT)
    while racing and (left_s := began + patience_s - time.monotonic()) > 0:
        for fd, _events in poll.poll(left_s * 1000):
            poll.unregister(fd)
            way, sock = racing.pop(fd)
            done[way] = _finish_connecting(way, sock, time.monotonic() - began)
    for way, sock in racing.values():
        sock.close()
        done[way] = Connected(way, None, patience_s, TimeoutError())
    return [done[way] for way in ways]


def _finish_connecting(way: Way, sock: socket.socket, took_s: float) -> Connected:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        sock.close()
        return Connected(way, None, took_s, OSError(code, os.strerror(code)))
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connected(way, sock, took_s)


def open_tunnel(connected: Connected, tunnel: ProxyTunnel, patience_s: float) -> None:
    """Ask the proxy at the other end for a connection to sproxy. PeerError if it refuses, or is none; OSError."""
    sock = connected.sock
    assert sock is not None
    ends_at = time.monotonic() + patience_s
    rest = None
    while rest is None:
        sock.settimeout(max(ends_at - time.monotonic(), 0.001))
        sock.sendall(tunnel.outgoing)
        tunnel.outgoing = b""
        data = sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed")
        rest = tunnel.feed(data)
    connected.heard = rest


def path_mtu(sock: socket.socket) -> int | None:
    """Bytes of the largest packet, as the kernel knows it by now; None also where there are no packets (a command)."""
    if sock.family not in _FAMILIES:
        return None
    level, _errors, mtu = _FAMILIES[sock.family]
    try:
        return sock.getsockopt(level, mtu)
    except OSError:
        return None


# ---- the handshake

class Heard:
    """What came of a conversation."""

    def __init__(self) -> None:
        self.first = b""                     # what the other end said first
        self.error: PeerError | None = None  # how it ended, when the other end speaks our language
        self.refused = False                 # it is an sproxy whose key is in order, and said no
        self.ended: str | None = None        # the connection did, with these words of the system; None: silence
        self.unacknowledged = 0              # bytes of ours that its kernel has not confirmed
        self.took_s = 0.0                    # from the first word to the last
        self.cipher: str | None = None
        self.mtu: int | None = None

    @property
    def silent(self) -> bool:
        """It let us wait."""
        return self.error is None and self.ended is None


def ask_for_session(sock: socket.socket, config: CproxyConfig, context: TlsContext | None,
                    judge: Callable[[bytes, bytes], object], patience_s: float, list_bytes: int = 0,
                    said: bytes = b"", unwrap: Callable[[bytes], bytes] = bytes) -> Heard:
    """Ask an sproxy for a session that there never was, after `judge(its key, its certificate)`. Closes the socket.
    `list_bytes` go behind the question; `said` is what came before, and `unwrap` gives of what comes that which is for
    us."""
    def compose() -> tuple[Hello, bytes, bytes]:
        hello = make_hello(config, os.urandom(_wire.SESSION_ID_BYTES), os.urandom(_wire.INSTANCE_ID_BYTES),
                           time.time_ns() // 1000)
        return hello, bytes(list_bytes), os.urandom(_wire.SECRET_BYTES)

    tls = Tls(context) if context is not None else None
    caller = Caller(compose, tls, lambda spki: judge(spki, tls.peer_certificate() if tls is not None else b""))
    heard = Heard()
    cut_off: OSError | None = None
    began = time.monotonic()
    with sock:
        try:
            while (left_s := began + patience_s - time.monotonic()) > 0:
                sock.settimeout(left_s)
                cut_off = _send(sock, caller) or cut_off
                data, said = said or sock.recv(RECEIVE_BYTES), b""
                if not data:
                    heard.ended = reason_of(cut_off) if cut_off else "closed"
                    break
                data = unwrap(data)
                heard.first = heard.first or data
                if data:
                    caller.feed(data)
        except PeerError as error:
            heard.error = error
        except TimeoutError:
            pass
        except OSError as error:
            heard.ended = reason_of(error)
        heard.took_s = time.monotonic() - began
        heard.refused = caller.refused
        heard.cipher = tls.cipher if tls is not None and tls.finished else None
        heard.mtu = path_mtu(sock)
        heard.unacknowledged = unacknowledged_bytes(sock)
    return heard


def _send(sock: socket.socket, caller: Caller) -> OSError | None:
    """Say what there is to say; the error of a connection that takes no more, which may have brought bytes before."""
    words, caller.outgoing = caller.outgoing, b""
    try:
        sock.sendall(words)
    except (BrokenPipeError, ConnectionResetError) as error:
        return error
    return None


# ---- strangers

def ask_http(way: Way, host: str, patience_s: float) -> str | None:
    """The first line of what answers to HTTP, with the place that it leads to; None when it does not."""
    sock = _connect(way, patience_s)
    if sock is None:
        return None
    with sock:
        sock.settimeout(patience_s)
        try:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            text = sock.recv(RECEIVE_BYTES).decode(errors="replace")
        except OSError:
            return None
    if not text.startswith("HTTP/"):
        return None
    status, *headers = text.partition("\r\n\r\n")[0].split("\r\n")
    place = next((line.partition(":")[2].strip() for line in headers if line.lower().startswith("location:")), None)
    return f"{status}, which leads to {place}" if place else status


def ask_tls(way: Way, host: str, patience_s: float) -> str | None:
    """Whom a TLS server says it is (the subject of its certificate, or ""); None when there is none."""
    sock = _connect(way, patience_s)
    if sock is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock.settimeout(patience_s)
    try:
        with sock, context.wrap_socket(sock, server_hostname=host) as tls:
            return _subject(tls.getpeercert(binary_form=True))
    except ssl.SSLError as error:
        return "" if "alert" in str(error).lower() else None  # it speaks TLS, and would not with us
    except (OSError, ValueError):
        return None


def _subject(certificate: bytes | None) -> str:
    from mproxy.ground.packages import KEYS, import_packages
    try:
        import_packages(KEYS)
        from cryptography import x509
        return x509.load_der_x509_certificate(certificate or b"").subject.rfc4514_string()
    except (MproxyError, ValueError):
        return ""


def _connect(way: Way, patience_s: float) -> socket.socket | None:
    return connect_all([way], patience_s)[0].sock


# ---- UDP

def ask_udp(way: Way, patience_s: float) -> OSError | bytes | None:
    """What a datagram to that address and port is answered with: data, or an error of the path; None: nothing."""
    level, errors, _mtu = _FAMILIES[socket.AddressFamily(way.family)]
    with socket.socket(way.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.setsockopt(level, errors, 1)
            sock.connect(way.address)
            ends_at = time.monotonic() + patience_s
            while (left_s := ends_at - time.monotonic()) > 0:
                sock.settimeout(min(left_s, patience_s / 3))  # a datagram may be lost
                sock.send(b"mproxy doctor")
                try:
                    return sock.recv(RECEIVE_BYTES)
                except TimeoutError:
                    pass
        except OSError as error:
            return error
    return None
