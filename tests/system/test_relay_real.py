"""mproxy relay before real servers: two web servers with curl, a name server with dig; in user space and kernel."""

import pytest
from lab import until
from relays import RELAY, RELAY6, SERVER, SERVER6

MODES = pytest.mark.parametrize("mode", [(), ("--kernel",)], ids=["user", "kernel"])

NGINX = """\
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{ listen 0.0.0.0:{port}; listen [::]:{port}; root {directory}/www; }}
}}
"""


def start_nginx(host, name, port):
    """A web server of its own whose pages say `name`."""
    directory = host.home / name
    (directory / "www").mkdir(parents=True)
    (directory / "www/index.html").write_text(f"this is {name}\n")
    (directory / "www/large").write_bytes(bytes(range(256)) * (1 << 16))
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, port=port))
    if (directory / "www").stat().st_uid == 0:
        for path in (host.home.parent, host.home, directory, directory / "www"):
            path.chmod(0o755)
    return host.start("nginx", "-p", directory, "-c", directory / "nginx.conf", "-g",
                      "" if host.home.stat().st_uid else "user root;")


def curl(host, url, *options):
    return host.run("curl", "-sS", "--max-time", "20", *options, url, check=False)


@pytest.fixture
def web(lab):
    """Two web servers on the server host."""
    for name, port in (("alpha", 8005), ("beta", 8006)):
        start_nginx(lab.server, name, port)
        until(lambda port=port: "this is" in curl(lab.server, f"http://127.0.0.1:{port}/"), 20, "a web server")


@MODES
def test_two_web_servers(lab, relay, web, mode):
    """Goal: with two rules and two nginx, each port shows its own server, intact, on IPv4 and IPv6, to clients on
    another host and on the relay's own."""
    relay.start(f"0.0.0.0:7005 -> {SERVER}:8005", f"0.0.0.0:7006 -> {SERVER}:8006", f"[::]:7005 -> [{SERVER6}]:8005",
                options=mode)
    assert curl(lab.client, f"http://{RELAY}:7005/") == "this is alpha\n"
    assert curl(lab.client, f"http://{RELAY}:7006/") == "this is beta\n"
    assert curl(lab.client, f"http://[{RELAY6}]:7005/") == "this is alpha\n"
    for address in ("127.0.0.1", RELAY):
        assert curl(lab.router, f"http://{address}:7006/") == "this is beta\n"
    large = lab.client.home / "large"
    assert curl(lab.client, f"http://{RELAY}:7005/large", "-o", large) == ""
    assert large.read_bytes() == bytes(range(256)) * (1 << 16)
    facts = relay.status()
    first = facts["rules"][0]["counters"]
    assert first["total"] == 2
    assert first["bytes_out"] >= 1 << 24
    assert facts["mode"] == ("kernel" if mode else "user")


@MODES
def test_many_requests_at_once(lab, relay, web, mode):
    """Goal: forty downloads at the same time, each whole."""
    relay.start(f"7005 -> {SERVER}:8005", options=mode)
    urls = [word for _ in range(40) for word in ("-o", "/dev/null", f"http://{RELAY}:7005/large")]
    text = lab.client.run("curl", "-sS", "--no-progress-meter", "--max-time", "60", "--parallel", "--parallel-max",
                          "40", "-w", "size %{size_download}\n", *urls)
    assert text.count(f"size {1 << 24}\n") == 40


@MODES
def test_name_server(lab, relay, mode):
    """Goal: DNS works through UDP and TCP rules: answers reach the client that asked, from the address that it asked,
    also in parallel and on a wildcard listener."""
    lab.server.start("dnsmasq", "--keep-in-foreground", "--no-hosts", "--no-resolv", "--conf-file=/dev/null",
                     "--user=root", "--group=", "--pid-file=", "--address=/a.example/192.0.2.1",
                     "--address=/b.example/192.0.2.2",
                     "--txt-record=large.example," + ",".join(["x" * 200] * 10))
    until(lambda: "192.0.2.1" in lab.server.run("dig", "+short", "+tries=1", "+timeout=1", "@127.0.0.1", "a.example",
                                                check=False), 20, "the name server")
    relay.start(f"tcp+udp 53 -> {SERVER}:53", options=mode)

    def dig(host, address, *words):
        return host.run("dig", "+short", "+tries=3", "+timeout=5", f"@{address}", *words, check=False).strip()
    for host, address in ((lab.client, RELAY), (lab.client, "10.3.0.1"), (lab.router, "127.0.0.1")):
        assert dig(host, address, "a.example") == "192.0.2.1"
        assert dig(host, address, "b.example", "+tcp") == "192.0.2.2"
    assert len(dig(lab.client, RELAY, "large.example", "TXT", "+bufsize=4096").split()) == 10
    names = [word for _ in range(50) for word in ("a.example", "b.example")]
    assert dig(lab.client, RELAY, *names).split() == ["192.0.2.1", "192.0.2.2"] * 50
    udp = relay.status()["rules"][1]["counters"]
    assert udp["packets_out"] >= 50
    assert udp["sessions"] >= 1
