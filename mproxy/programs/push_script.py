"""What `mproxy push` has Python do on the other host: say what is there, take an archive, and install it for this user.

It is sent as text, and runs alone. It prints lines of SIGN and a JSON object; a login shell may print others:

    {"suffix": ..., "libc": ..., "keys": ...}   of extension modules; the version; whether cryptography is there
    {"done": DIRECTORY}                         where the programs are now
    {"failed": WHY}                             nothing was changed

Between the first and the second it reads, on standard input, a line {"name": ..., "bytes": ...} and the archive. That
goes into a directory of its own, ~/.local/lib/mproxy/NAME, and the programs into ~/.local/bin. What runs goes on with
the files of the version before, which are kept until the one after.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

SIGN = "mproxy-push "
PROGRAMS = ("cproxy", "sproxy", "mproxy")
OURS = "# Written by mproxy push."

# A shell starts Python: it runs the lines in which Python sees a string. A first line with Python in it is cut by the
# kernel when it is long, and Python, of which a directory is the standard input, ends with a dump of its state.
LAUNCHER = """\
#!/bin/sh
''':'
[ -d /dev/fd/0 ] && echo "{name}: standard input is a directory" >&2 && exit 2
{quick}exec {command} -IS "$0" "$@"
'''
{author}
import sys

sys.path.insert(0, {root!r})
from mproxy.programs.start import {name}

sys.exit({name}())
"""

# For ssh, connect and copy everybody waits, so these have a start without Python, where it was built.
QUICK = "mproxy/programs/quick-start"
QUICKLY = 'case $1 in ssh|connect|copy) [ -x {quick} ] && exec {quick} {python} "$0" "$@";; esac\n'

BLOCK = "/usr/bin/env --block-signal=INT"

# What no program of ours can do without.
TRY = "import sys; sys.path.insert(0, sys.argv[1]); import mproxy.carrier._tls, mproxy.programs.sproxy"


def launcher(python: str, root: str, name: str, author: str) -> str:
    """The text of the program `name`, which `python` runs from the packages in `root`."""
    quick = ""
    if name == "mproxy" and not set("'\\") & set(root + python):
        quick = QUICKLY.format(quick=shlex.quote(os.path.join(root, QUICK)), python=shlex.quote(python))
    return LAUNCHER.format(quick=quick, command=shell_command(python), author=author, root=root, name=name)


def shell_command(python: str) -> str:
    """How a shell starts it."""
    return f"{BLOCK} {shlex.quote(python)}" if can_block() else shlex.quote(python)


def can_block() -> bool:
    """Whether this system's env(1) starts programs with SIGINT blocked, and takes several words of a first line
    (coreutils 8.31)."""
    try:
        done = subprocess.run(["/usr/bin/env", "-S", "--block-signal=INT true"], stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return False
    return done.returncode == 0


def main() -> None:
    """All of it."""
    say(suffix=sysconfig.get_config_var("EXT_SUFFIX"), libc=libc(), keys=bool(importlib.util.find_spec("cryptography")))
    line = sys.stdin.buffer.readline()
    if not line:
        return  # what was said does not suffice
    wanted = json.loads(line)
    with tempfile.TemporaryFile() as archive:
        shutil.copyfileobj(sys.stdin.buffer, archive)
        if archive.tell() != wanted["bytes"]:
            return  # whoever sent it has gone
        try:
            say(done=install(wanted["name"], archive))
        except Exception as error:
            say(failed=str(error))


def say(**facts: object) -> None:
    """A line for the other side."""
    print(SIGN + json.dumps(facts), flush=True)


def libc() -> str:
    """The version of glibc; empty where it is another library."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    except (ValueError, OSError):
        return ""


def install(name: str, archive: IO[bytes]) -> str:
    """Put an archive's files in their place, if they can be used, and the programs in theirs; returns where those
    are."""
    local = os.path.join(os.path.expanduser("~"), ".local")
    library, programs = os.path.join(local, "lib", "mproxy"), os.path.join(local, "bin")
    place = os.path.join(library, name)
    for program in PROGRAMS:
        check_ours(os.path.join(programs, program))
    for directory in (library, programs):
        os.makedirs(directory, exist_ok=True)
    if not os.path.isdir(place):
        unpack(archive, place)
    for program in PROGRAMS:
        write(os.path.join(programs, program), launcher(sys.executable, place, program, OURS))
    remove_old(library, name)
    return programs


def check_ours(path: str) -> None:
    """RuntimeError if there is another program of that name."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            if OURS in file.read(1000):
                return
    except FileNotFoundError:
        return
    raise RuntimeError(f"{path} already exists, and was not written by 'mproxy push': remove it, or keep using it")


def unpack(archive: IO[bytes], place: str) -> None:
    """Have the files there, whole and compiled, or not at all."""
    new = f"{place}.new-{os.getpid()}"
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(new)
        with contextlib.suppress(FileNotFoundError):
            os.chmod(os.path.join(new, QUICK), 0o755)  # zipfile gives nobody the right to run anything
        compileall.compile_dir(new, quiet=2)
        tried = subprocess.run([sys.executable, "-IS", "-c", TRY, new], stderr=subprocess.PIPE, check=False)
        if tried.returncode:
            words = tried.stderr.decode(errors="replace").strip().splitlines()
            raise RuntimeError("it cannot run there: {}".format(words[-1] if words else "no reason was given"))
        os.rename(new, place)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write(path: str, text: str) -> None:
    """A program; whoever starts it meanwhile has the one before."""
    new = f"{path}.new-{os.getpid()}"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(new, 0o755)
    os.rename(new, path)


def remove_old(library: str, name: str) -> None:
    """Keep the newest of the others: what runs may still read from it."""
    others = [os.path.join(library, other) for other in os.listdir(library) if other != name]
    for other in sorted(others, key=os.path.getmtime)[:-1]:
        shutil.rmtree(other, ignore_errors=True)
    os.utime(os.path.join(library, name))


if __name__ == "__main__":
    main()
