"""What `mproxy ssh`, `connect` and `setup-ssh` make of their words, and what is remembered of a host."""

import socket
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.ground.errors import UsageError
from mproxy.ground.words import percent_encoded
from mproxy.policy.announcement import announce, find_announcement, is_announcement
from mproxy.policy.host_record import HostRecord
from mproxy.programs import attach
from mproxy.programs import start as launch
from mproxy.programs.connect import parse, parse_destination, split_plain
from mproxy.programs.connect import split as split_connect
from mproxy.programs.setup_ssh import change
from mproxy.programs.ssh import compose, split

ROOT = Path(__file__).resolve().parents[2]
KEY = "SHA256:" + "k" * 43


# --- ssh's command line

@pytest.mark.parametrize(("words", "parts"), [
    (["host"], [(["host"], False)]),
    (["-v", "ann@host", "make", "-j"], [(["-v"], True), (["ann@host"], False), (["make", "-j"], False)]),
    (["-p22", "-Tp", "2222", "host"],
     [(["-p", "22"], True), (["-T"], True), (["-p", "2222"], True), (["host"], False)]),
    (["host", "-l", "ann", "ls", "-l"], [(["host"], False), (["-l", "ann"], True), (["ls", "-l"], False)]),
    (["host", "--", "-x"], [(["host"], False), (["--", "-x"], False)]),
    (["--", "host", "-x"], [(["--", "host"], False), (["-x"], False)]),
    (["-p"], [(["-p"], True)]),
    ([], [])])
def test_ssh_s_words_are_understood(words, parts):
    assert split(words) == parts


@pytest.mark.parametrize(("words", "shared", "kept"), [
    (["server"], None, ["server"]),
    (["-A", "-L", "1:a:2", "server", "ls"], None, ["-A", "-L", "1:a:2", "server", "ls"]),
    (["-i", "my key", "-4", "server"], "'ssh -i '\"'\"'my key'\"'\"' -4'", ["-i", "my key", "-4", "server"]),
    (["-J", "gate", "server"], "'ssh -J gate'", ["server"]),
    (["-oProxyJump=gate", "server"], "'ssh -o ProxyJump=gate'", ["server"]),
    (["-o", "ControlMaster auto", "-o", "Port=1", "server"], "'ssh -o Port=1'",
     ["-o", "ControlMaster auto", "-o", "Port=1", "server"]),
    (["-F", "%d/config", "server"], "'ssh -F %%d/config'", ["-F", "%d/config", "server"])])
def test_what_concerns_the_way_is_shared(words, shared, kept):
    option = f" --ssh {shared}" if shared else ""
    assert compose(words, ["mproxy"]) == ["ssh", "-o", f"ProxyCommand=mproxy connect{option} %r@%h:%p %n", *kept]


def test_ssh_is_not_kept_waiting():
    """Goal: what runs only to run ssh imports nothing of a session."""
    script = "import sys, mproxy.programs.ssh; print(*(name for name in sys.modules if name.startswith('mproxy.')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert set(loaded.stdout.split()) == {"mproxy.programs", "mproxy.programs.own_command", "mproxy.programs.ssh"}


def test_most_connects_need_no_parser():
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from mproxy.programs.connect import parse;"
              " parse(['--ssh', 'ssh -F x', 'ann@host:22', 'host']); import mproxy.policy.host_dialer;"
              " print({'argparse', 'urllib.parse'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "set()\n"


@given(st.text(), st.sampled_from(["", "/@:+,"]))
def test_names_of_files_are_those_of_url_s(text, safe):
    assert percent_encoded(text, safe) == urllib.parse.quote(text, safe)


@pytest.mark.parametrize("words", [["ann@host:22"], ["ann@host:22", "name"], ["--ssh", "ssh -F x", "host", "name"]])
def test_that_makes_no_difference(words):
    assert split_plain(words) is not None
    assert split_connect(words) == split_plain(words)


@pytest.mark.parametrize("words", [
    [], ["a", "b", "c"], ["--ssh"], ["--ssh", "", "host"], ["--ssh", "ssh -i 'x y'", "host"], ["host", "--ssh", "ssh"],
    ["--", "host"]])
def test_other_words_are_for_the_parser(words):
    assert split_plain(words) is None


@pytest.mark.parametrize(("text", "parts"), [
    ("server", ("", "server", 22)), ("ann@server:2222", ("ann", "server", 2222)), ("a@x@host", ("a@x", "host", 22)),
    ("ann@fe80::1:22", ("ann", "fe80::1", 22)), ("[::1]", ("", "::1", 22)), ("ann@[::1]:2222", ("ann", "::1", 2222))])
def test_destinations(text, parts):
    assert parse_destination(text) == parts


def test_connect_is_a_cproxy_with_two_ways():
    config = parse(["--ssh", "ssh -J gate", "ann@10.0.0.1:2222", "work"])
    assert config.stdio and config.via_terminal and config.hushed
    assert (config.direct, config.name) == ("10.0.0.1", "ann@10.0.0.1:2222")
    assert config.via.startswith("export MPROXY_BOOTSTRAP=1; exec ssh -J gate -T -a -x ")
    assert "Proxy" not in config.via
    assert " -p 2222 -l ann -- work " in config.via and "sproxy --attach --start" in config.via
    assert not parse(["--log-level", "warning", "server"]).hushed
    with pytest.raises(UsageError, match="hyphen"):
        parse(["--ssh", "ssh", "server", "--", "-oProxyCommand=x"])
    with pytest.raises(UsageError, match="missing argument: HOST"):
        parse([])


