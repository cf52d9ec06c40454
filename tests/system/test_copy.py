"""mproxy copy: between hosts, started by a real ssh; what scp's users expect, and what scp does not survive."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from lab import outage, until
from long_cable import TUN, LongCable
from openssh import NEEDS_SSHD, SSHD_PORT, SshHost, sha256
from relays import MPROXY

pytestmark = NEEDS_SSHD

MANY = 60
UDP_PORTS = "udp dport 6200-6299"


class CopyHost(SshHost):
    """An sshd on the server whose commands find mproxy, and `mproxy copy` on the client."""

    def __init__(self, lab):
        super().__init__(lab)
        self.start(MPROXY.parent)
        self.there = lab.server.home

    def words(self, *words):
        """What is copied to the user's home goes to the server's directory instead: he is the real root."""
        return [MPROXY, "copy", "--ssh", f"ssh -F {self.config}", "--remote-mproxy", f"cd {self.there}; mproxy", *words]

    def copy(self, *words):
        """To its end: status, output, errors."""
        return self.run(*words, program=self.words())

    def begin(self, *words, **options):
        return self.lab.client.start(*self.words(*words), **options)

    def file(self, name, size, where=None):
        path = (where or self.home) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        return path

    def other_ends(self):
        """Numbers of the processes that a copy has started on the server."""
        mine = os.readlink(f"/proc/{self.lab.server.holder.pid}/ns/net")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if os.readlink(process / "ns/net") == mine and b"--other-end" in words and b"sh" not in words:
                    found.append(int(process.name))
        return found

    def nothing_stays(self):
        until(lambda: not self.other_ends(), 20, "the end of the other end")


def has_bytes(part, at):
    """Whether what is there has come: random bytes are not zeros."""
    try:
        with open(part, "rb") as file:
            file.seek(at)
            return any(file.read(16))
    except FileNotFoundError:
        return False


@pytest.fixture
def host(lab):
    made = CopyHost(lab)
    yield made
    made.nothing_stays()


def test_there_and_back(host):
    """Goal: files, directories, links, modes and times, each way; nothing of it is left behind."""
    tree = host.home / "a tree"
    for number in range(40):
        host.file(f"a tree/{number % 5}/file {number}", number * 1000)
    host.file("a tree/large", 5_000_000)
    (tree / "empty").mkdir()
    (tree / "link").symlink_to("large")
    os.chmod(tree / "large", 0o640)
    os.utime(tree / "large", ns=(10**18, 10**18 + 7))
    done = host.copy("--links", tree, "server:")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    there = host.there / "a tree"
    done = host.copy("--links", "server:a tree", f"{host.home}/back")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for copy in (there, host.home / "back"):
        assert subprocess.run(["diff", "-r", tree, copy], timeout=30, check=False).returncode == 0
        status = (copy / "large").stat()
        assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18 + 7)
        assert os.readlink(copy / "link") == "large"
    assert not [name for name in os.listdir(host.there) if "mproxy" in name]


def test_what_the_other_end_cannot_read_is_named_here(host):
    """Goal: copied from there, a file that cannot be read there is named, and the exit status says partial."""
    here = host.home / "here"
    here.mkdir()
    done = host.copy("server:/proc/sys/net/ipv4/route", here)
    assert done.returncode == 8, done.stderr
    assert "left-out" in done.stderr and "route/flush" in done.stderr and "cannot read" in done.stderr
    assert (here / "route").is_dir() and not (here / "route/flush").exists()


def test_names_as_scp_has_them(host):
    """Goal: a directory takes what is copied; another target is its name; patterns, homes, spaces, several sources."""
    one, two = host.file("one", 10), host.file("two", 20)
    there = host.there
    assert host.copy(one, "server:new name").returncode == 0
    assert (there / "new name").read_bytes() == one.read_bytes()
    (there / "dir").mkdir()
    assert host.copy(one, two, "root@server:dir").returncode == 0
    assert host.copy(one, f"server:{there}/made/").returncode == 0
    assert sorted(os.listdir(there / "dir")) == ["one", "two"] and os.listdir(there / "made") == ["one"]
    assert host.copy(two, "server:new name").returncode == 0
    assert (there / "new name").read_bytes() == two.read_bytes(), "it replaces, as scp does"
    assert host.copy("--no-clobber", one, "server:new name").returncode == 5
    assert (there / "new name").read_bytes() == two.read_bytes()
    assert host.copy(there / "dir", "server:copy of dir").returncode == 0
    assert sorted(os.listdir(there / "copy of dir")) == ["one", "two"]
    here = host.home / "here"
    here.mkdir()
    assert host.copy("server:dir/*", "server:~/new name", here).returncode == 0
    assert sorted(os.listdir(here)) == ["new name", "one", "two"]
    assert host.copy("server:dir/.", here / "dots").returncode == 0
    assert sorted(os.listdir(here / "dots")) == ["one", "two"]


def test_one_line_says_what_is_wrong(host):
    one, two = host.file("one", 10), host.file("two", 20)
    wrong = {
        ("server:missing", "."): "cannot send missing: No such file or directory",
        ("server:*.nothing", "."): "No such file or directory",
        ("server:host_key", "nowhere/name"): "there is no directory nowhere",
        (one, two, "server:missing"): "missing: no such directory",
        (one, "server:nowhere/name"): "there is no directory nowhere",
        (one, f"server:{host.there}/host_key/x/"): "cannot make this directory",
        (host.home / "missing", "server:"): "missing: No such file or directory",
        ("server:host_key*", host.home / "no such"): "2 names match",
    }
    for words, text in wrong.items():
        done = host.copy(*words)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith("mproxy copy: ")) == (1, True), done.stderr
        assert text in line
    host.nothing_stays()


def test_what_is_not_there_is_said_before_ssh_is_asked(host):
    done = host.copy(host.home / "missing", "nobody@server:")
    assert (done.returncode, done.stderr) == (
        1, f"mproxy copy: cannot send {host.home}/missing: No such file or directory\n")


def test_ssh_s_own_complaints_are_seen(host):
    one = host.file("one", 10)
    done = host.copy(one, "nobody@server:")
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert done.stderr.splitlines()[-1] == "mproxy copy: ssh to nobody@server has failed (exit status 255)"
    done = host.run("--ssh", "/no/such/ssh", one, "server:", program=[MPROXY, "copy"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "mproxy copy: cannot run /no/such/ssh: is it installed?"


def test_without_mproxy_there_one_line_says_what_to_do(host):
    one = host.file("one", 10)
    config = host.there / "sshd_config"
    config.write_text(config.read_text().replace(f"PATH={MPROXY.parent}:", "PATH="))
    os.kill(host.daemon.process.pid, signal.SIGHUP)
    look = ["-F", host.config, "server", "command -v mproxy"]
    until(lambda: host.run(*look, program=["ssh"]).returncode in (1, 127), 20, "sshd with its new settings")
    done = host.run("--ssh", f"ssh -F {host.config}", one, "server:", program=[MPROXY, "copy"])
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "mproxy is not installed on server" in line and "--remote-mproxy" in line
    assert host.copy("--remote-mproxy", MPROXY, one, f"server:{host.there}").returncode == 0
    done = host.copy("--remote-mproxy", "echo hello", one, "server:")
    assert done.returncode == 1 and "has not answered (exit status 0)" in done.stderr


def test_options_of_both_sides(host):
    """Goal: what is left out is named, and the status says so, each way; a dry run writes nothing."""
    tree = host.home / "tree"
    for name in ("keep", "drop.o", ".git/config"):
        host.file(f"tree/{name}", 100)
    os.mkfifo(tree / "pipe")
    os.chmod(tree / "keep", 0o666)
    options = ["--perms", "--exclude", "*.o", "--exclude", ".git/"]
    for source, target in ((tree, "server:"), (f"server:{tree}", f"{host.home}/back")):
        done = host.copy("--dry-run", *options, source, target)
        name = "back" if target.endswith("back") else "tree"
        assert (done.returncode, done.stdout) == (8, f"{name}/\n{name}/keep\n"), done.stderr
        assert "pipe" in done.stderr
        assert not (host.home / "back").exists()
        done = host.copy(*options, source, target)
        assert done.returncode == 8 and "pipe" in done.stderr, done.stderr
    for copy in (host.there / "tree", host.home / "back"):
        assert os.listdir(copy) == ["keep"]
        assert (copy / "keep").stat().st_mode & 0o777 == 0o666
    done = host.copy("--json", "--update", tree / "keep", "server:tree")
    (told, summary) = map(json.loads, done.stdout.splitlines())
    assert (told["file"], told["result"], summary["status"], summary["bytes"]) == ("keep", "done", 0, 0)
    there = host.there / "tree/keep"
    times = there.stat()
    there.write_bytes(bytes(100))
    os.utime(there, ns=(times.st_atime_ns, times.st_mtime_ns))
    for option, is_found in (("--update", False), ("--checksum", True)):
        assert host.copy(option, tree / "keep", "server:tree").returncode == 0
        assert (there.read_bytes() == (tree / "keep").read_bytes()) == is_found


@pytest.mark.parametrize("way", ["push", "pull"])
def test_survives_an_address_change_on_a_bad_path(host, ends, way):
    """Goal: ssh dies of it, the copy goes on. The path takes 100 ms and loses 2 %."""
    lab = host.lab
    if not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip(f"no {TUN}")
    lab.core.pull()
    cable = LongCable(lab.server, lab.router, 4, 0.05)
    ends.callback(cable.close)
    cable.give(2)
    host.block_port("numgen random mod 100 < 2")
    where = host.there if way == "pull" else host.home
    source = host.file("large", 8_000_000, where)
    target = (host.home if way == "pull" else host.there) / "copy"
    words = ["server:large", target] if way == "pull" else [source, "server:copy"]
    ssh = f"ssh -F {host.config} -o HostName={cable.address(2)} -o StrictHostKeyChecking=no"
    copy = host.begin("--ssh", f"{ssh} -o ServerAliveInterval=1 -o ServerAliveCountMax=2", "--limit", "20Mbit", *words)
    part = target.with_name(".copy.mproxy-part")
    until(lambda: has_bytes(part, 1 << 20), MANY, "a megabyte of it")
    lab.wifi.pull()
    outage(1.5)
    lab.wifi.give(33)
    assert copy.wait(MANY) == 0, str(copy)
    assert sha256(target) == sha256(source)


@pytest.mark.parametrize("way", ["push", "pull"])
def test_through_ssh_where_udp_is_blocked(host, way):
    """Goal: it works, and one line says why it may be slow."""
    host.block_port(UDP_PORTS)
    where = host.there if way == "pull" else host.home
    source = host.file("file", 3_000_000, where)
    target = (host.home if way == "pull" else host.there) / "copy"
    done = host.copy(*(["server:file", target] if way == "pull" else [source, "server:copy"]))
    assert done.returncode == 0, done.stderr
    assert sha256(target) == sha256(source)
    (line,) = done.stderr.splitlines()
    assert "through-ssh" in line and "UDP" in line


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("end", ["here", "there"])
def test_ctrl_c_leaves_what_the_next_copy_goes_on_with(host, way, end):
    where = host.there if way == "pull" else host.home
    source = host.file("large", 6_000_000, where)
    target = (host.home if way == "pull" else host.there) / "copy"
    words = ["server:large", target] if way == "pull" else [source, "server:copy"]
    copy = host.begin("--limit", "20Mbit", *words)
    part = target.with_name(".copy.mproxy-part")
    until(lambda: has_bytes(part, 2 << 20), MANY, "two megabytes of it")
    if end == "here":
        os.kill(copy.process.pid, signal.SIGINT)
        assert copy.wait(MANY) == 130, str(copy)
    else:
        (other,) = host.other_ends()
        os.kill(other, signal.SIGINT)
        assert copy.wait(MANY) not in (0, 130), str(copy)
    host.nothing_stays()
    assert part.exists() and not target.exists()
    done = host.copy("--json", *words)
    assert done.returncode == 0, done.stderr
    assert sha256(target) == sha256(source)
    if way == "push":
        summary = json.loads(done.stdout.splitlines()[-1])
        assert summary["kept"] >= 1 << 20


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_the_other_end_does_not_stay_when_this_one_is_killed(host, signal_number):
    source = host.file("large", 6_000_000)
    copy = host.begin("--limit", "5Mbit", "--timeout", "3s", source, "server:")
    until((host.there / ".large.mproxy-part").exists, MANY, "a part of it")
    os.kill(copy.process.pid, signal_number)
    copy.wait(MANY)
    host.nothing_stays()


def test_the_other_end_is_killed(host):
    """Goal: that is said at once, not after the timeout."""
    source = host.file("large", 6_000_000)
    copy = host.begin("--limit", "5Mbit", source, "server:")
    until((host.there / ".large.mproxy-part").exists, MANY, "a part of it")
    (other,) = host.other_ends()
    os.kill(other, signal.SIGKILL)
    assert copy.wait(20) == 1, str(copy)
    assert "the other end has ended" in copy.log.text


def test_standard_input_is_copied(host):
    copy = host.begin("-", "server:out", stdin=subprocess.PIPE)
    copy.process.stdin.write(b"hello\n" * 1000)
    copy.process.stdin.close()
    assert copy.wait(MANY) == 0, str(copy)
    assert (host.there / "out").read_bytes() == b"hello\n" * 1000


def test_an_ipv6_address(host):
    """Goal: [address]:path, with a port of sshd as scp names it."""
    one = host.file("one", 10)
    config = host.there / "sshd_config"
    config.write_text(config.read_text().replace("ListenAddress 0.0.0.0", "ListenAddress ::"))
    host.daemon.close()
    host.lab.server.start("/usr/sbin/sshd", "-D", "-e", "-f", config)
    address = host.lab.core.address6(2)
    until(lambda: host.copy("--ssh", f"ssh -F {host.config} -o StrictHostKeyChecking=no", "-P", SSHD_PORT, one,
                            f"root@[{address}]:").returncode == 0, 20, "a copy to an IPv6 address")
    assert (host.there / "one").read_bytes() == one.read_bytes()


def bytes_of(host):
    """That have come and gone at the client's interface."""
    lines = host.run(program=["cat", "/proc/net/dev"]).stdout.splitlines()
    fields = [line.replace(":", " ").split() for line in lines if ":" in line and not line.strip().startswith("lo:")]
    return sum(int(field[1]) + int(field[9]) for field in fields)


