"""`mproxy web`: serves the page for people; what it says and who may see it is in `mproxy.web`."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading

from mproxy.ground.config import format_host_port
from mproxy.ground.left_ignored import is_left_ignored
from mproxy.ground.packages import WEB, import_packages
from mproxy.ground.words import escaped, is_loopback, parse_bind, parse_port, split_host_port
from mproxy.io.bind import listen_on
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.web.gate import Gate

PROGRAM = "mproxy web"
LISTEN = ("127.0.0.1", 8470)

# Requests at once: 32 pages, and what they ask for beside their stream.
MOST_REQUESTS = 128


def main(argv: list[str]) -> int:
    """`mproxy web`; the exit status."""
    return exit_status(PROGRAM, _web, argv, interrupted=0)


def _web(argv: list[str]) -> int:
    host, port = LISTEN
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [--listen [ADDR:]PORT] [--open]",
        "Serve a page that shows every running cproxy, sproxy, relay, recv and send of\n"
        "this user (as root: of this host), live: sessions, rates, round trips and\n"
        "outages, and that can end a session. The address it prints has a token: anyone\n"
        "who has it may see and do all that.",
        "examples:\n"
        "  mproxy web --open                 on this host\n"
        "  ssh -t -L 8470:127.0.0.1:8470 server mproxy web\n"
        "                                    on a server, seen from here")
    parser.add(parser, "--listen", _parse_listen, metavar="[ADDR:]PORT", help=(
        "numeric address and port, or a port of 127.0.0.1; port 0 takes any free one (default"
        f" {format_host_port(host, port)})"))
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_help_options()
    options = parser.parse_args(argv)
    host, port = options.listen or LISTEN
    import_packages(WEB)
    (listener,) = listen_on([host], port, named=True, both=True, remedy="; --listen takes another address and port")
    with listener:
        asyncio.run(_serve(listener, host, options.open))
    return 0


def _parse_listen(text: str) -> tuple[str, int]:
    words = split_host_port([text], 0)
    host, port = words if len(words) == 2 else (LISTEN[0], text)
    return parse_bind(host), parse_port(port, lowest=0)


async def _serve(listener: socket.socket, host: str, opens: bool) -> None:
    import uvicorn

    from mproxy.web.board import Board
    from mproxy.web.gate import Gate
    from mproxy.web.lookout import Lookout
    from mproxy.web.routes import Routes

    lookout = Lookout(Board())
    wide = host in ("0.0.0.0", "::")
    own_name = socket.gethostname().lower()
    gate = Gate(Routes(lookout).app(), frozenset({"localhost", "127.0.0.1", "::1", host, own_name}), numeric=wide)
    server = uvicorn.Server(uvicorn.Config(
        gate, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None, log_level="critical",
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=MOST_REQUESTS,
        timeout_graceful_shutdown=2))

    def end(_number: int, _frame: object) -> None:
        server.should_exit = True
    # uvicorn takes both over while it serves; afterwards it has them repeated, for whoever had them before.
    if is_left_ignored(signal.SIGINT):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    looking = asyncio.create_task(lookout.run(lambda: bool(server.should_exit)))
    looking.add_done_callback(lambda _: end(0, None))  # a page that nobody keeps up to date is worse than none
    _introduce(gate, own_name if wide else host, listener.getsockname()[1], host, opens)
    await server.serve(sockets=[listener])
    await looking


def _introduce(gate: Gate, name: str, port: int, host: str, opens: bool) -> None:
    """Say where the page is."""
    address = f"http://{format_host_port(name, port)}/"
    print(f"{address}?token={gate.token}\nAnyone who has this address can see and end sessions. Ctrl-C ends the page.",
          flush=True)
    if not is_loopback(host):
        complain(PROGRAM, f"warning: other hosts can connect to {format_host_port(host, port)}, and the token and all"
                 " that the page shows cross the network unencrypted; better:"
                 f" 'ssh -L {port}:127.0.0.1:{port}' to this host")
    if opens:
        url = f"{address}?token={gate.link_for_one_visit()}"
        threading.Thread(target=_open_browser, args=(url,), daemon=True).start()  # one in this terminal blocks


def _open_browser(url: str) -> None:
    import webbrowser
    try:
        opened = webbrowser.open(url)
    except (OSError, webbrowser.Error) as error:
        complain(PROGRAM, f"cannot open a browser: {escaped(str(error))}")
    else:
        if not opened:
            complain(PROGRAM, "no browser found here: open the address above in one")

