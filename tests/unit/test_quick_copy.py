"""quick-start copies one small file without Python at either end, and leaves everything else to it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mproxy.programs.copy_here import Copy
from mproxy.programs.copy_options import parse_copy
from mproxy.programs.copy_ssh import ssh_command
from mproxy.programs.push_script import QUICK

ROOT = Path(__file__).resolve().parents[2]
QUICK_START = ROOT / QUICK
PATIENCE_S = 30
MOST_BYTES = 16384
WRITTEN = b'mproxy-copy {"written": true}\n'
ASKED = '{"version": 1, "file": "'

# In place of Python: its words, and what was begun or asked.
SAYS_WORDS = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@"
[ -z "$MPROXY_COPY_ASKED" ] || cat <&"$MPROXY_COPY_ASKED"
[ -z "$MPROXY_COPY_KNOWN" ] || cat <&"$MPROXY_COPY_KNOWN"
"""
KEEPS_QUESTION = """#!/bin/sh
printf '%s\\0' "$@" > "${0%/*}/words"
head -n 1 > "${0%/*}/question"
"""
# The other host is this one.
RUNS_HERE = """#!/bin/sh
for word do :; done
cd "$THERE" && exec sh -c "$word"
"""


@pytest.fixture
def place(tmp_path):
    """A directory with programs, and a small file."""
    for name in ("python", "mproxy"):
        write(tmp_path / "bin" / name, SAYS_WORDS)
    (tmp_path / "there").mkdir()
    source = tmp_path / "a file"
    source.write_bytes(os.urandom(1000))
    os.chmod(source, 0o754)
    os.utime(source, ns=(10**18, 10**18 + 7))
    return tmp_path


def write(program, text):
    program.parent.mkdir(exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)


def quick(place, *words, ssh=RUNS_HERE, python="python", mproxy="mproxy", there="there", **options):
    write(place / "bin" / "ssh", ssh)
    path = f"{place}/bin:{os.environ['PATH']}"
    return subprocess.run([QUICK_START, place / "bin" / python, place / "bin" / mproxy, "copy", *words], cwd=place,
                          env={**os.environ, "PATH": path, "THERE": str(place / there)}, check=False,
                          timeout=PATIENCE_S, capture_output=True, **options)


def left_to_python(done):
    return done.stdout.startswith(b"python\0-IS\0")


def question(name="file", target="", data=b"data", mode="644", time="1700000000 5"):
    fields = [mode, time, *(os.fsencode(text).hex() for text in (name, target)), data.hex()]
    return f'{ASKED}{" ".join(fields)}", "secret": "00"}}\n'.encode()


def ask_there(place, *about, **more):
    return subprocess.run([QUICK_START, place / "bin/python", place / "bin/mproxy", "copy", "--other-end"],
                          cwd=place / "there", input=question(*about, **more), timeout=PATIENCE_S, check=False,
                          stdout=subprocess.PIPE).stdout


# --- here

@pytest.mark.parametrize("words", [
    ["a file", "server:"], ["a file", "ann@server:dir/x y"], ["--quiet", "-r", "-p", "-P", "022", "./a file", "h:~/x"],
    ["--ssh", " ssh  -F none", "-P", "7", "a file", "server:it's"],
    ["--remote-mproxy", "cd /x; my 'mproxy'", "a file", "10.0.0.1:$HOME"]])
def test_it_asks_what_python_asks(place, words, monkeypatch):
    """Goal: an mproxy that knows nothing of small files answers as ever; and ssh is called in the same way."""
    done = quick(place, *words, ssh=KEEPS_QUESTION)
    assert left_to_python(done), "ssh has ended without an answer"
    monkeypatch.chdir(place)
    config = parse_copy(words)
    asked = json.loads((place / "bin/question").read_text())
    *fields, data = asked.pop("file").split(" ")
    assert fields[:3] == ["754", "1000000000", "7"]
    assert [bytes.fromhex(field).decode() for field in fields[3:]] == ["a file", config.target]
    assert bytes.fromhex(data) == (place / "a file").read_bytes()
    copy = Copy(config, None, None)
    copy._secret = bytes.fromhex(asked["secret"])
    assert asked == json.loads(copy._compose())
    words = (place / "bin/words").read_bytes()
    subprocess.run(["sh", "-c", ssh_command(config)], env={**os.environ, "PATH": f"{place}/bin:/usr/bin:/bin"},
                   stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=True)
    assert (place / "bin/words").read_bytes() == words


