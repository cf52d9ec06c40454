"""mproxy send and recv as processes: over bad networks, killed and resumed, with hostile names and full disks."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lab import as_nobody, until
from program import Program

from mproxy.transfer import tree
from tests.root import real_root

MPROXY_ROOT = Path(__file__).resolve().parents[2]
MPROXY = [sys.executable, "-m", "mproxy.programs.main"]
MANY = 90  # seconds; the machine may be busy


def content(seed, size):
    return random.Random(seed).randbytes(size)


def hash_of(data):
    """The root of the tree, computed from the whole."""
    count = tree.block_count(len(data))
    leaves = [tree.leaf(data[number << 20:(number + 1) << 20], number, number == count - 1)
              for number in range(count)]
    return tree.root(b"".join(leaves)).hex()


class Transfer:
    """Programs of one test, in one directory."""

    def __init__(self, directory):
        self.directory = directory
        self.programs = []
        for name in ("in", "out"):
            (directory / name).mkdir()
        self.source, self.target = directory / "in", directory / "out"

    def start(self, *words, **options):
        program = Program([*MPROXY, *map(str, words)], **options)
        self.programs.append(program)
        return program

    def recv(self, *options, output=None, port=0, once=True, **popen):
        output = output or f"{self.target}/"
        door = [] if "--key" in options else ["--open"]
        program = self.start("recv", *(["--once"] if once else []), *door, *options, port, "-o", output, **popen)
        return program, int(program.event("listening", within=30)["port"])

    def impair(self, port, *options, listen=0):
        program = self.start("impair", "--json", *options, listen, "127.0.0.1", port)
        return program, int(program.event("listening", within=30)["port"])

    def send(self, port, *words, **options):
        return self.start("send", *words, "127.0.0.1", port, **options)

    def start_python(self, script, *words):
        program = Program([sys.executable, str(script), *map(str, words)],
                          env={**os.environ, "PYTHONPATH": str(MPROXY_ROOT)})
        self.programs.append(program)
        return program

    def file(self, name, data):
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def close(self):
        for program in self.programs:
            program.close()
            assert "Traceback" not in program.log.text, str(program)
            assert "internal-error" not in program.log.text, str(program)


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["clear", "secret"])
def key(request, tmp_path):
    """The key options of both sides."""
    if request.param == "clear":
        return ()
    path = tmp_path / "secret"
    path.write_bytes(bytes(range(200, 232)))
    path.chmod(0o600)
    return "--key", path


@pytest.mark.parametrize("size", [0, 1, 100_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_files_of_every_size(transfer, key, size):
    data = content(size, size)
    receiver, port = transfer.recv(*key)
    sender = transfer.send(port, "--json", *key, transfer.file("a file", data))
    assert sender.wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "a file").read_bytes() == data
    assert json.loads(sender.out.lines[0][1])["hash"] == hash_of(data)
    assert os.listdir(transfer.target) == ["a file"]


@pytest.mark.parametrize("recovery", ["sack", "gbn"])
def test_byte_exact_through_a_bad_network(transfer, key, recovery, seed):
    data = content(seed, 6_000_000)
    receiver, port = transfer.recv(*key)
    box, through = transfer.impair(port, "--seed", seed, "--loss", "10", "--corrupt", "5", "--reorder", "10",
                                   "--duplicate", "5", "--delay", "2ms", "--mtu", "1500")
    sender = transfer.send(through, "--recovery", recovery, *key, transfer.file("f", data))
    assert sender.wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == data
    box.stop()
    counts = json.loads(box.out.text.splitlines()[-1])["to_server"]
    assert counts["lost"] > 100
    assert counts["corrupted"] > 50


def test_directories(transfer):
    files = {f"tree/{number % 7}/{number}": content(number, number * 997) for number in range(120)}
    for name, data in files.items():
        transfer.file(name, data)
    (transfer.source / "tree" / "empty").mkdir()
    (transfer.source / "tree" / "link").symlink_to("/etc/passwd")
    os.chmod(transfer.source / "tree/1/1", 0o741)
    receiver, port = transfer.recv()
    sender = transfer.send(port, transfer.source / "tree")
    assert sender.wait(MANY) == 8
    assert receiver.wait(MANY) == 0
    (left_out,) = sender.events("left-out")
    assert left_out["file"].endswith("/tree/link")
    assert left_out["why"] == "a symbolic link"
    assert "tree/empty" not in receiver.log.text, "directories are no files that were received"
    for name, data in files.items():
        assert (transfer.target / name).read_bytes() == data
    assert (transfer.target / "tree" / "empty").is_dir()
    assert not (transfer.target / "tree" / "link").exists()
    assert (transfer.target / "tree/1/1").stat().st_mode & 0o777 == 0o741
    assert (transfer.target / "tree/1/1").stat().st_mtime_ns == (transfer.source / "tree/1/1").stat().st_mtime_ns


def test_a_directory_that_cannot_be_read(transfer):
    """The rest is sent, and the exit status says that something failed."""
    transfer.file("tree/good", b"data")
    transfer.file("tree/bad/f", b"data")
    receiver, port = transfer.recv()
    script = transfer.directory / "blind.py"
    script.write_text(f"""
