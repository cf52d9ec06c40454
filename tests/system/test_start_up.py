"""What cannot work is reported in one line, with an exit status; what may work later is reported and tried again."""

import re
import socket
import subprocess

import pytest
from lab import outage
from proxies import CPROXY, CPROXY_PORT, PYTHON, SPROXY, SPROXY_PORT
from traffic import Traffic, read_exactly


def fails(program, name, status=2):
    """The one line in which a program says why it did not start."""
    assert program.wait() == status, str(program)
    assert program.out.text == ""
    lines = [line for _, line in program.log.lines]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{name}: ")
    return lines[0]


@pytest.mark.parametrize("name", ["cproxy", "sproxy"])
def test_port_in_use(pair, lab, name):
    """Goal: a second program on the same port ends and names the port."""
    pair.start()
    second = (lab.client.start(CPROXY, CPROXY_PORT, "server", 1) if name == "cproxy" else
              lab.server.start(SPROXY, SPROXY_PORT))
    line = fails(second, name, status=1)
    assert str(CPROXY_PORT if name == "cproxy" else SPROXY_PORT) in line
    assert "in use" in line


@pytest.mark.parametrize("command", [[CPROXY, 23, "server", 6200], [SPROXY, 23]], ids=["cproxy", "sproxy"])
def test_privileged_port_as_unprivileged_user(lab, command):
    """Goal: port 23 without permission gives one line, no traceback."""
    program = lab.client.start("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service", *command)
    assert re.search(r"23.*need root", fails(program, command[0].name, status=1), re.IGNORECASE)


@pytest.mark.parametrize("command", [[CPROXY, "--bind", "192.0.2.1", 5200, "server", 6200],
                                     [SPROXY, "--bind", "192.0.2.1", 6200]], ids=["cproxy", "sproxy"])
def test_address_of_another_host(lab, command):
    """Goal: --bind with an address that this host does not have gives one line."""
    assert "192.0.2.1" in fails(lab.client.start(*command), command[0].name, status=1)


@pytest.mark.parametrize(("command", "words"), [
    ([SPROXY, "--bind", "some.name", 6200], "some.name"),
    ([CPROXY, 5200, "server"], "PORT"),
    ([CPROXY, 5200, "server", "port"], "port"),
    ([SPROXY, "--heartbeat", "soon", 6200], "soon"),
    ([SPROXY, "--nonsense", 6200], "--nonsense"),
    ([CPROXY, "--stdio", 5200, "server", 6200], "--stdio"),
    ([SPROXY], "PORT"),
], ids=lambda value: value if isinstance(value, str) else value[0].name)
def test_wrong_command_line(lab, command, words):
    """Goal: one line that names what is wrong."""
    assert words in fails(lab.client.start(*command), command[0].name)


def no_address(lab):
    lab.wifi.pull()
    return lab.server_address


def unknown_name(lab):
    return "nowhere.example"


def refusing(lab):
    return lab.server_address


def swallowing(lab):
    lab.wifi.cut()
    return lab.server_address


WHYS = {no_address: "unreachable", unknown_name: "nowhere.example", refusing: "refused", swallowing: "no answer"}


@pytest.mark.parametrize("trouble", WHYS, ids=lambda function: function.__name__)
def test_server_that_cannot_be_reached_yet(pair, lab, trouble):
    """Goal: cproxy says why; without a session the application is reset, as if its connect had failed. The next one is
    served when the trouble is over."""
    pair.echo()
    pair.start_cproxy("--connect-timeout", "1s", server=trouble(lab))
    assert pair.app_is_reset()
    assert WHYS[trouble] in pair.cproxy.event("dial-failed")["why"].lower()
    pair.start_sproxy()
    if trouble is no_address:
        lab.wifi.give(2)
    elif trouble is unknown_name:
        lab.client.knows(**{"nowhere.example": lab.server_address})
    elif trouble is swallowing:
        lab.wifi.mend()
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    assert len(pair.cproxy.events("dial-failed")) < 5


def test_eager_keeps_trying(pair):
    """Goal: with --eager the next attempt does not need an application, and attempts do not fill the log."""
    pair.start_cproxy("--eager")
    assert pair.cproxy.event("dial-failed")["why"]
    outage(3)
    pair.start_sproxy()
    pair.cproxy.event("connected")
    assert len(pair.cproxy.events("dial-failed")) < 5