@pytest.mark.parametrize("words", [
    [], ["a file"], ["a file", "elsewhere"], ["server:a file", "."], ["--links", "a file", "server:"],
    ["a file", "a file", "server:"], ["missing", "server:"], [".", "server:"], ["large", "server:"],
    ["pipe", "server:"],
    ["a file", "-x:"], ["a file", "[::1]:"], ["a file", "server:\"x"], ["-P", "0", "a file", "server:"], ["-P"],
    ["--ssh", "'ssh'", "a file", "server:"], ["--ssh", "", "a file", "server:"], ["-", "server:"], ["a file", "é:x"],
    ["a file", "server:é"], [".x.mproxy-part", "server:"], ["/proc/uptime", "server:"], ["a file", ":x"],
    ["a file", "a/b:x"]], ids=str)
def test_everything_else_is_for_python(place, words):
    """Goal: before ssh is run."""
    (place / "large").write_bytes(bytes(MOST_BYTES + 1))
    (place / ".x.mproxy-part").touch()
    os.mkfifo(place / "pipe")
    done = quick(place, *words, ssh=KEEPS_QUESTION)
    assert done.stdout.decode().split("\0")[:-1] == ["python", "-IS", f"{place}/bin/mproxy", "copy", *words]
    assert not (place / "bin/words").exists()


def test_without_standard_input_it_is_python_s(place):
    """Goal: a descriptor of ours does not take its place."""
    write(place / "bin" / "ssh", KEEPS_QUESTION)
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", QUICK_START, place / "bin/python", place / "bin/mproxy",
                           "copy", place / "a file", "server:"], timeout=PATIENCE_S, check=True, stdout=subprocess.PIPE,
                          env={**os.environ, "PATH": f"{place}/bin:/usr/bin:/bin"})
    assert left_to_python(done) and not (place / "bin/words").exists()


@pytest.mark.parametrize("answer", [
    'mproxy-copy {"port": 6200}', "no answer at all", "", 'mproxy-copy {"written": true, "x": 1}',
    "$(head -c 70000 /dev/zero | tr '\\0' x)"], ids=lambda text: text[:20])
def test_another_answer_is_python_s_to_understand(place, answer):
    """Goal: with all that was heard, and the secret of the question; the ssh is still there."""
    done = quick(place, "a file", "server:", ssh=f"#!/bin/sh\nhead -n 1 > {place}/question\nprintf '%s\\n' \"{answer}\""
                 .replace('{"', '{\\"').replace('":', '\\":').replace('"}', '\\"}').replace(', "', ', \\"') + "\n")
    words, known = done.stdout[:done.stdout.rindex(b"\0") + 1], done.stdout[done.stdout.rindex(b"server:\0") + 8:]
    assert left_to_python(done) and words.startswith(b"python\0")
    assert known[:32].hex() == json.loads((place / "question").read_text())["secret"]
    heard = known[32:].decode()
    assert heard.rstrip("\n") == answer if not answer.startswith("$") else len(heard) > 65536


def test_noise_before_the_answer_is_skipped(place):
    done = quick(place, "a file", "server:", ssh="#!/bin/sh\nhead -n 1 >/dev/null\necho Welcome\nprintf '"
                 + WRITTEN.decode().replace("\n", "\\n") + "'\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- there

def test_the_file_arrives(place):
    assert ask_there(place, data=b"x" * MOST_BYTES, mode="640") == WRITTEN
    made = place / "there/file"
    assert made.read_bytes() == b"x" * MOST_BYTES
    status = made.stat()
    mask = os.umask(0)
    os.umask(mask)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640 & ~mask, 1_700_000_000 * 10**9 + 5)
    assert os.listdir(place / "there") == ["file"]


@pytest.mark.parametrize("target, path", [
    ("", "file"), ("new name", "new name"), ("dir", "dir/file"), ("dir/", "dir/file"), ("dir/new", "dir/new"),
    ("./dir/../x", "x"), (".", "file"), ("link", "dir/file"), ("..", "../file")])
def test_where_it_lands(place, target, path):
    there = place / "there"
    (there / "dir").mkdir()
    (there / "link").symlink_to("dir")
    assert ask_there(place, "file", target) == WRITTEN
    assert (there / path).read_bytes() == b"data"


def test_an_empty_file(place):
    assert ask_there(place, data=b"") == WRITTEN
    assert (place / "there/file").read_bytes() == b""