import os, sys
from mproxy.programs.send import main
from mproxy.transfer import walk
listing = walk.Listing
def blind(directory):
    if os.readlink(f"/proc/self/fd/{{directory}}").endswith("/bad"):
        raise PermissionError(13, "Permission denied")
    return listing(directory)
walk.Listing = blind
sys.exit(main([{str(transfer.source / 'tree')!r}, "127.0.0.1", "{port}"]))
""")
    sender = Program([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(MPROXY_ROOT)})
    transfer.programs.append(sender)
    assert sender.wait(MANY) == 8
    assert sender.event("left-out")["why"] == "Permission denied"
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "tree" / "good").read_bytes() == b"data"
    assert (transfer.target / "tree" / "bad").is_dir()


def test_pipes(transfer):
    data = b"".join(b"line %d\n" % number for number in range(300_000))
    receiver, port = transfer.recv(output="-")
    sender = transfer.start("send", "-", "127.0.0.1", port, stdin=subprocess.PIPE)
    sender.process.stdin.write(data)
    sender.process.stdin.close()
    assert sender.wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert receiver.out.text.encode() == data


def test_a_pipe_into_a_file(transfer):
    data = content(6, 2_500_000)
    target = transfer.target / "made"
    receiver, port = transfer.recv(output=target)
    sender = transfer.start("send", "-", "127.0.0.1", port, stdin=subprocess.PIPE)
    sender.process.stdin.write(data)
    sender.process.stdin.close()
    assert sender.wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert target.read_bytes() == data


@pytest.mark.long
def test_killed_and_resumed_ten_times(transfer, seed):
    """Each attempt begins where the one before was killed, and does not repeat what had arrived."""
    chance = random.Random(seed)
    data = content(seed, 40 << 20)
    path = transfer.file("big", data)
    receiver, port = transfer.recv(once=False)
    _box, through = transfer.impair(port, "--rate", "400Mbit", "--delay", "1ms")
    kept = 0
    for _attempt in range(10):
        sender = transfer.send(through, "--json", path)
        part = transfer.target / ".big.mproxy-state"
        until(part.exists, 30, "the transfer has begun")
        enough = kept + chance.randrange(1, 4)
        until(lambda part=part, enough=enough, sender=sender: blocks_of(part) >= enough or not sender.running, 60,
              "some blocks more")
        victim = chance.choice([sender, receiver])
        victim.signal(signal.SIGKILL)
        victim.wait()
        sender.process.kill()
        sender.wait()
        if victim is receiver:
            kept = blocks_of(part)
            receiver, _ = transfer.recv(port=port, once=False)
        else:
            receiver.signal(signal.SIGKILL)
            receiver.wait()
            kept = blocks_of(part)
            receiver, _ = transfer.recv(port=port, once=False)
        assert blocks_of(part) == kept
    sender = transfer.send(through, "--json", path)
    assert sender.wait(MANY) == 0
    assert (transfer.target / "big").read_bytes() == data
    summary = json.loads(sender.out.lines[-1][1])
    assert summary["kept"] == kept << 20
    assert summary["bytes"] == len(data) - summary["kept"]
    assert os.listdir(transfer.target) == ["big"]


def blocks_of(state):
    """The blocks that are there according to a state file."""
    try:
        digests = state.read_bytes()[72:]
    except FileNotFoundError:
        return 0
    return sum(any(digests[at:at + 32]) for at in range(0, len(digests), 32))


def test_a_changed_source_begins_anew(transfer):
    old, new = content(1, 20 << 20), content(2, 20 << 20)
    path = transfer.file("f", old)
    receiver, port = transfer.recv(once=False)
    _box, through = transfer.impair(port, "--rate", "200Mbit")
    sender = transfer.send(through, path)
    state = transfer.target / ".f.mproxy-state"
    until(lambda: blocks_of(state) > 2, 30, "some blocks")
    sender.signal(signal.SIGKILL)
    sender.wait()
    path.write_bytes(new)
    receiver.signal(signal.SIGKILL)
    receiver.wait()
    transfer.recv(port=port, once=False)
    sender = transfer.send(through, "--json", path)
    assert sender.wait(MANY) == 0
    assert json.loads(sender.out.lines[-1][1])["kept"] == 0
    assert (transfer.target / "f").read_bytes() == new


def test_a_source_that_changes_meanwhile_is_not_delivered(transfer):
    path = transfer.file("f", content(1, 20 << 20))
    _receiver, port = transfer.recv(once=False)
    _box, through = transfer.impair(port, "--rate", "100Mbit")
    sender = transfer.send(through, path)
    state = transfer.target / ".f.mproxy-state"
    until(lambda: blocks_of(state) > 2, 30, "some blocks")
    with path.open("r+b") as file:
        file.write(b"other")
    assert sender.wait(MANY) == 8
    assert "changed while it was being sent" in sender.log.text
    until(lambda: os.listdir(transfer.target) == [], 10, "nothing is left")


def test_nothing_is_replaced_without_force(transfer):
    path = transfer.file("f", b"new")
    (transfer.target / "f").write_bytes(b"old")
    receiver, port = transfer.recv()
    assert transfer.send(port, path).wait(MANY) == 5
    assert receiver.wait(MANY) == 5
    assert (transfer.target / "f").read_bytes() == b"old"
    receiver, port = transfer.recv("--force")
    assert transfer.send(port, path).wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == b"new"


def test_many_senders_at_once(transfer):
    _receiver, port = transfer.recv(once=False)
    files = {f"f{number}": content(number, 2_000_000) for number in range(8)}
    senders = [transfer.send(port, transfer.file(name, data)) for name, data in files.items()]
    for sender in senders:
        assert sender.wait(MANY) == 0, str(sender)
    for name, data in files.items():
        assert (transfer.target / name).read_bytes() == data


@pytest.mark.parametrize("ours, theirs", [(b"one secret of sixteen", b"another of sixteen..."), (b"one" * 10, None),
                                          (None, b"two" * 10)])
def test_keys_that_do_not_agree(transfer, tmp_path, ours, theirs):
    options = []
    for name, secret in (("ours", ours), ("theirs", theirs)):
        (tmp_path / name).write_bytes(secret or b"")
        (tmp_path / name).chmod(0o600)
        options.append(("--key", tmp_path / name) if secret else ())
    _receiver, port = transfer.recv(*options[1])
    sender = transfer.send(port, "--timeout", "5s", "--retries", "4", *options[0], transfer.file("f", b"x"))
    assert sender.wait(MANY) == 7
    assert ("a different secret from" if ours and theirs else "without keys (--open)" if ours
            else "use --key FILE") in sender.log.text
    assert os.listdir(transfer.target) == []


def test_nobody_there(transfer):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        sender = transfer.send(silent.getsockname()[1], "--retries", "3", transfer.file("f", b"x"))
        assert sender.wait(MANY) == 6
    assert "does not answer" in sender.log.text


@pytest.mark.parametrize("words, status, text", [
    (["send", "/nowhere", "127.0.0.1", "9"], 1, "No such file"), (["send", "127.0.0.1", "9"], 2, "missing"),
    (["send", "a/f", "b/f", "h", "9"], 2, "a/f and b/f would both be called f"),
    (["recv", "--open", "--force", "9", "-o", "/dev/null"], 2, "never replaced by a file"),
    (["recv", "--open", "9", "-o", ""], 2, "must not be empty"),
    (["recv", "9"], 2, "--key FILE (a secret that both sides have) or --own-key, or --open"),
    (["recv", "--open", "9", "-o", "/proc/nowhere/"], 2, "cannot create this directory"),
    (["send", "--key", "/nowhere", "f", "h", "9"], 2, "key"),
    (["recv", "--window", "0", "9"], 2, "out of range"),
    (["recv", "--recovery", "tcp", "9"], 2, "must be one of sack, gbn"),
    (["send", "--open", "/"], 2, "--open needs HOST PORT")])
def test_wrong_command_lines(transfer, words, status, text):
    program = transfer.start(*words)
    assert program.wait(30) == status
    assert text in program.log.text


def test_the_directory_is_made(transfer):
    path = transfer.target / "not" / "yet"
    receiver, port = transfer.recv(output=f"{path}/")
    assert transfer.send(port, transfer.file("f", b"data")).wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert (path / "f").read_bytes() == b"data"


def test_an_open_door_is_said(transfer, tmp_path):
    assert "anyone who can reach the port" in transfer.recv(once=False)[0].event("open-door")["why"]
    (tmp_path / "secret").write_bytes(b"one secret of sixteen")
    (tmp_path / "secret").chmod(0o600)
    sealed, _port = transfer.recv("--key", tmp_path / "secret", once=False)
    assert not sealed.events("open-door")


def test_sending_in_the_clear_is_said(transfer, tmp_path):
    for options in ((), ("--open",)):
        receiver, port = transfer.recv()
        sender = transfer.send(port, transfer.file("f", b"data"), *options)
        assert sender.wait(MANY) == receiver.wait(MANY) == 0
        why = sender.event("unsealed")["why"]
        assert "anyone on the path can read" in why and why.startswith("--open: ") == bool(options)
    (tmp_path / "secret").write_text("0" * 64)
    (tmp_path / "secret").chmod(0o600)
    refused = transfer.send(9, "--open", "--key", tmp_path / "secret", "f")
    assert refused.wait(30) == 2 and "--open and a key cannot be used together" in refused.log.text


def test_answers_by_another_way(transfer):
    """Data goes through a bad network, answers come back directly."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        ack_port = probe.getsockname()[1]
    data = content(9, 3_000_000)
    receiver, port = transfer.recv("--ack-to", f"127.0.0.1:{ack_port}")
    box, through = transfer.impair(port, "--loss", "5/100", "--corrupt", "2")
    sender = transfer.send(through, "--ack-port", ack_port, "--window", "32", "--recovery", "gbn",
                           transfer.file("f", data))
    assert sender.wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == data
    box.stop()
    assert json.loads(box.out.text.splitlines()[-1])["to_client"]["packets"] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_no_space(transfer, small_disk, kind):
    data = content(3, 8 << 20)
    receiver, port = transfer.recv(output=f"{small_disk}/")
    if kind == "file":
        sender = transfer.send(port, transfer.file("f", data))
    else:
        sender = transfer.start("send", "-", "127.0.0.1", port, stdin=subprocess.PIPE)
        with contextlib.suppress(BrokenPipeError):
            sender.process.stdin.write(data)
            sender.process.stdin.close()
    assert sender.wait(MANY) == 3
    assert "No space left" in sender.log.text
    assert receiver.wait(MANY) == 3


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_no_permission(transfer):
    os.chmod(transfer.target, 0o555)
    words = [*as_nobody(), *MPROXY, "recv", "--once", "--open", "0", "-o", f"{transfer.target}/"]
    for directory in [transfer.directory, *transfer.directory.parents][:3]:
        os.chmod(directory, 0o755)
    receiver = Program(words)
    transfer.programs.append(receiver)
    port = int(receiver.event("listening", within=30)["port"])
    os.chmod(transfer.target, 0o555)
    assert transfer.send(port, transfer.file("f", b"data")).wait(MANY) == 4
    assert receiver.wait(MANY) == 4


