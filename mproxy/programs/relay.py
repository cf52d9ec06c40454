"""mproxy relay: a TCP and UDP relay for many connections at once."""

from __future__ import annotations

import sys

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import counted, escaped
from mproxy.programs.relay_options import PROGRAM, parse_relay
from mproxy.programs.relay_rules import change_rules
from mproxy.programs.relay_service import Service
from mproxy.programs.relay_status import say_status
from mproxy.programs.status_text import clean
from mproxy.relay.rule_file import read_rules, read_written
from mproxy.service import control
from mproxy.service.answers import STRANGE, is_status, what_was_done
from mproxy.service.background import Background, LogFile, running_pid, stop_process
from mproxy.service.exit import exit_status, silence_output
from mproxy.service.log import reserve_standard_fds
from mproxy.service.systemd import given_sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.relay.datapath import Facts
    from mproxy.relay.relay_config import RelayConfig

# Longer than the relay's own --drain-timeout, which only the relay knows: a day at most.
STOP_PATIENCE_S = 86_400 + 60


def main(argv: list[str] | None = None) -> int:
    """Run `mproxy relay` with the words after it; returns the exit status."""
    return exit_status(PROGRAM, _run_command, sys.argv[1:] if argv is None else argv)


def _run_command(argv: list[str]) -> int:
    command, given = parse_relay(argv)
    commands: dict[str, Callable[[Any], int]] = {
        "run": run, "check": check, "reload": reload, "stop": stop, "status": status, "rule": rule}
    return commands[command](given)


# ---- commands

def check(given: dict[str, Any]) -> int:
    """Check a file of rules."""
    rules = read_rules(given["file"])
    if given.get("kernel"):
        from mproxy.relay.kernel.kernel_mode import refuse_impossible
        refuse_impossible(rules, given["file"])
    print(f"{given['file']}: {counted(len(rules), 'rule')}")
    return 0


def reload(given: dict[str, Any]) -> int:
    """Have the running relay read its rules again."""
    print(escaped(what_was_done(_ask(find_relay(given), "reload"))))
    return 0


def stop(given: dict[str, Any]) -> int:
    """End the running relay, after its connections."""
    stop_process(find_relay(given), STOP_PATIENCE_S)
    return 0


def status(given: dict[str, Any]) -> int:
    """Print what the running relay does."""
    answer, as_json = _ask_status(find_relay(given)), given.get("json", False)
    said = say_status(answer, as_json)
    try:
        print(said if as_json else clean(said), flush=True)
    except BrokenPipeError:
        silence_output()  # `| head` has seen enough
    return 0


def rule(given: dict[str, Any]) -> int:
    """Add a rule to the running relay, remove some, or print all."""
    return change_rules(given, control.find_socket("relay", find_relay(given)))


def find_relay(given: dict[str, Any]) -> int:
    """The process of the running relay for which the command is."""
    if "pidfile" in given:
        return running_pid(given["pidfile"])
    running = [pid for _program, pid, _socket in control.find_running("relay")]
    if not running:
        raise MproxyError("no relay of this user is running here; choose another user's with --pidfile FILE")
    if len(running) > 1:  # one that is stopping may go on for a while beside its successor
        running = [pid for pid in running if _ask_status(pid)["state"] != "stopping"] or running
    if len(running) > 1:
        raise UsageError(f"{len(running)} relays are running: choose one with --pidfile FILE")
    return running[0]


def _ask(pid: int, command: str) -> Facts:
    return control.ask(control.find_socket("relay", pid), command)


def _ask_status(pid: int) -> Facts:
    answer = _ask(pid, "status")
    if not is_status(answer, "relay"):
        raise MproxyError(f"cannot show what process {pid} does: {STRANGE}")
    return answer


# ---- running

def run(config: RelayConfig) -> int:
    """Serve until stopped; the exit status."""
    given, strange = given_sockets()
    rules = list(config.rules) if config.file is None else read_written(config.file)
    reserve_standard_fds()
    background = Background()
    if config.daemon:
        background.begin(keep=[sock.fileno() for sockets in given.values() for sock in sockets])
    log_file = LogFile(config.log_file)

    def serve() -> int:
        try:
            log_file.open()
            service = Service(config, log_file, background, given)
            for what in strange:
                service.log.warning("socket-unused", why="not a bound socket", address=what)
            return service.run(rules)
        except (MproxyError, OSError):
            log_file.give_back()  # whoever started it reads standard error, not the log
            raise

    ended = exit_status(PROGRAM, serve)
    if ended:
        background.failed(ended)
    return ended


if __name__ == "__main__":
    sys.exit(main())
