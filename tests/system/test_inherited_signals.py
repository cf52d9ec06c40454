"""What whoever starts a program has done to signals: those of a terminal, if ignored, are not for us (nohup, `&` in a
script); whatever else is ignored or blocked would break us, and is put right."""

import os
import signal
import subprocess
import sys

import pytest
from lab import until
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from relays import MPROXY

OF_TERMINALS = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}
USUAL = ("env", "--default-signal")  # however the tests were started
IN_BACKGROUND = ("env", "--ignore-signal=HUP,INT,QUIT,PIPE,CHLD,TTOU,USR1,USR2", "--block-signal")

RUNNING = {
    "sproxy": (SPROXY, "--closed", SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}"),
    "sproxy, several workers": (SPROXY, "--closed", "--workers", "2", SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}"),
    "cproxy": (CPROXY, "--via", "sleep 60", CPROXY_PORT),
    "relay": (MPROXY, "relay", CPROXY_PORT, "127.0.0.1", DAEMON_PORT),
    "recv": (MPROXY, "recv", "--open", SPROXY_PORT, "-o", "in/"),
    "impair": (MPROXY, "impair", CPROXY_PORT, "127.0.0.1", SPROXY_PORT),
    "metrics": (MPROXY, "metrics", "--listen", f"127.0.0.1:{CPROXY_PORT}"),
    "web": (MPROXY, "web", "--listen", f"127.0.0.1:{CPROXY_PORT}"),
}
READY = {"metrics": "serving http", "web": "token="}

# Writes which signals are ignored and blocked where it is run.
TELL = "grep -E '^Sig(Ign|Blk)' /proc/self/status > told.new && mv told.new told"


def told(path):
    """(ignored, blocked) as TELL has written them, of those with names."""
    found = dict(line.split(":\t") for line in path.read_text().splitlines())
    return tuple({number for number in signal.Signals if number < 32 and int(found[field], 16) >> (number - 1) & 1}
                 for field in ("SigIgn", "SigBlk"))


@pytest.mark.parametrize("name", RUNNING)
def test_in_the_background_of_a_script(lab, name):
    """Goal: Ctrl-C, which reaches the whole group, is not for it; SIGTERM ends it in order, also if it was blocked."""
    host = lab.client
    program = host.start(*IN_BACKGROUND, *RUNNING[name])
    if name in READY:
        program.expect(READY[name], output=program.log if name == "metrics" else program.out)
    else:
        program.event("ready" if name == "relay" else "listening")
    os.killpg(program.pid, signal.SIGINT)
    host.run(MPROXY, "status", check=False)  # as long as that takes
    assert program.running, str(program)
    assert not program.events("stopping")
    assert program.stop() == 0, str(program)


@pytest.mark.parametrize("in_background", [False, True], ids=["usual", "background"])
@pytest.mark.parametrize("who", ["cproxy --via", "connect", "ssh", "ssh by Python"])
def test_what_programs_start_for_themselves(lab, who, in_background):
    """Goal: a command of --via, and ssh, know as much of the terminal as we do, and nothing of what Python and we do to
    signals for ourselves; whatever the caller does, they can wait for children and be ended."""
    home = lab.client.home
    ssh = home / "ssh"
    ssh.write_text(f"#!/bin/sh\ncd {home}\n{TELL}\nexec sleep 60\n")
    ssh.chmod(0o755)
    command = {
        "cproxy --via": (CPROXY, "--eager", "--via", TELL, CPROXY_PORT),
        "connect": (MPROXY, "connect", "ann@server:22", "server"),
        "ssh": (MPROXY, "ssh", "server"),
        "ssh by Python": (sys.executable, "-m", "mproxy", "ssh", "server"),
    }[who]
    lab.client.start(*(IN_BACKGROUND if in_background else USUAL), *command, stdin=subprocess.PIPE, env={
        "PATH": f"{home}:{os.environ['PATH']}", "PYTHONPATH": str(MPROXY.parent.parent)})
    until((home / "told").exists, 30, "the command has told")
    ignored, blocked = told(home / "told")
    assert not blocked
    if who.startswith("ssh"):  # what else the caller has ignored is as it would be of any ssh
        ignored &= {*OF_TERMINALS, signal.SIGCHLD} if in_background else ignored
    assert ignored == (OF_TERMINALS if in_background else set())