@pytest.mark.parametrize("before", [b"old!", b"longer than it", b""])
def test_another_file_is_replaced(place, before):
    """Goal: whoever has the old one open reads the old one."""
    made = place / "there/file"
    made.write_bytes(before)
    with open(made, "rb") as held:
        assert ask_there(place) == WRITTEN
        assert held.read() == before
    assert made.read_bytes() == b"data"
    assert os.listdir(place / "there") == ["file"]


def test_the_same_file_stays_and_gets_time_and_mode(place):
    made = place / "there/file"
    made.write_bytes(b"data")
    before = made.stat().st_ino
    assert ask_there(place, mode="600") == WRITTEN
    status = made.stat()
    assert (status.st_ino, stat.S_IMODE(status.st_mode), status.st_mtime_ns % 10**9) == (before, 0o600, 5)


@pytest.mark.parametrize("way", [
    "a directory", "a link", "a pipe", "a part", "a state", "no directory", "a new directory", "a home",
    "a name of ours", "dots", "a long name", "another question", "no question", "half a byte", "a strange letter",
    "a zero byte"])
def test_what_is_out_of_the_ordinary_is_for_python(place, way):
    """Goal: with the whole question, and nothing done."""
    there = place / "there"
    asked = question(**{
        "no directory": {"target": "missing/x"}, "a new directory": {"target": "missing/"}, "a home": {"target": "~/x"},
        "a name of ours": {"name": ".x.mproxy-part"}, "dots": {"name": ".."}, "a long name": {"name": "x" * 250},
        "a zero byte": {"name": "x\0y"}}.get(way, {}))
    if way == "a directory":
        (there / "file").mkdir()
    elif way == "a link":
        (there / "file").symlink_to("elsewhere")
    elif way == "a pipe":
        os.mkfifo(there / "file")
    elif way in ("a part", "a state"):
        (there / f".file.mproxy-{way[2:]}").touch()
    elif way == "another question":
        asked = b'{"version": 1, "secret": "00", "target": ""}\n'
    elif way == "no question":
        asked = b"hello\n"
    elif way == "half a byte":
        asked = asked.replace(b'", "secret"', b'0", "secret"')
    elif way == "a strange letter":
        asked = asked.replace(b'", "secret"', b'0g", "secret"')
    before = sorted(os.listdir(there))
    done = subprocess.run([QUICK_START, place / "bin/python", place / "bin/mproxy", "copy", "--other-end"], cwd=there,
                          input=asked, timeout=PATIENCE_S, check=False, stdout=subprocess.PIPE)
    assert done.stdout == b"\0".join([b"python", b"-IS", os.fsencode(place / "bin/mproxy"), b"copy", b"--other-end"]
                                     ) + b"\0" + asked
    assert sorted(os.listdir(there)) == before


def test_what_the_system_refuses_is_for_python_to_explain(place):
    assert ask_there(place, "file", "/proc/file").startswith(b"python\0-IS\0")


# --- both

def test_a_small_file_takes_no_python(place):
    """Goal: content, mode and time; nothing is said."""
    write(place / "bin/mproxy", f"#!/bin/sh\nexec {QUICK_START} {place}/bin/python {place}/bin/mproxy \"$@\"\n")
    done = quick(place, "a file", "server:")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    made = place / "there/a file"
    assert made.read_bytes() == (place / "a file").read_bytes()
    assert made.stat().st_mtime_ns == 10**18 + 7


@pytest.mark.parametrize("knows", [False, True], ids=["an mproxy of before", "out of the ordinary"])
def test_python_goes_on_with_the_same_ssh(place, knows):
    """Goal: nobody types a password twice: with an other end that knows nothing of it, and one that leaves it to
    Python."""
    (place / "start.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                                    "from mproxy.programs.start import mproxy\nsys.exit(mproxy())\n")
    # Without -I: a sanitizer that is there has told Python by the environment how to allocate.
    write(place / "bin/python", f"#!/bin/sh\nshift 2\nexec {sys.executable} -S {place}/start.py \"$@\"\n")
    own = f"exec {QUICK_START} {place}/bin/python {place}/bin/mproxy" if knows else f"{place}/bin/python - -"
    write(place / "bin/mproxy", f"#!/bin/sh\n{own} \"$@\"\n")
    if knows:
        (place / "there/.a file.mproxy-part").touch()
    done = quick(place, "a file", "127.0.0.1:", ssh=RUNS_HERE.replace(
        "cd ", f'[ "$1" = -G ] && exit\necho >> {place}/logins\ncd '))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (place / "there/a file").read_bytes() == (place / "a file").read_bytes()
    assert (place / "logins").read_text() == "\n"
    assert os.listdir(place / "there") == ["a file"]