def test_the_address_changes_in_mid_transfer(lab, tmp_path):
    """The sender's host moves from one network to another; the connection goes on, and nothing starts again."""
    (tmp_path / "in").mkdir()
    target = lab.server.home / "out"
    target.mkdir()
    data = content(11, 30 << 20)
    path = tmp_path / "in" / "f"
    path.write_bytes(data)
    lab.wifi.shape("100mbit")
    environment = {"PYTHONPATH": str(MPROXY_ROOT)}
    receiver = lab.server.start(*MPROXY, "recv", "--once", "--open", "7000", "-o", f"{target}/", env=environment)
    receiver.event("listening", within=30)
    sender = lab.client.start(*MPROXY, "send", "--json", path, lab.server_address, "7000", env=environment)
    state = target / ".f.mproxy-state"
    until(lambda: blocks_of(state) > 3, 60, "some blocks")
    lab.wifi.pull()
    lab.phone.give(2)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0, str(receiver)
    assert (target / "f").read_bytes() == data
    assert json.loads(sender.out.lines[-1][1])["kept"] == 0
    assert len(receiver.events("sender")) == 1


@pytest.mark.parametrize("name", [b"../escape", b"/absolute", b"a/../../b", b"", b"a//b", b".", b"link/f", b"x" * 300,
                                  b".f.mproxy-state"])