def test_what_has_changed_in_a_large_file(host):
    """Goal: --delta and --compress, both ways: an insertion in the middle of 30 MB, and text behind it, cost little."""
    old = os.urandom(30_000_000)
    new = old[:15_000_001] + b"inserted" + old[15_000_001:] + b"the same line\n" * 200_000
    (host.home / "f").write_bytes(new)
    (host.there / "f").write_bytes(old)
    began = bytes_of(host)
    done = host.copy("--delta", "--compress", host.home / "f", "server:f")
    assert (done.returncode, done.stderr) == (0, "")
    assert bytes_of(host) - began < 600_000
    assert sha256(host.there / "f") == sha256(host.home / "f")
    (host.home / "f").write_bytes(old)
    began = bytes_of(host)
    done = host.copy("--delta", "--compress", "server:f", host.home / "f")
    assert (done.returncode, done.stderr) == (0, "")
    assert bytes_of(host) - began < 600_000
    assert sha256(host.there / "f") == sha256(host.home / "f")


@pytest.fixture
def mirror(host):
    """A tree on each side; of what is there, some is not here."""
    for path in ("tree/a", "tree/d/b", "tree/log"):
        host.file(path, 100)
    for path in ("tree/a", "tree/d/b", "tree/old", "tree/d/old", "tree/gone/x", "tree/keep.log", "other"):
        host.file(path, 100, host.there)
    os.symlink("/etc", host.there / "tree/d/link")
    return host