@pytest.mark.parametrize("trouble", WHYS, ids=lambda function: function.__name__)
def test_stdio_without_a_server(pair, lab, trouble):
    """Goal: if `cproxy --stdio` gets no session, it says why in one line and exits with a non-zero status."""
    server = trouble(lab)
    cproxy = pair.lab.client.start(CPROXY, "--stdio", "--connect-timeout", "1s", server, SPROXY_PORT,
                                   stdin=subprocess.PIPE)
    assert cproxy.wait() == 1
    assert len(cproxy.log.lines) == 1
    assert WHYS[trouble] in cproxy.event("dial-failed")["why"].lower()


@pytest.fixture
def silent_name_server(lab):
    """For names that are not in the client's /etc/hosts, a name server is asked that never answers."""
    (lab.client.home / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    resolv_conf = lab.client.home / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.9\noptions timeout:30 attempts:5\n")
    lab.client.run("mount", "--bind", resolv_conf, "/etc/resolv.conf")
    with lab.client.inside():
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.9", 53))
    with silent:
        yield silent


def test_name_service_that_hangs_stops_nobody(pair, lab, silent_name_server):
    """Goal: if the name server no longer answers when another path comes up, the session goes on on the old path
    meanwhile, and cproxy still ends on a signal."""
    lab.client.knows(server=lab.server_address)
    pair.echo()
    pair.start_sproxy()
    pair.start_cproxy("--carrier", "tcp", server="server")  # over UDP the carrier itself would go on on that path
    traffic = Traffic([pair.app()])
    traffic.goes_on()
    lab.client.knows()
    lab.phone.give(5, metric=50)
    silent_name_server.settimeout(10)
    assert silent_name_server.recv(512), "nobody asked the name server"
    for _ in range(20):
        traffic.goes_on(more=1000, within=5)
        outage(0.1)
    traffic.finish()
    assert not [event for event in pair.cproxy.events("lost") if event.level == "warning"]  # a planned change is none
    assert pair.cproxy.stop() == 0


def test_state_directory_that_cannot_be_made(lab):
    """Goal: if the directory for the instance id cannot be made, one line names it."""
    (lab.client.home / "file").write_text("")
    cproxy = lab.client.start(CPROXY, "--state-dir", lab.client.home / "file" / "below", CPROXY_PORT, "server", 1)
    assert "file/below" in fails(cproxy, "cproxy", status=1)


@pytest.mark.parametrize(("closing", "words"), [
    (">&-", "standard output is closed"), ("<&-", "standard input is closed"),
])
def test_stdio_with_a_closed_descriptor(lab, closing, words):
    """Goal: it refuses to start, before any connection is made, since data would be dropped silently."""
    commands = [[CPROXY, "--stdio"], [PYTHON, "-m", "mproxy.programs.main", "send", "-"]]
    if closing == ">&-":
        commands[1] = [PYTHON, "-m", "mproxy.programs.main", "recv", "--open", "-o", "-"]
    for command in commands:
        place = [6200] if "recv" in command else [lab.server_address, 6200]
        program = lab.client.start("sh", "-c", f'exec "$@" {closing}', "sh", *command, *place)
        assert program.wait() == 2, str(program)
        assert words in program.log.text and len(program.log.lines) == 1


@pytest.mark.parametrize("command", [[CPROXY, "--key", "mistyped", "0", "server", "6200"],
                                     [SPROXY, "--host-key", "mistyped", "0"]], ids=["cproxy", "sproxy"])
def test_named_key_must_be_there(lab, command):
    """Goal: a file name with a typo does not create another identity."""
    program = lab.client.start(*command)
    assert program.wait() == 2
    assert "mistyped: no such file" in program.log.text and len(program.log.lines) == 1
    assert not (lab.client.home / "mistyped").exists()


def test_stdio_is_quiet_on_a_healthy_path(pair, lab):
    """Goal: a ProxyCommand reports only trouble and its end, and nothing at the first contact."""
    pair.echo()
    pair.start_sproxy()
    program = pair.start_stdio("--heartbeat", "100ms", stdin=subprocess.PIPE)
    program.process.stdin.write(b"hello")
    program.process.stdin.flush()
    program.expect("hello")
    assert program.log.text == ""
    lab.wifi.pull()
    program.event("lost")
    lab.wifi.give(9)
    assert program.event("resumed").level == "warning"
    program.process.stdin.close()
    assert program.wait() == 0
    assert {event.name for event in program.events()} <= {"lost", "resumed", "dial-failed"}, str(program)
