"""The `mproxy` command: finds the program by its first word and hands it the rest.

Programs are imported only when called, so each one starts as fast as if it were alone.
"""

from __future__ import annotations

import importlib
import sys

from mproxy import __version__
from mproxy.ground.words import printable
from mproxy.service.exit import complain

# word: (module, function, summary). Every function takes the words after its own and returns the exit status.
PROGRAMS = {
    "cproxy": ("mproxy.programs.cproxy", "main", "the proxy beside the application"),
    "sproxy": ("mproxy.programs.sproxy", "main", "the proxy beside the daemon"),
    "ssh": ("mproxy.programs.ssh", "main", "ssh that survives outages and changes of address"),
    "connect": ("mproxy.programs.connect", "main", "the same as a ProxyCommand, for ssh_config"),
    "setup-ssh": ("mproxy.programs.setup_ssh", "main", "write that into ~/.ssh/config for some hosts"),
    "relay": ("mproxy.programs.relay", "main", "relay TCP and UDP for many connections at once"),
    "status": ("mproxy.programs.status_commands", "status_main", "what every running program does"),
    "top": ("mproxy.programs.top", "main", "the same, live, to sort and to kill"),
    "kill": ("mproxy.programs.status_commands", "kill_main", "end a session, or one stream of it"),
    "wait": ("mproxy.programs.status_commands", "wait_main", "wait until a session is connected, for scripts"),
    "metrics": ("mproxy.programs.metrics", "main", "metrics of every running program, for Prometheus"),
    "web": ("mproxy.programs.web", "main", "the same as a page in the browser, live"),
    "doctor": ("mproxy.programs.doctor", "main", "find out why there is no session, and what to do"),
    "keygen": ("mproxy.programs.keygen", "main", "create this client's key"),
    "authorize": ("mproxy.programs.authorize", "main", "exchange keys with a server over ssh"),
    "demo": ("mproxy.programs.demo", "main", "watch a connection survive a change of address"),
    "send": ("mproxy.programs.send", "main", "send files and directories to mproxy recv, over UDP"),
    "recv": ("mproxy.programs.recv", "main", "receive what mproxy send sends"),
    "hash": ("mproxy.programs.hashing", "main", "the hash of files, as send and recv print it"),
    "impair": ("mproxy.programs.impair", "main", "a bad network in a box, for any UDP protocol"),
    "message-server": ("mproxy.programs.message", "server_main", "print the messages that clients send"),
    "message-client": ("mproxy.programs.message", "client_main", "send each line typed as a message"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the program named by `argv` (default: the process's own command line); the exit status."""
    program, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if program in ("--help", "-h"):
        print(_help())
        return 0
    if program == "--version":
        print(f"mproxy {__version__}")
        return 0
    if program in PROGRAMS:
        module, function, _ = PROGRAMS[program]
        status: int = getattr(importlib.import_module(module), function)(rest)
        return status
    wrong = f"{printable(program)} is not an mproxy program." if program else "no program given."
    complain("mproxy", f"{wrong} Choose from {', '.join(PROGRAMS)} (try 'mproxy --help')")
    return 2


def _help() -> str:
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, _, summary) in PROGRAMS.items()]
    return "\n".join((
        "usage: mproxy PROGRAM ...", "",
        "Keep TCP connections alive while the address under them changes.", "",
        "programs:", *lines, "",
        "See 'mproxy PROGRAM --help' for the options of one program."))


if __name__ == "__main__":
    from mproxy.programs.start import mproxy
    sys.exit(mproxy())
