"""`mproxy metrics`: what every running program does, as Prometheus reads it; printed once, or served over HTTP."""

from __future__ import annotations

import signal
import sys
import threading

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import UsageError
from mproxy.ground.left_ignored import is_left_ignored
from mproxy.ground.packages import METRICS, import_packages
from mproxy.ground.words import is_loopback, parse_bind, parse_duration, parse_port, split_host_port
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.programs.scraping import ScrapeServer

PROGRAM = "mproxy metrics"

# How long a program may take to answer: a part of the ten seconds that Prometheus waits by default.
PATIENCE_US = 2_000_000
MOST_PATIENCE_US = 60_000_000


def main(argv: list[str]) -> int:
    """`mproxy metrics`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [--listen [ADDR:]PORT] [--patience TIME]",
        "Metrics for Prometheus of every cproxy, sproxy, relay, recv and send of this\n"
        "user (as root: of this host). They are asked for each scrape.",
        "TIME is a number with us, ms, s, m, h or d (a bare number is seconds).\n\n"
        "examples:\n"
        "  mproxy metrics                              once, on standard output\n"
        "  mproxy metrics --listen 9470                http://127.0.0.1:9470/metrics\n"
        "  mproxy metrics --listen 192.0.2.7:9470      for a Prometheus elsewhere")
    parser.add(parser, "--listen", _parse_listen, metavar="[ADDR:]PORT", help=(
        "serve over HTTP, on 127.0.0.1 unless an address is named; 0.0.0.0 and [::] are all addresses"))
    parser.add(parser, "--patience", _parse_patience, metavar="TIME", help=(
        "how long a program may take to answer (default 2s); one that does not is mproxy_up 0"))
    parser.add_help_options()
    options = parser.parse_args(argv)
    import_packages(METRICS)
    from mproxy.programs import scraping
    registry = scraping.make_registry((options.patience or PATIENCE_US) / 1e6)
    if options.listen is None:
        sys.stdout.write(scraping.as_text(registry))
        sys.stdout.flush()
    else:
        _serve(scraping.make_server(registry, *options.listen), options.listen[0])
    return 0


def _parse_listen(text: str) -> tuple[str, int]:
    words = split_host_port([text], 0)
    host, port = words if len(words) == 2 else ("127.0.0.1", text)
    return parse_bind(host), parse_port(port, lowest=0)


def _parse_patience(text: str) -> int:
    duration_us = parse_duration(text)
    if not 1000 <= duration_us <= MOST_PATIENCE_US:
        raise UsageError("must be 1ms to 1m")
    return duration_us


def _serve(server: ScrapeServer, host: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        if number == signal.SIGTERM or not is_left_ignored(number):
            signal.signal(number, lambda _number, _frame: threading.Thread(target=server.shutdown).start())
    where = format_host_port(host, server.server_port)
    if not is_loopback(host):
        complain(PROGRAM, f"warning: anyone who can reach {where} can read names and amounts; is there a firewall?")
    complain(PROGRAM, f"serving http://{where}/metrics")
    with server:
        server.serve_forever()
