"""The `mproxy` command: finds the program by its first word and hands it the rest.

Programs are imported only when called, so each one starts as fast as if it were alone.
"""

from __future__ import annotations

import sys

from mproxy import __version__

# word: (module, function, summary). Every function takes the words after its own and returns the exit status.
PROGRAMS = {
    "cproxy": ("mproxy.programs.cproxy", "main", "the proxy beside the application"),
    "sproxy": ("mproxy.programs.sproxy", "main", "the proxy beside the daemon"),
    "ssh": ("mproxy.programs.ssh", "main", "ssh that survives outages and changes of address"),
    "connect": ("mproxy.programs.connect", "main", "the same as a ProxyCommand for ssh_config"),
    "setup-ssh": ("mproxy.programs.setup_ssh", "main", "have ssh do that for some hosts, by ~/.ssh/config"),
    "push": ("mproxy.programs.push", "main", "install mproxy on a host, by ssh, for its user"),
    "relay": ("mproxy.programs.relay", "main", "relay TCP and UDP for many connections at once"),
    "up": ("mproxy.programs.up_down", "up_main", "start what config.toml has entries for, in the background"),
    "down": ("mproxy.programs.up_down", "down_main", "end what mproxy up has started"),
    "config": ("mproxy.programs.config_commands", "main", "check config.toml, show it, or print an example"),
    "service": ("mproxy.programs.service_commands", "main", "have systemd run an entry of config.toml, now and always"),
    "status": ("mproxy.programs.status_commands", "status_main", "what every running program does"),
    "top": ("mproxy.programs.top", "main", "every session, live, to sort and to kill"),
    "kill": ("mproxy.programs.status_commands", "kill_main", "end a session, or one stream of it"),
    "wait": ("mproxy.programs.status_commands", "wait_main", "wait until a session is connected, for scripts"),
    "upgrade": ("mproxy.programs.upgrade", "main", "have a new version take over, with all connections"),
    "metrics": ("mproxy.programs.metrics", "main", "metrics of every running program, for Prometheus"),
    "web": ("mproxy.programs.web", "main", "every session on a live page in the browser"),
    "doctor": ("mproxy.programs.doctor", "main", "find out why there is no session, and what to do"),
    "keygen": ("mproxy.programs.keygen", "main", "create this client's key"),
    "certify": ("mproxy.programs.certify", "main", "sign a key with that of a CA"),
    "authorize": ("mproxy.programs.authorize", "main", "exchange keys with a server over ssh"),
    "demo": ("mproxy.programs.demo", "main", "watch a connection survive a change of address"),
    "copy": ("mproxy.programs.copying", "main", "copy files to or from another host, as scp does, over UDP"),
    "send": ("mproxy.programs.send", "main", "send files and directories to mproxy recv, over UDP"),
    "recv": ("mproxy.programs.recv", "main", "receive what mproxy send sends"),
    "hash": ("mproxy.programs.hashing", "main", "the hash of files, as send and recv print it"),
    "impair": ("mproxy.programs.impair", "main", "a bad network in a box, for any UDP protocol"),
    "message-server": ("mproxy.programs.message", "server_main", "print the messages that clients send"),
    "message-client": ("mproxy.programs.message", "client_main", "send each line typed as a message"),
}


# What `mproxy` alone says, ordered by what people need: (command, what it is for).
OVERVIEW = (
    ("mproxy ssh user@server", "ssh that survives outages and changes of address"),
    ("cproxy 5200 server 6200", "beside the application, which connects to 5200"),
    ("sproxy 6200 127.0.0.1:22", "beside the daemon: the other end of that"),
    ("mproxy authorize user@server", "exchange keys over ssh, once"),
    ("mproxy status", "what runs, and what it has been through"),
    ("mproxy doctor server 6200", "why there is no connection, and what to do"),
    ("mproxy copy FILE server:dir/", "files over UDP, as scp copies them"),
    ("mproxy relay 80 server 8080", "forward TCP and UDP for many connections at once"),
)


def main(argv: list[str] | None = None) -> int:
    """Run the program named by `argv` (default: the process's own command line); the exit status."""
    program, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    texts = {"": _overview, "--help": _help, "-h": _help, "--help-all": _help_all}
    if program in texts:
        print(texts[program]())
        return 0
    if program == "--version":
        print(f"mproxy {__version__}")
        return 0
    if program in PROGRAMS:
        module, function, _ = PROGRAMS[program]
        status: int = getattr(__import__(module, fromlist=(function,)), function)(rest)
        return status
    from mproxy.ground.words import printable
    from mproxy.service.exit import complain
    complain("mproxy", f"{printable(program)} is not an mproxy program. Choose from {', '.join(PROGRAMS)}"
                       " (try 'mproxy --help')")
    return 2


def _overview() -> str:
    width = max(len(command) for command, _ in OVERVIEW)
    return "\n".join((
        "mproxy keeps TCP connections alive while the network under them changes.",
        *(f"  {command:{width}}  {what}" for command, what in OVERVIEW),
        "All of it: mproxy --help. The options of one program: mproxy PROGRAM --help"))


def _help() -> str:
    import textwrap
    shown = {command.removeprefix("mproxy ").split()[0] for command, _ in OVERVIEW}
    others = ", ".join(name for name in PROGRAMS if name not in shown)
    *lines, _ = _overview().splitlines()
    return "\n".join((
        "usage: mproxy PROGRAM ...", "", *lines, "",
        *textwrap.wrap(f"Also: {others}.", 79, break_on_hyphens=False), "",
        "A line for each: mproxy --help-all. Its options: mproxy PROGRAM --help"))


def _help_all() -> str:
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
