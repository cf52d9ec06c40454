"""cproxy --proxy: carriers through HTTP and SOCKS proxies, ours and those that people run."""

import sys
from pathlib import Path

import pytest
from doctoring import Doctor
from lab import until
from proxies import SPROXY_PORT
from traffic import Traffic, read_exactly

from mproxy.ground.words import format_proxy, parse_proxy
from tests.root import real_root

PROXY = Path(__file__).with_name("proxy_server.py")
PORT = 3128

SQUID = """
http_port {port}
acl all_connects method CONNECT
http_access allow all_connects
visible_hostname router
access_log none
cache_log /dev/null
pid_filename none
netdb_filename none
cache deny all
shutdown_lifetime 0 seconds
pinger_enable off
"""


@pytest.fixture
def proxy(pair):
    """Starts the small proxy on the router; the server's sproxy runs, beside an echo daemon."""
    pair.echo()
    pair.start_sproxy()

    def start(*login):
        program = pair.lab.router.start(sys.executable, "-S", PROXY, PORT, *login)
        program.expect("^ready$")
        return program
    return start


def echoed(pair, *options, server=None):
    pair.start_cproxy(*options, server=server)
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    return app


def url(pair, scheme, login=""):
    return f"{scheme}://{login}{pair.lab.wifi.address(1)}:{PORT}"


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_traffic_through_a_proxy_that_restarts(pair, proxy, scheme):
    """Goal: the proxy is asked for sproxy by the name given here, and its death costs nothing."""
    pair.lab.router.knows(behind=pair.lab.server_address)
    between = proxy()
    pair.start_cproxy("--proxy", url(pair, scheme), "--heartbeat", "100ms", server="behind")
    going = Traffic([pair.app() for _ in range(3)])
    going.goes_on(more=100_000)
    between.expect(f"^{scheme} behind:{SPROXY_PORT}$")
    between.close()
    pair.cproxy.event("lost")
    proxy()
    pair.cproxy.event("resumed")
    going.goes_on(more=100_000)
    going.finish()


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_with_a_password(pair, proxy, scheme):
    proxy("ann:s:cret")
    echoed(pair, "--proxy", url(pair, scheme, "ann:s%3Acret@"))


@pytest.mark.parametrize(("scheme", "login", "text"), [
    ("http", "", "the HTTP proxy wants a user and a password (407)"),
    ("http", "ann:wrong@", "the HTTP proxy does not accept this user and password (407)"),
    ("socks5h", "", "the SOCKS proxy wants a user and a password"),
    ("socks5h", "ann:wrong@", "the SOCKS proxy does not accept this user and password")])
def test_a_proxy_that_refuses_is_quoted(pair, proxy, scheme, login, text):
    """Goal: in one line, and the application is reset as by a refused connection."""
    proxy("ann:secret")
    pair.start_cproxy("--proxy", url(pair, scheme, login))
    assert pair.app_is_reset()
    assert pair.cproxy.event("dial-failed")["why"].startswith(text)
    assert "wrong" not in pair.cproxy.log.text


@pytest.mark.parametrize(("scheme", "text"), [
    ("http", "the HTTP proxy refuses the connection: 502 Bad Gateway"),
    ("socks5h", "the SOCKS proxy refuses the connection: the connection was refused")])
def test_an_sproxy_that_the_proxy_cannot_reach(pair, proxy, scheme, text):
    proxy()
    pair.start_cproxy("--proxy", url(pair, scheme), server_port=6999)
    assert pair.app_is_reset()
    assert pair.cproxy.event("dial-failed")["why"] == text


@pytest.mark.skipif(not real_root(), reason="squid gives up its rights, which only the real root can")
def test_squid(pair):
    pair.echo()
    pair.start_sproxy()
    router = pair.lab.router
    config = router.home / "squid.conf"
    config.write_text(SQUID.format(port=PORT, home=router.home))
    squid = router.start("squid", "-N", "-f", config)
    until(lambda: listens(pair), 30, f"squid to listen: {squid}")
    echoed(pair, "--proxy", url(pair, "http"))


@pytest.mark.parametrize("login", ["", "ann:secret@"])
def test_microsocks(pair, login):
    """Goal: by a name that only the proxy looks up."""
    pair.echo()
    pair.start_sproxy()
    pair.lab.router.knows(behind=pair.lab.server_address)
    user = ["-u", "ann", "-P", "secret"] if login else []
    microsocks = pair.lab.router.start("microsocks", "-i", "0.0.0.0", "-p", PORT, *user)
    until(lambda: listens(pair), 10, f"microsocks to listen: {microsocks}")
    echoed(pair, "--proxy", url(pair, "socks5h", login), server="behind")


def listens(pair):
    try:
        pair.lab.client.connect(PORT, pair.lab.wifi.address(1), timeout=2).close()
    except OSError:
        return False
    return True


# --- mproxy doctor --proxy

@pytest.fixture
def doctor(lab):
    return Doctor(lab)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_the_doctor_goes_through_the_proxy(pair, proxy, doctor, scheme):
    """Goal: every step, sproxy by the name that only the proxy knows, and a session."""
    pair.lab.router.knows(behind=pair.lab.server_address)
    proxy("ann:s:cret")
    pair.lab.client.ip("route flush default")
    between = url(pair, scheme, "ann:s%3Acret@")
    verdict = doctor("--session", "--proxy", between, host="behind", status=0, patience="10s")
    assert verdict.checks == {"name", "route", "connect", "proxy", "answer", "trust", "key", "path", "size", "session",
                              "daemon"}
    assert "10.3.0.2" not in verdict.of("name")["text"]
    assert f"behind:{SPROXY_PORT}" in verdict.of("proxy")["text"]
    assert "to the proxy" in verdict.of("path")["text"] and "to the proxy" in verdict.of("size")["text"]


@pytest.mark.parametrize(("scheme", "login", "text", "advice"), [
    ("http", "", "wants a user and a password (407)", "USER:PASSWORD@"),
    ("socks5h", "ann:wrong@", "does not accept this user and password", "USER:PASSWORD@")])
def test_the_doctor_quotes_a_proxy_that_refuses(pair, proxy, doctor, scheme, login, text, advice):
    proxy("ann:secret")
    verdict = doctor("--proxy", url(pair, scheme, login))
    assert verdict.faults == ["proxy"]
    assert text in verdict.of("proxy")["text"] and advice in verdict.of("proxy")["advice"]


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_the_doctor_finds_that_the_proxy_cannot_reach_sproxy(pair, proxy, doctor, scheme):
    proxy()
    pair.sproxy.stop()
    verdict = doctor("--proxy", url(pair, scheme))
    assert verdict.faults == ["proxy"] and "is sproxy running" in verdict.of("proxy")["advice"]


def test_the_doctor_finds_that_there_is_no_proxy(pair, doctor):
    """Goal: nothing listens there; something listens, but it is an sproxy."""
    pair.start_sproxy()
    connect = doctor("--proxy", url(pair, "http")).of("connect")
    assert "no proxy listens" in connect["text"] and "--proxy" in connect["advice"]
    place = f"{pair.lab.server_address}:{SPROXY_PORT}"
    for scheme in ("http", "socks5h"):
        verdict = doctor("--proxy", f"{scheme}://{place}")
        assert verdict.faults == ["proxy"] and "http://HOST:PORT" in verdict.of("proxy")["advice"]


@pytest.mark.parametrize("text", ["http://proxy:3128", "socks5h://a%40b:p%3A%2F@[fd00::1]:1080", "http://ann:@proxy:1"])
def test_a_proxy_is_written_as_it_was_given(text):
    assert format_proxy(parse_proxy(text)) == text
