"""How every program starts and ends: Ctrl-C while it starts, output that cannot be written, our own bugs."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from lab import outage, until
from proxies import CPROXY, SPROXY
from relays import MPROXY

PROGRAMS = {
    "cproxy": [CPROXY], "sproxy": [SPROXY], "mproxy": [MPROXY],
    **{word: [MPROXY, word] for word in ("relay", "send", "recv", "impair", "keygen", "authorize", "demo",
                                         "message-server", "message-client")},
}
RUNNING = {
    "cproxy": [CPROXY, "0", "127.0.0.1", "1"],
    "sproxy": [SPROXY, "0"],
    "relay": [MPROXY, "relay", "0", "127.0.0.1", "1"],
    "message-server": [MPROXY, "message-server", "0"],
}


def run(*command, stdout=subprocess.PIPE, cwd=None):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True,
                          timeout=60, check=False, cwd=cwd)


@pytest.mark.parametrize("name", RUNNING)
def test_interrupted_before_it_is_up(name, tmp_path):
    """Goal: Ctrl-C at any moment of the start ends the program without a traceback."""
    for moment_ms in range(0, 80, 5):
        program = subprocess.Popen(RUNNING[name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
        outage(moment_ms / 1000)
        program.send_signal(signal.SIGINT)
        said, _ = program.communicate(timeout=30)
        assert "Traceback" not in said and "KeyboardInterrupt" not in said, f"after {moment_ms} ms: {said}"


@pytest.mark.parametrize("name", ["cproxy", "sproxy"])
def test_processes_have_the_name_of_the_program(name, tmp_path):
    """Goal: `pkill cproxy` finds it."""
    program = subprocess.Popen([*RUNNING[name], "--state-dir", tmp_path], stderr=subprocess.PIPE, text=True)
    comm = Path("/proc", str(program.pid), "comm")
    try:
        until(lambda: comm.read_text().strip() == name, 30, f"a process by the name of {name}")
    finally:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_that_cannot_be_written(name):
    """Goal: --help to a full disk gives one line and a non-zero status; a reader that has gone is not an error."""
    with open("/dev/full", "w") as full:
        done = run(*PROGRAMS[name], "--help", stdout=full)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot write to standard output: No space left on device" in done.stderr


def test_an_answer_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = run(MPROXY, "status", stdout=full)
    assert (done.returncode, done.stderr) == (1, "mproxy status: No space left on device\n")


def test_help_for_a_reader_that_has_gone():
    done = run("sh", "-c", '"$0" --help | true', CPROXY)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_of_ours_is_one_line():
    """Goal: an unexpected exception gives one line that asks for a report and says what to add to it."""
    broken = textwrap.dedent("""\
        import sys
        from mproxy.programs import keygen, start
        keygen.main = lambda argv: 1 // 0
        sys.argv[1:] = ["keygen"]
        sys.exit(start.mproxy())
        """)
    done = run(sys.executable, "-c", broken)
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mproxy: internal error: ZeroDivisionError: ") and "MPROXY_TRACEBACK=1" in done.stderr
    assert "Traceback" in run("env", "MPROXY_TRACEBACK=1", sys.executable, "-c", broken).stderr


def test_no_relay_to_talk_to(tmp_path):
    """Goal: stop, reload and status without a relay give one line, and the same status however it was looked for."""
    for word in ("stop", "reload", "status"):
        for how in ([], ["--pidfile", tmp_path / "none"]):
            done = run("env", f"XDG_RUNTIME_DIR={tmp_path}", MPROXY, "relay", word, *how)
            assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
