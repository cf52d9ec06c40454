"""`mproxy push`: installs this mproxy on another host, by ssh, for the user there: no root, no pip, no network.

What is sent is a wheel: the one of --wheel, or one that is made of the files of the mproxy that runs. One ssh, so one
password: Python there says what it is (push_script.py), and whether the wheel can run on that is decided here, before
it is sent. `cryptography` goes with it where that is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile

from mproxy import __version__
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.packages import KEYS, import_packages
from mproxy.ground.words import parse_command, parse_name
from mproxy.programs import push_script
from mproxy.programs.connect import bare_environment, parse_destination
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

PROGRAM = "mproxy push"

# Runs the script, which is its $0, by the Python that the wheel is for; else says which one there is.
FIND_PYTHON = """\
for python in python{0}.{1} python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != ({0}, {1}))' 2> /dev/null && exec "$python" -ISu -c "$0"
done
echo "{2}{{\\"python\\": \\"$(python3 -V 2> /dev/null)\\"}}"
"""

# Not for running: sources of extension modules, and what Python itself has made of the others.
LEFT_OUT = re.compile(r"\.(?:pyx|pxd|pyi|pyc|c)$")

SUFFIX = re.compile(r"(\.cpython-3(\d+)-[\w-]+\.so)$")
SYMBOL_VERSION = re.compile(rb"\0GLIBC_(\d+)\.(\d+)\b")

# Beside the package, where a wheel brought them that was built to need none of the system's.
LIBRARIES = ".libs"

# What KEYS is made of.
KEY_PACKAGES = ("cryptography", "cffi", "pycparser")


def main(argv: list[str]) -> int:
    """`mproxy push`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] [USER@]HOST[:PORT]",
        "Install this version of mproxy on HOST for USER, by ssh: in ~/.local/bin and\n"
        "~/.local/lib/mproxy there. It needs Python of the same version and a C library\n"
        "that is new enough; what is missing is said, and nothing is changed then. Safe\n"
        "to repeat.",
        "examples:\n"
        "  mproxy push ann@server\n"
        "  mproxy push --wheel mproxy-1.0-cp311-cp311-linux_x86_64.whl server")
    parser.add(parser, "--ssh", parse_command, metavar="COMMAND", default=["ssh"], help=(
        "the ssh command, with any options (default ssh)"))
    parser.add(parser, "--wheel", parse_name, metavar="FILE", help=(
        "a wheel of mproxy, for another Python or processor (default: made of this mproxy's own files)"))
    parser.add_help_options()
    parser.add_hidden_words()
    given, words = parser.split(argv)
    if len(words) != 1:
        parser.error("expected one [USER@]HOST[:PORT]" if words else "missing argument: HOST")
    user, host, port = parse_destination(words[0])
    if user.startswith("-") or host.startswith("-"):
        raise UsageError("neither user nor host may begin with a hyphen")
    wheel = PushedWheel(given["wheel"]) if given.get("wheel") else own_wheel()
    login = [*(["-l", user] if user else []), *(["-p", str(port)] if words[0].endswith(f":{port}") else [])]
    place = push(wheel, [*given["ssh"], "-T", *login, "--", host], host)
    complain(PROGRAM, f"mproxy {wheel.version} is installed on {host}, in {place}")
    return 0


class PushedWheel:
    """A wheel, in memory. UsageError if it is none."""

    def __init__(self, path: str, data: bytes | None = None) -> None:
        try:
            if data is None:
                with open(path, "rb") as file:
                    data = file.read()
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                names = packed.namelist()
                modules = [name for name in names if SUFFIX.search(name)]
                libraries = [name for name in names if name.startswith(f"mproxy{LIBRARIES}/")]
                self.libc = max((needed(packed.read(name)) for name in (*modules, *libraries)), default=(0, 0))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except zipfile.BadZipFile:
            raise UsageError(f"{path}: not a wheel") from None
        about = [match[1] for name in names if (match := re.fullmatch(r"mproxy-([\w.+]+)\.dist-info/WHEEL", name))]
        found = SUFFIX.search(modules[0]) if modules else None
        if not about or found is None:
            raise UsageError(f"{path}: not a wheel of mproxy")
        self.data = data
        self.version = about[0]
        self.suffix = found[1]
        self.python = 3, int(found[2])

    def with_packages(self, names: tuple[str, ...]) -> bytes:
        """The same with these packages, which are installed here, in it."""
        data = io.BytesIO(self.data)
        with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as packed:
            for name in names:
                for arcname, path in package_files(name):
                    packed.write(path, arcname)
        return data.getvalue()


def needed(module: bytes) -> tuple[int, int]:
    """The version of glibc that an extension module needs."""
    return max(((int(major), int(minor)) for major, minor in SYMBOL_VERSION.findall(module)), default=(0, 0))