def test_a_hostile_sender_does_not_get_out(transfer, tmp_path, name):
    """Names that lead out of the directory, and a planted symbolic link, are refused; the other files arrive."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (transfer.target / "link").symlink_to(outside)
    path = transfer.file("f", b"data")
    script = tmp_path / "hostile.py"
    script.write_text(f"""
import sys
from pathlib import Path
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.messages import FileKind
from mproxy.programs.send import main
from mproxy.transfer.walk import Walk
Walk.in_runs = lambda self: iter([SourceFile({name!r}, FileKind.FILE, {str(path)!r}),
                                  SourceFile(b"good", FileKind.FILE, {str(path)!r})])
sys.exit(main(sys.argv[1:]))
""")
    before = set(tmp_path.rglob("*"))
    _receiver, port = transfer.recv()
    program = Program([sys.executable, str(script), str(path), "127.0.0.1", str(port)],
                      env={**os.environ, "PYTHONPATH": str(MPROXY_ROOT)})
    transfer.programs.append(program)
    assert program.wait(MANY) == 1
    assert set(tmp_path.rglob("*")) - before == {transfer.target / "good"}


@pytest.mark.parametrize("once", [False, True], ids=["stays", "once"])
def test_a_killed_sender_comes_back_at_once(transfer, once):
    """The receiver is still running and has not noticed that its peer is gone; the new sender takes over."""
    data = content(14, 30 << 20)
    path = transfer.file("f", data)
    receiver, port = transfer.recv(once=once)
    _box, through = transfer.impair(port, "--rate", "200Mbit")
    state = transfer.target / ".f.mproxy-state"
    for blocks in (3, 8):
        sender = transfer.send(through, path)
        until(lambda blocks=blocks: blocks_of(state) >= blocks, 60, "some blocks")
        sender.signal(signal.SIGKILL)
        sender.wait()
    sender = transfer.send(through, "--json", path)
    assert sender.wait(MANY) == 0, str(sender)
    assert json.loads(sender.out.lines[-1][1])["kept"] >= 8 << 20
    assert (transfer.target / "f").read_bytes() == data
    receiver.event("broken-off", count=2)
    assert len(receiver.events("broken-off")) == 2
    assert not once or receiver.wait(MANY) == 0, str(receiver)


def test_a_killed_sender_comes_back_to_one_file(transfer):
    """-o FILE accepts one file of a sender, in any number of attempts."""
    data = content(15, 20 << 20)
    path = transfer.file("f", data)
    target = transfer.target / "g"
    _receiver, port = transfer.recv(output=target, once=False)
    _box, through = transfer.impair(port, "--rate", "200Mbit")
    sender = transfer.send(through, path)
    until(lambda: blocks_of(transfer.target / ".g.mproxy-state") >= 3, 60, "some blocks")
    sender.signal(signal.SIGKILL)
    sender.wait()
    assert transfer.send(through, path).wait(MANY) == 0
    assert target.read_bytes() == data


def test_two_transfers_of_one_name(transfer):
    """A second source with the name of one that is being sent is refused, with the reason."""
    (transfer.source / "other").mkdir()
    first, second = transfer.file("f", content(16, 20 << 20)), transfer.file("other/f", b"another")
    _receiver, port = transfer.recv(once=False)
    _box, through = transfer.impair(port, "--rate", "50Mbit")
    sender = transfer.send(through, first)
    until(lambda: blocks_of(transfer.target / ".f.mproxy-state") >= 1, 60, "some blocks")
    late = transfer.send(port, second)
    assert late.wait(MANY) == 5
    assert "another transfer is writing this file" in late.log.text
    assert sender.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == first.read_bytes()