# --- what sproxy says

def test_an_announcement_is_found_behind_a_message_of_the_day():
    line = announce([6200], KEY)
    found = find_announcement(b"Welcome!\r\nmproxy-attached\n" + line)
    assert (found.ports, found.key) == ((6200,), KEY)
    assert find_announcement(announce([], "")).ports == ()
    assert is_announcement(line.decode().strip())


@pytest.mark.parametrize("text", [
    b"", b"mproxy-attached ports=1 key=SHA256:short\n", b"x mproxy-attached ports=1 key=\n",
    b"mproxy-attached ports=6200 key=" + KEY.encode()])
def test_nothing_else_is_an_announcement(text):
    assert find_announcement(text) is None


# --- what is remembered

def test_a_record_is_kept(tmp_path):
    record = HostRecord(str(tmp_path), "ann@server:22")
    assert (record.port, record.key, record.is_shut) == (0, "", False)
    record.learn(6200, KEY)
    record.note(is_shut=True)
    again = HostRecord(str(tmp_path), "ann@server:22")
    assert (again.port, again.key, again.is_shut) == (6200, KEY, True)
    again.learn(6200, KEY)
    assert again.is_shut
    again.learn(6201, KEY)
    assert not HostRecord(str(tmp_path), "ann@server:22").is_shut
    assert HostRecord(str(tmp_path), "bob@server:22").port == 0


@pytest.mark.parametrize("text", ["", "x", "6200 SHA256:x open", f"99999 {KEY} open", f"0 {KEY} open"])
def test_a_damaged_record_is_no_record(tmp_path, text):
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "server").write_text(text)
    assert HostRecord(str(tmp_path), "server").port == 0


# --- ~/.ssh/config

BLOCK = """\
# mproxy setup-ssh: begin
Match originalhost {} !exec "printenv MPROXY_BOOTSTRAP"
    ProxyCommand mproxy connect %r@%h:%p %n
Match all
# mproxy setup-ssh: end
"""


def test_hosts_are_put_first_and_taken_out():
    text = "ForwardAgent yes\nHost gate\n  User ann\n"
    one = change(text, ["server"], ["mproxy"], undo=False)
    assert one == BLOCK.format("server") + "\n" + text
    two = change(one, ["*.work", "server"], ["mproxy"], undo=False)
    assert two == BLOCK.format("server,*.work") + "\n" + text
    assert change(two, ["server"], ["mproxy"], undo=True) == BLOCK.format("*.work") + "\n" + text
    assert change(two, [], ["mproxy"], undo=True) == text
    assert change(two, ["*.work", "server"], ["mproxy"], undo=True) == text


def test_a_block_that_an_earlier_version_wrote_is_known():
    old = BLOCK.replace('Match originalhost {} !exec "printenv MPROXY_BOOTSTRAP"', "Host a *.b")
    assert change(old + "\nUser ann\n", ["c"], ["mproxy"], undo=False) == BLOCK.format("a,*.b,c") + "\nUser ann\n"


def test_a_file_that_was_not_there():
    one = change("", ["server"], ["mproxy"], undo=False)
    assert one == BLOCK.format("server")
    assert change(one, [], ["mproxy"], undo=True) == ""
    assert change("User ann\n", [], ["mproxy"], undo=True) == "User ann\n"


# --- sproxy --attach --start, for which ssh waits

def test_a_pipe_needs_next_to_nothing():
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from mproxy.programs import attach, started;"
              " attach._parse_start(['--attach', '--start']); print({'argparse', 'hashlib', 'json', 'threading',"
              " 'mproxy._session', 'mproxy.carrier._tls', 'mproxy.programs.sproxy'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("words", "module"), [
    (["--attach", "--start"], "attach"), (["--attach", "6200"], "attach"), (["6200", "127.0.0.1:22"], "sproxy")])
def test_sproxy_is_loaded_where_it_serves(monkeypatch, words, module):
    asked = []
    monkeypatch.setattr(sys, "argv", ["sproxy", *words])
    monkeypatch.setattr(launch, "run", asked.append)
    launch.sproxy()
    assert asked == [module] and launch.called(module) == "sproxy"


@pytest.mark.parametrize(("words", "daemon"), [
    (["--attach", "--start"], None), (["--start", "--attach"], None),
    (["--attach", "--start", "[::1]:22"], ("::1", 22))])
def test_daemons_of_a_pipe(words, daemon):
    assert attach._parse_start(words) == daemon


def test_the_answer_of_sproxy_ends_where_cproxy_s_words_begin(tmp_path):
    """It may come in any pieces, and what is behind it is not ours."""
    path = tmp_path / "sproxy-1.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            with listener.accept()[0] as served:
                served.recv(100)
                for piece in (b'{"ok": tr', b'ue, "ports": [1]}\nfor cproxy'):
                    served.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        connection, facts = attach.connect(str(path))
        thread.join(10)
        with connection:
            assert facts == {"ok": True, "ports": [1]}
            assert connection.recv(100) == b"for cproxy"
