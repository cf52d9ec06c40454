"""`mproxy service`: has systemd run an entry of config.toml, now and always."""

from __future__ import annotations

import os
import pwd
import subprocess

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import printable
from mproxy.programs.entries import SYSTEM_FILE
from mproxy.programs.options import OneLineParser
from mproxy.programs.own_command import own_command
from mproxy.programs.setup_ssh import write
from mproxy.programs.unit_text import in_home, unit_name, unit_text
from mproxy.programs.up_down import add_config, choose, find_named
from mproxy.service.exit import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.programs.entries import Entry

PROGRAM = "mproxy service"

SYSTEM_UNITS = "/etc/systemd/system"


def main(argv: list[str]) -> int:
    """`mproxy service`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} install|remove|show [--system] [--config FILE] NAME",
        "Have systemd run an entry of config.toml, sandboxed, and again when it fails.\n\n"
        "  install         write its unit, start it, and have it started from now on;\n"
        "                  once more after a change of the entry\n"
        "  remove          end it, and remove its unit\n"
        "  show            print the unit, and change nothing",
        "examples:\n"
        "  mproxy service install office\n"
        "  sudo mproxy service install --system ssh")
    parser.add_argument("--system", action="store_true", default=None, help=(
        "a service of the system, with a user of its own, of an entry in /etc/mproxy/config.toml; without it one of"
        " this user's"))
    add_config(parser)
    parser.add_help_options()
    parser.add_hidden_words()
    given, words = parser.split(argv)
    commands = {"install": install, "remove": remove, "show": show}
    if len(words) != 2 or words[0] not in commands:
        raise UsageError(f"expected install, remove or show, and a NAME (try '{PROGRAM} --help')")
    manager = Manager("system" in given)
    if words[0] == "remove":
        remove(manager, words[1])
        return 0
    entry, = choose(given.get("config"), words[1:], [SYSTEM_FILE] if manager.is_system else None).values()
    (install if words[0] == "install" else show)(manager, entry)
    return 0


class Manager:
    """The service manager of the system, or of this user."""

    def __init__(self, is_system: bool) -> None:
        self.is_system = is_system
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        self.units = SYSTEM_UNITS if is_system else os.path.join(config, "systemd", "user")
        self.options = "" if is_system else "--user "

    def check(self) -> None:
        """MproxyError or UsageError where it cannot be asked."""
        if not os.path.isdir("/run/systemd/system"):
            raise MproxyError("systemd does not run here; 'mproxy up NAME' starts an entry, from cron's @reboot or the"
                              " init system in use")
        if self.is_system and os.geteuid() != 0:
            raise UsageError("--system changes the system's services, which only root may: use sudo, or leave it out")
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        if not self.is_system and not os.path.exists(os.path.join(runtime, "systemd", "private")):
            raise MproxyError("this user has no service manager here (XDG_RUNTIME_DIR does not lead to one): log in as"
                              " the user, not by su, or use --system")

    def call(self, *words: str) -> None:
        """systemctl; MproxyError with what it says."""
        command = ["systemctl", *self.options.split(), "--quiet", *words]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise MproxyError(f"cannot run systemctl: {error.strerror}") from None
        if done.returncode:
            said = "; ".join(line for line in done.stderr.splitlines() if line.strip())
            raise MproxyError(f"{' '.join(command)}: {said or f'exit status {done.returncode}'}")

    def path(self, name: str) -> str:
        """The unit's file."""
        return os.path.join(self.units, name)


def install(manager: Manager, entry: Entry) -> None:
    """Write the unit, and have it run."""
    manager.check()
    unit, path = unit_name(entry), manager.path(unit_name(entry))
    text = unit_text(entry, _own_command(manager), manager.is_system)
    running = find_named(entry.name)
    if running is not None and not os.path.exists(path):
        raise MproxyError(f"{entry.name} is running already, process {running.pid}: end it first, mproxy down"
                          f" {entry.name}")
    is_same = _read(path) == text
    if is_same:
        print(f"{path}: no change")
    else:
        write(path, text)
        os.chmod(path, 0o644)
        print(f"{path}: written; it runs: {_exec_start(text)}")
    manager.call("daemon-reload")
    manager.call("enable", unit)
    manager.call("start" if is_same else "restart", unit)
    print(f"{unit}: enabled and started, with {'a user of its own' if manager.is_system else 'your rights'}, sandboxed")
    shown = manager.options
    print(f"  look: systemctl {shown}status {unit}; log: journalctl {shown}-u {unit}")
    if not manager.is_system and not _lingers():
        print("  it runs while you are logged in; to have it run from boot on, once: loginctl enable-linger")


def remove(manager: Manager, name: str) -> None:
    """End the service, and remove its unit."""
    unit = f"mproxy-{name}.service"
    path = manager.path(unit)
    if not os.path.exists(path):
        raise UsageError(f"no service is called {printable(name)}: there is no {path}")
    manager.check()
    manager.call("disable", "--now", unit)
    os.unlink(path)
    manager.call("daemon-reload")
    print(f"{unit}: ended and removed")


def show(manager: Manager, entry: Entry) -> None:
    """Print the unit as it would be written."""
    print(unit_text(entry, _own_command(manager), manager.is_system), end="")


def _own_command(manager: Manager) -> list[str]:
    words = own_command()
    if manager.is_system and in_home(words[0]):
        raise UsageError(f"{words[0]} is in a home directory, where a service of the system cannot look: install mproxy"
                         " for all users, or leave --system out")
    return words


def _exec_start(text: str) -> str:
    return text.partition("\nExecStart=")[2].partition("\n")[0]


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def _lingers() -> bool:
    try:
        return os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.geteuid()).pw_name}")
    except KeyError:
        return False
