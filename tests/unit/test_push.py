"""mproxy push, without a network: a stand-in for ssh runs what it is told here."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.programs import push, push_script

SUFFIX = ".cpython-311-x86_64-linux-gnu.so"
HERE = ["sh", "-c", 'eval "$0"']  # ssh's last word is a command
FACTS = {"suffix": SUFFIX, "libc": "2.36", "keys": True}


def archive(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return data.getvalue()


def wheel(module=b"\0GLIBC_2.4\0GLIBC_2.34\0"):
    return push.PushedWheel("a wheel", archive(**{f"mproxy/_x{SUFFIX}": module, "mproxy-1.2.dist-info/WHEEL": ""}))


def test_a_wheel_says_what_it_needs():
    found = wheel()
    assert (found.version, found.python, found.suffix, found.libc) == ("1.2", (3, 11), SUFFIX, (2, 34))


@pytest.mark.parametrize(("data", "why"), [(b"text", "not a wheel"), (archive(x="y"), "not a wheel of mproxy")])
def test_other_files_are_no_wheels(tmp_path, data, why):
    path = tmp_path / "x.whl"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=why):
        push.PushedWheel(str(path))
    with pytest.raises(UsageError, match="No such file"):
        push.PushedWheel(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("facts", "why"), [
    ({"python": "Python 3.6.8"}, "has Python 3.6.8, and this mproxy needs Python 3.11"),
    ({"python": ""}, "has no Python 3, .* apt install python3.11"),
    (FACTS | {"suffix": SUFFIX.replace("x86_64", "aarch64")}, "of another kind"),
    (FACTS | {"libc": "2.31"}, "has glibc 2.31, and this mproxy needs glibc 2.34"),
    (FACTS | {"libc": ""}, "another C library than glibc")])
def test_what_does_not_fit_is_said(facts, why):
    with pytest.raises(MproxyError, match=why):
        push.check(wheel(), facts, "server")
    push.check(wheel(), FACTS, "server")


def test_a_host_without_that_python_says_so(tmp_path, monkeypatch):
    """Goal: whatever the login shell prints besides."""
    (tmp_path / "python3").write_text("#!/bin/sh\n[ $1 = -V ] && echo Python 3.6.8\n[ $1 = -V ]\n")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")
    greeting = ["/bin/sh", "-c", 'echo Welcome; PATH=$PATH_OF_TEST; eval "$0"']
    monkeypatch.setenv("PATH_OF_TEST", str(tmp_path))
    found = wheel()
    found.python = (3, 99)
    with pytest.raises(MproxyError, match=r"server has Python 3\.6\.8, and this mproxy needs Python 3\.99"):
        push.push(found, greeting, "server")


def test_an_ssh_that_fails_is_an_end():
    with pytest.raises(MproxyError, match="ended with status 255 before it was done; nothing was changed"):
        push.push(wheel(), ["sh", "-c", "exit 255"], "server")


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="what is pushed runs without the sanitizers")
def test_own_files_are_installed(tmp_path, monkeypatch):
    """Goal: programs that run; a version before stays for what runs; a third one is removed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{os.path.dirname(os.path.realpath(sys.executable))}:{os.environ['PATH']}")
    monkeypatch.setattr(push, "KEY_PACKAGES", ())
    monkeypatch.setattr(push, "import_packages", lambda _names: None)
    library = tmp_path / ".local" / "lib" / "mproxy"
    for name in ("oldest", "old"):
        (library / name).mkdir(parents=True)
        os.utime(library / name, (1, 1) if name == "oldest" else (2, 2))
    assert push.push(push.own_wheel(), HERE, "server") == str(tmp_path / ".local" / "bin")
    names = sorted(path.name for path in library.iterdir())
    assert len(names) == 2 and "old" in names
    for program in push_script.PROGRAMS:
        done = subprocess.run([tmp_path / ".local" / "bin" / program, "--version"], capture_output=True, text=True,
                              check=False, timeout=60)
        assert done.returncode == 0 and done.stdout.startswith(program), done.stderr


@pytest.mark.parametrize(("broken", "why"), [
    ("archive", "it cannot run there: .*mproxy"),
    ("program", "sproxy already exists, and was not written by 'mproxy push'")])
def test_what_cannot_be_installed_changes_nothing(tmp_path, monkeypatch, broken, why):
    monkeypatch.setenv("HOME", str(tmp_path))
    if broken == "program":
        (tmp_path / ".local" / "bin").mkdir(parents=True)
        (tmp_path / ".local" / "bin" / "sproxy").write_text("#!/bin/sh\n")
    data = archive(**{"mproxy/__init__.py": ""})
    lines = json.dumps({"name": "1", "bytes": len(data)}).encode() + b"\n"
    done = subprocess.run([sys.executable, "-ISu", push_script.__file__], input=lines + data, capture_output=True,
                          check=True, timeout=60)
    told = [json.loads(line.removeprefix(push_script.SIGN.encode())) for line in done.stdout.splitlines()]
    assert len(told) == 2
    assert re.search(why, told[1]["failed"])
    assert not list(tmp_path.glob(".local/lib/mproxy/*"))
    assert not (tmp_path / ".local" / "bin" / "mproxy").exists()


def test_libraries_that_came_with_a_wheel_go_with_it(tmp_path, monkeypatch):
    """mproxy may have been installed from a wheel that brought its own OpenSSL; the C library has to suffice for that,
    too."""
    for name, data in {f"mproxy/_x{SUFFIX}": b"\0GLIBC_2.17\0", "mproxy.libs/libssl-1.so.3": b"\0GLIBC_2.38\0"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(push, "__file__", str(tmp_path / "mproxy" / "programs" / "push.py"))
    own = push.own_wheel()
    with zipfile.ZipFile(io.BytesIO(own.data)) as packed:
        assert {f"mproxy/_x{SUFFIX}", "mproxy.libs/libssl-1.so.3"} <= set(packed.namelist())
    assert own.libc == (2, 38)
