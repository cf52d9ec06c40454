"""mproxy up and down: what config.toml has entries for runs in the background, is found by name, and ends in order."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from asking import facts
from lab import until
from proxies import CPROXY_PORT, DAEMON_PORT, SPROXY_PORT
from relays import MPROXY
from traffic import read_exactly

CONFIG = f"""\
[cproxy.office]
arguments = "{CPROXY_PORT} {{server}} {SPROXY_PORT}"
eager = true
forward = ["5201:127.0.0.1:{DAEMON_PORT}"]
"""


def mproxy(host, *words, status=0):
    """(standard output, standard error) of a command that ends with that status."""
    done = subprocess.run(host.entering([MPROXY, *words]), env=host.environment(), capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == status, done
    return done.stdout, done.stderr


def configure(host, text):
    file = host.home / ".config" / "mproxy" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def process_of(said):
    return int(re.search(r"process (\d+)", said)[1])


def is_running(pid):
    """Whether the process has not ended; nobody may have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def office(pair):
    """A host with an entry, and what it leads to."""
    pair.echo()
    pair.start_sproxy()
    configure(pair.lab.client, CONFIG.format(server=pair.lab.server_address))
    return pair.lab.client


def test_an_entry_serves_in_the_background(pair, office):
    """Goal: when `up` has ended it serves, both ports; status has its name; a second `up` changes nothing; `down`
    returns when it has ended."""
    said, wrong = mproxy(office, "up", "office")
    pid = process_of(said)
    assert not wrong and said == (f"office: running, process {pid}, cproxy; log:"
                                  f" {log_of(office, 'office')}\n")
    for port in (CPROXY_PORT, 5201):
        app = office.connect(port)
        app.sendall(b"hello")
        assert read_exactly(app, 5) == b"hello"
    found = facts(office, "office")
    assert (found["pid"], found["program"], found["name"]) == (pid, "cproxy", "office")
    assert mproxy(office, "up") == (f"office: running already, process {pid}\n", "")
    assert mproxy(office, "down") == (f"office: ended, process {pid}\n", "")
    assert not is_running(pid)
    assert pair.sproxy.event("ended")["why"] == "cproxy ended it: shutdown (cproxy ends)"
    assert mproxy(office, "down", "office") == ("office: not running\n", "")
    assert mproxy(office, "down") == ("", "")


def log_of(host, name):
    (place,) = (host.home / "state" / "mproxy" / "up").iterdir()
    return place / name / "log"


def test_a_change_of_the_entry_is_told(office):
    pid = process_of(mproxy(office, "up")[0])
    file = configure(office, CONFIG.format(server="10.9.9.9"))
    assert mproxy(office, "up", "--config", file)[0] == (
        f"office: running already, process {pid}, with the entry as it was before; to apply the change: mproxy down"
        " office && mproxy up office\n")
    file.unlink()
    assert mproxy(office, "down")[0] == f"office: ended, process {pid}\n"


def test_several_at_once_start_one(office):
    racing = [office.start(MPROXY, "up", "office") for _ in range(4)]
    for each in racing:
        assert each.wait() == 0, str(each)
    assert len({process_of(each.out.text) for each in racing}) == 1
    assert sum("already" in each.out.text for each in racing) == 3


def test_one_that_was_killed_is_started_again(office):
    pid = process_of(mproxy(office, "up")[0])
    for process in Path("/proc").glob("[0-9]*"):
        try:
            session = process.joinpath("stat").read_text().rpartition(")")[2].split()[3]
        except OSError:
            continue
        if int(session) == pid:
            os.kill(int(process.name), signal.SIGKILL)
    until(lambda: not is_running(pid), 10, "its end")
    assert mproxy(office, "down", "office") == ("office: not running\n", "")
    said, _ = mproxy(office, "up")
    assert said.startswith("office: running, process") and process_of(said) != pid