GONE = ["tree/d/link", "tree/d/old", "tree/gone/", "tree/gone/x", "tree/old"]


def files_of(place):
    return sorted(str(path.relative_to(place)) for path in (place / "tree").rglob("*"))


def test_delete(mirror):
    """Goal: what is not here is named by --dry-run and deleted by --yes; what is excluded, or lies beside, stays."""
    words = ["--delete", "--exclude", "*.log", mirror.home / "tree", "server:"]
    before = files_of(mirror.there)
    done = mirror.copy("--dry-run", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line[7:] for line in done.stdout.splitlines() if line.startswith("delete ")) == GONE
    assert files_of(mirror.there) == before
    done = mirror.copy("--yes", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_of(mirror.there) == ["tree/a", "tree/d", "tree/d/b", "tree/keep.log", "tree/log"]
    assert (mirror.there / "other").exists() and os.path.exists("/etc/passwd")


def test_delete_here(mirror):
    """Goal: the same for what is copied from there."""
    for name in ("tree/mine", "tree/d/e/f"):
        mirror.file(name, 10)
    words = ["--delete", "--exclude", "log", "server:tree", f"{mirror.home}/"]
    os.unlink(mirror.there / "tree/d/link")
    done = mirror.copy("--dry-run", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("delete ")) == [
        "delete tree/d/e/", "delete tree/d/e/f", "delete tree/mine"]
    assert (mirror.home / "tree/mine").exists()
    done = mirror.copy("--yes", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (mirror.home / "tree/mine").exists() and (mirror.home / "tree/log").exists()
    assert files_of(mirror.home) == sorted([*files_of(mirror.there), "tree/log"])


def test_nobody_to_ask(mirror):
    done = mirror.copy("--delete", mirror.home / "tree", "server:")
    assert done.returncode == 2 and "--yes" in done.stderr and "--dry-run" in done.stderr
    assert mirror.copy("--yes", mirror.home / "tree", "server:").returncode == 2


@pytest.mark.parametrize("said", ["n", "y"])
def test_somebody_is_asked(mirror, said):
    """Goal: on a terminal the names are shown, and only `y` deletes."""
    asking = ("import os, pty, sys\n"
              "def read(fd):\n"
              "    data = os.read(fd, 9999)\n"
              f"    if b'[y/N]' in data: os.write(fd, b'{said}\\n')\n"
              "    return data\n"
              "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], read)))\n")
    done = mirror.run("--delete", mirror.home / "tree", "server:",
                      program=[sys.executable, "-c", asking, *mirror.words()], stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout
    assert "tree/gone/x" in done.stdout and "Delete 5 files and 1 directory there? [y/N]" in done.stdout
    assert (mirror.there / "tree/old").exists() == (said == "n")
    assert (mirror.there / "tree/a").read_bytes() == (mirror.home / "tree/a").read_bytes()


def test_nothing_is_deleted_when_not_all_was_found(mirror):
    """Goal: a directory that cannot be read does not empty its copy."""
    (mirror.home / "tree/d/b").unlink()
    os.rmdir(mirror.home / "tree/d")
    os.symlink("d", mirror.home / "tree/d")
    done = mirror.copy("--delete", "--yes", "--copy-links", mirror.home / "tree", "server:")
    assert done.returncode == 8 and "nothing was deleted" in done.stderr
    assert (mirror.there / "tree/old").exists() and (mirror.there / "tree/d/b").exists()


def seen(place):
    """All that a copy has to bring: names, modes, times, contents, links, holes, attributes."""
    found, inodes = {}, {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        first = inodes.setdefault(status.st_ino, str(path)[len(str(place)):])
        what = [stat.S_IFMT(status.st_mode), status.st_mtime_ns, first]
        if path.is_symlink():
            what.append(os.readlink(path))
        else:
            what += [stat.S_IMODE(status.st_mode), {name: os.getxattr(path, name) for name in os.listxattr(path)}]
        if stat.S_ISREG(status.st_mode):
            what += [status.st_size, status.st_blocks * 512 < 2_000_000,
                     sha256(path) if status.st_size < 10_000_000 else None]
        found[os.fsencode(path)[len(str(place)):]] = what
    return found


@pytest.mark.parametrize("less", [(), ("--delta", "--compress")])
def test_kinds_of_files_both_ways(host, less):
    """Goal: what docs/transfer.md says of each kind holds for a copy there, and one from there."""
    tree = host.home / "tree"
    host.file("tree/plain", 1_500_000)
    host.file("tree/small", 100)
    os.link(tree / "plain", tree / "second name")
    os.symlink("plain", tree / "link")
    (tree / "empty").mkdir(mode=0o711)
    with open(tree / "holes", "wb") as file:
        file.truncate(20 << 30)
        file.seek(3 << 30)
        file.write(os.urandom(500_000))
    with open(os.fsencode(tree) + b"/" + bytes(range(0x80, 0xFF)) * 2 + b"\xff", "wb") as file:
        file.write(b"a name of 255 bytes, no UTF-8")
    os.setxattr(tree / "plain", "user.what", b"\0\xff")
    os.chmod(tree / "small", 0o666)
    os.utime(tree / "empty", ns=(0, 10**18 + 1))
    words = ["--links", "--xattrs", "--perms", *less]
    assert host.copy(*words, tree, "server:").returncode == 0
    assert host.copy(*words, "server:tree", f"{host.home}/back/").returncode == 0
    expected = seen(tree)
    assert len(expected) == 7
    assert seen(host.there / "tree") == expected
    assert seen(host.home / "back/tree") == expected
    done = host.copy(*words, "--update", "--json", tree, "server:")
    assert json.loads(done.stdout.splitlines()[-1])["bytes"] == 0, "nothing is sent again"