def own_wheel() -> PushedWheel:
    """One of the files of this mproxy."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        for top in (package, package + LIBRARIES):
            for directory, within, files in os.walk(top):
                within[:] = sorted(name for name in within if name != "__pycache__")
                for name in sorted(files):
                    path = os.path.join(directory, name)
                    if not LEFT_OUT.search(name):
                        packed.write(path, os.path.relpath(path, os.path.dirname(package)))
        about = {"WHEEL": "Wheel-Version: 1.0\nGenerator: mproxy push\n",
                 "METADATA": f"Metadata-Version: 2.1\nName: mproxy\nVersion: {__version__}\n"}
        for name, text in about.items():  # without the time, so that the same files are the same wheel
            packed.writestr(zipfile.ZipInfo(f"mproxy-{__version__}.dist-info/{name}"), text)
    return PushedWheel(package, data.getvalue())


def package_files(name: str) -> list[tuple[str, str]]:
    """(name in an archive, path) of an installed package's files; none if it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return []
    return [(str(file), str(file.locate())) for file in files
            if ".." not in file.parts and not LEFT_OUT.search(file.name) and os.path.isfile(file.locate())]


def push(wheel: PushedWheel, ssh: list[str], host: str) -> str:
    """Install it; returns where the programs are. MproxyError."""
    with open(push_script.__file__, encoding="utf-8") as file:
        script = file.read()
    there = shlex.join(["sh", "-c", FIND_PYTHON.format(*wheel.python, push_script.SIGN), script])
    try:
        process = subprocess.Popen([*ssh, f"exec {there}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   env=bare_environment())
    except OSError as error:
        raise MproxyError(f"cannot run {ssh[0]}: {error.strerror}; is ssh installed?") from None
    assert process.stdin is not None and process.stdout is not None
    try:
        facts = listen(process.stdout)
        if facts is not None:
            check(wheel, facts, host)
            send(wheel, facts, process.stdin)
        told = listen(process.stdout)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        status = process.wait()
    if told is None:
        raise MproxyError(f"ssh to {host} ended with status {status} before it was done; nothing was changed there")
    if "failed" in told:
        raise MproxyError(f"{host}: {told['failed']}; nothing was changed")
    return str(told["done"])


def listen(output: IO[bytes]) -> dict[str, Any] | None:
    """What the script says next; None: it has ended."""
    for line in output:
        text = line.decode(errors="replace").strip()
        if text.startswith(push_script.SIGN):
            try:
                found = json.loads(text.removeprefix(push_script.SIGN))
            except ValueError:
                continue
            return found if isinstance(found, dict) else None
    return None


def check(wheel: PushedWheel, facts: dict[str, Any], host: str) -> None:
    """MproxyError if it cannot run there."""
    wanted = f"{wheel.python[0]}.{wheel.python[1]}"
    if "suffix" not in facts:
        present = str(facts.get("python", "")).strip()
        raise MproxyError(
            f"{host} has {present or 'no Python 3'}, and this mproxy needs Python {wanted}: install that there (Debian,"
            f" Ubuntu: apt install python{wanted}), or push a wheel for what is there (--wheel FILE)")
    if facts["suffix"] != wheel.suffix:
        raise MproxyError(f"{host} is of another kind: its Python takes modules of {facts['suffix']}, this mproxy has"
                          f" {wheel.suffix}: push a wheel for it (--wheel FILE)")
    version = re.fullmatch(r"(\d+)\.(\d+)", str(facts["libc"]))
    if version is None or (int(version[1]), int(version[2])) < wheel.libc:
        present = f"glibc {facts['libc']}" if version else "another C library than glibc"
        raise MproxyError(f"{host} has {present}, and this mproxy needs glibc {wheel.libc[0]}.{wheel.libc[1]}: build"
                          " mproxy there, or push a wheel that was built on such a host (--wheel FILE)")


def send(wheel: PushedWheel, facts: dict[str, Any], stdin: IO[bytes]) -> None:
    """The archive, with what is missing there."""
    data = wheel.data
    if not facts["keys"]:
        if wheel.python != sys.version_info[:2]:
            raise MproxyError("the Python package 'cryptography' is missing there: install it (Debian, Ubuntu: apt"
                              " install python3-cryptography)")
        import_packages(KEYS)
        data = wheel.with_packages(KEY_PACKAGES)
    name = f"{wheel.version}-{hashlib.sha256(data).hexdigest()[:8]}"
    with contextlib.suppress(BrokenPipeError):  # ssh tells how it ended
        stdin.write(json.dumps({"name": name, "bytes": len(data)}).encode() + b"\n")
        stdin.write(data)
        stdin.close()