def test_all_four_programs(lab):
    """Goal: each of them serves when `up` says so, and what fails is told in one line with its reason, beside what does
    not."""
    host = lab.client
    (host.home / "in").mkdir()
    configure(host, f"""\
[sproxy.shell]
arguments = "6200"
[relay.web]
arguments = "127.0.0.1:8080 127.0.0.1 80"
[relay.taken]
arguments = "127.0.0.1:8081 127.0.0.1 80"
[recv.inbox]
arguments = 7000
open = true
output = "{host.home}/in/"
[sproxy.busy]
arguments = "6201"
""")
    listeners = [host.listen(port) for port in (80, 8081, 6201)]
    said, wrong = mproxy(host, "up", status=1)
    assert [line.split(",")[0] for line in said.splitlines()] == [
        "shell: running", "web: running", "inbox: running"]
    taken, busy = wrong.splitlines()
    assert taken.startswith("mproxy up: taken: cannot start relay: ") and "cannot listen on tcp 127.0.0.1:8081" in taken
    assert busy.startswith("mproxy up: busy: cannot start sproxy: ") and "0.0.0.0:6201: the port is in use" in busy
    for name, program in (("shell", "sproxy"), ("web", "relay"), ("inbox", "recv")):
        assert facts(host, name)["program"] == program
    host.connect(8080).close()
    assert mproxy(host, "up", "web", "shell")[0].count("already") == 2
    said, wrong = mproxy(host, "down")
    assert sorted(line.split(",")[0] for line in said.splitlines() if "not running" not in line) == [
        "inbox: ended", "shell: ended", "web: ended"]
    del listeners


def test_what_is_wrong_is_said_before_anything_starts(office):
    file = configure(office, CONFIG.format(server="10.9.9.9") + "heartbeat = '5ms'\nport = 3\n[x.y]\n")
    expected = [f"{file}:{line}: " for line in (5, 6, 7)]
    for words in (["up", "office"], ["up"], ["config", "check"], ["config", "show"]):
        said, wrong = mproxy(office, *words, status=2)
        assert not said
        program = f"mproxy {words[0]}"
        for line, begins in zip(wrong.splitlines(), expected, strict=True):
            assert line.startswith(f"{program}: {begins}")
    assert mproxy(office, "down", "office")[0] == "office: not running\n"


def test_files_and_names_that_are_not_there(office):
    (office.home / ".config" / "mproxy" / "config.toml").rename(office.home / "mine.toml")
    for words in (["up"], ["config", "check"]):
        _, wrong = mproxy(office, *words, status=2)
        assert "'mproxy config example' shows what goes there" in wrong and wrong.count("\n") == 1
    assert "no entry is called offic; there are office\n" in mproxy(
        office, "up", "--config", office.home / "mine.toml", "offic", status=2)[1]
    assert mproxy(office, "down", "offic", status=1)[1] == (
        "mproxy down: offic: nothing with this name is running, and no entry has it\n")


def test_config_shows_what_entries_become(office):
    assert mproxy(office, "config", "check")[0] == f"{office.home}/.config/mproxy/config.toml: 1 entry, all right\n"
    assert mproxy(office, "config", "show")[0] == (
        f"office: cproxy --name office --eager --forward 5201:127.0.0.1:{DAEMON_PORT}"
        f" {CPROXY_PORT} 10.3.0.2 {SPROXY_PORT}\n")
    configure(office, mproxy(office, "config", "example")[0])
    mproxy(office, "config", "check")


def test_without_systemd_a_service_is_one_clear_line(office):
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here")
    for words in (["install", "office"], ["install", "--system", "office"]):
        _, wrong = mproxy(office, "service", *words, "--config", office.home / ".config/mproxy/config.toml", status=1)
        assert wrong == ("mproxy service: systemd does not run here; 'mproxy up NAME' starts an entry, from cron's"
                         " @reboot or the init system in use\n")
    shown, _ = mproxy(office, "service", "show", "office")
    assert f"ExecStart={MPROXY} cproxy --survive --name office --eager" in shown
