"""What `mproxy metrics` does with the prometheus_client package: a collector that asks at each scrape, and HTTP.

Imported when metrics are wanted: a plain installation lacks the package.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import CollectorRegistry

from mproxy.ground.words import is_loopback
from mproxy.io.bind import listen_on
from mproxy.service.measures import COUNTER, GROUP, METRICS, Ledger
from mproxy.service.survey import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]  # of WSGI (PEP 3333)

# Requests at once; each is a thread. And how long one may be silent.
MOST_REQUESTS = 32
REQUEST_S = 5

# Requests that follow each other faster have the same answer.
FRESH_S = 0.5


class StatusCollector:
    """A collector as the library wants it, which asks all programs for each scrape."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._ledger = Ledger(user_name)
        self._lock = threading.Lock()  # one survey at a time; who waited for it gets its answer
        self._families: list[CounterMetricFamily | GaugeMetricFamily] = []
        self._fresh_until = 0.0

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        """Called by the library, from the thread of a request."""
        with self._lock:
            if time.monotonic() >= self._fresh_until:
                self._families = list(self._make())
                self._fresh_until = time.monotonic() + FRESH_S
            return self._families

    def _make(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, metric in METRICS.items():
            family = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
            families[name] = family(name, metric.text, labels=[*GROUP, *metric.labels])
        for group, samples in sorted(self._ledger.take(survey(self._patience_s)).items()):
            for name, labels, value in samples:
                families[name].add_metric([*group, *labels], value)
        return (family for family in families.values() if family.samples)


def user_name(uid: int) -> str:
    """As the system calls a user; the number of one that has no name."""
    import pwd
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_registry(patience_s: float) -> CollectorRegistry:
    """What the library makes text of."""
    registry = CollectorRegistry(auto_describe=False)
    collector: Any = StatusCollector(patience_s)
    registry.register(collector)
    return registry


def as_text(registry: CollectorRegistry) -> str:
    """Prometheus' text format."""
    text: str = generate_latest(registry).decode()
    return text


# ---- over HTTP

def make_server(registry: CollectorRegistry, host: str, port: int) -> ScrapeServer:
    """Listening; MproxyError when that cannot be."""
    (listener,) = listen_on([host], port, named=True, both=True)
    server = ScrapeServer(listener)
    server.set_app(restricted(make_wsgi_app(registry), host))
    return server


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *values: object) -> None:
        """Every few seconds somebody asks: nothing to write down."""


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """A thread for each request, up to a bound; more are closed unheard."""

    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        self.address_family = listener.family
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # As `server_bind` of the base class does, but the name service is not asked what we are called.
        self.server_name, self.server_port = map(str, self.server_address[:2])  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """It left before it had its answer, or asked in a strange way."""


def restricted(app: Application, listening_on: str) -> Application:
    """`app` at /metrics alone, and on loopback only for who calls us by an address or localhost: a page in a browser
    here could else read it under a name of its own that leads to 127.0.0.1 (DNS rebinding)."""
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if is_loopback(listening_on) and not is_address(environ.get("HTTP_HOST", "")):
            status, text = "403 Forbidden", "call this host by its address\n"
        elif environ["PATH_INFO"] == "/":
            status, text = "200 OK", "mproxy metrics: see /metrics\n"
        elif environ["PATH_INFO"] != "/metrics":
            status, text = "404 Not Found", "see /metrics\n"
        else:
            return app(environ, start_response)
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]
    return answer


def is_address(host: str) -> bool:
    """Whether the Host of a request is an address or localhost; old clients say none."""
    before, _, port = host.rpartition(":")
    bare = before if port.isdigit() else host
    if bare.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(bare.strip("[]"))
        return True
    except ValueError:
        return False
