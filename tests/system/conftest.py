"""Fixtures of the system tests. They need network namespaces: as root, or where users may make their own."""

import os
import resource
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browser import chromium, crowd, server, visit  # noqa: F401
from lab import Lab
from openssh import sshd  # noqa: F401
from proxies import CPROXY, OVER_TCP, SPROXY, Pair
from real_daemons import postgres, redis, repository  # noqa: F401
from relay_engine import Backstage
from relays import MPROXY, RelayHost
from traffic import Traffic, read_exactly
from udp_lab import Echo, RelayThread

# The sanitizers' library is for this process; ./cproxy and the like, and sys.executable, bring it with them, and others
# are to go without.
os.environ.pop("LD_PRELOAD", None)

# Programs leave SIGHUP ignored if it is, as with nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Thousands of applications are the test process itself.
HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))


@pytest.fixture(autouse=True, scope="module")
def own_runtime(tmp_path_factory):
    """A place for the control sockets of programs that tests start outside of the lab: an ordinary user's would all be
    in /tmp, where those of other tests see them."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RUNTIME_DIRECTORY", raising=False)
        environment.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture
def lab(tmp_path):
    """Three hosts and the cables between them, gone after the test."""
    with Lab(tmp_path) as hosts:
        yield hosts
        for host in hosts.hosts:  # what the programs wrote: pytest prints it with a failure
            for program in host.programs:
                print(f"[{host.name}] {program}\n")


@pytest.fixture
def pair(lab, carrier_options):
    """Both proxies; the test starts them with the options it wants. Afterwards neither may have crashed."""
    if not (CPROXY.exists() and SPROXY.exists()):
        pytest.fail("run `make` first: cproxy and sproxy are not built")
    proxies = Pair(lab, carrier_options)
    yield proxies
    proxies.verify_health()


@pytest.fixture
def served(pair):
    """Both proxies, and one application that has been echoed."""
    pair.echo()
    pair.start(cproxy=["--name", "laptop"])
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    return app


@pytest.fixture
def ends():
    """Closes what a test opened, the last one first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def host(lab):
    """One host of the lab, for what happens on its loopback."""
    return lab.client


@pytest.fixture
def udp_relay(host, ends):
    """The engine of UDP rules in a thread, in `host`."""
    relay = RelayThread(host)
    ends.callback(relay.close)
    return relay


@pytest.fixture
def echo(host, ends):
    """A UDP server in `host` that sends everything back."""
    return ends.enter_context(Echo(host))


@pytest.fixture
def stage():
    """Engines of TCP rules, and the sockets of a test; all are closed in the end."""
    backstage = Backstage()
    yield backstage
    backstage.close()


@pytest.fixture
def relay(lab):
    """Relays on the router; none may have crashed."""
    if not MPROXY.exists():
        pytest.fail("run `make` first: bin/mproxy is not built")
    host = RelayHost(lab.router)
    yield host
    host.verify_health()


@pytest.fixture
def carrier_options():
    """Options of both proxies for the carriers between them; a test file or a test may have its own."""
    return []


# Files of tests of what a session promises: whatever its carriers are, over TCP and UDP; and of what carriers over TCP
# do, encrypted or not.
WHATEVER = "test_both_outlive", "test_deaths", "test_ssh", "test_streams", "test_telnet"
TCP = "test_carriers", "test_crowd", "test_figures", "test_long_path", "test_signals"
BY_KIND = {
    **{name: {"udp": [], "plaintext": ["--plaintext"]} for name in WHATEVER},
    **{name: {"tls": OVER_TCP, "plaintext": ["--plaintext"]} for name in TCP},
    **{name: {"tls": OVER_TCP, "udp": []} for name in ("test_bad_paths", "test_clocks", "test_fault_points")},
}


def pytest_generate_tests(metafunc):
    kinds = BY_KIND.get(metafunc.module.__name__.rpartition(".")[2])
    own = any("carrier_options" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if kinds is not None and not own and "carrier_options" in metafunc.fixturenames:
        metafunc.parametrize("carrier_options", kinds.values(), ids=kinds.keys())


@pytest.fixture
def bystander(pair):
    """A session with traffic that nothing may disturb; this is checked after the test."""
    def start(*sproxy_options):
        pair.echo()
        pair.start(sproxy=sproxy_options)
        started.append(Traffic([pair.app() for _ in range(3)]))
        started[0].goes_on()
    started = []
    yield start
    for traffic in started:
        traffic.goes_on(more=50_000)
        traffic.finish()
        session = pair.cproxy.event("connected")["session"]
        for proxy in (pair.sproxy, pair.cproxy):
            assert not [event for event in proxy.events("lost") if event["session"] == session]
