"""`mproxy ssh`: ssh itself, with `mproxy connect` as its ProxyCommand. All that a person sees and scripts rely on is
ssh's, because it is ssh that runs. Everybody waits for this, so as good as nothing is imported."""

from __future__ import annotations

import os
import sys

from mproxy.programs.own_command import own_command, shell_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # as programs/start.py

PROGRAM = "mproxy ssh"

HELP = """\
usage: mproxy ssh [any ssh option] [USER@]HOST [COMMAND]

ssh, whose connection survives outages and changes of address. HOST needs mproxy
installed; the first call starts it there, by an ssh of its own.
Options, exit status and messages are those of ssh: see ssh(1).

  mproxy ssh ann@server
  mproxy ssh -p 2222 -J gate ann@server make

The same for ssh, scp, sftp, rsync, git, editors: mproxy setup-ssh HOST."""

# ssh's options that a value follows.
VALUE_OPTIONS = "BbcDEeFIiJLlmOoPpQRSWw"

# Those that concern how the host is reached and who we are, so the ssh that starts sproxy needs them, too. Port and
# user are told by the other one.
SHARED = "46BbcFIiJmo"

# -o: what is meant for the connection that was asked for. ProxyJump may be given as -J alone beside ProxyCommand.
NOT_SHARED = ("controlmaster", "controlpath", "controlpersist", "dynamicforward", "exitonforwardfailure", "forkafter",
              "localcommand", "localforward", "permitlocalcommand", "remotecommand", "remoteforward", "requesttty",
              "sessiontype", "stdinnull", "tunnel")
WAYS = ("proxycommand", "proxyjump")


def main(argv: list[str]) -> int:
    """`mproxy ssh`; does not return unless ssh cannot be run."""
    if argv in (["--help"], ["-h"], ["--help-all"]):
        print(HELP)
        raise SystemExit(0)
    command = compose(argv, connecting())
    sys.stdout.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them
    try:
        os.execvp(command[0], command)
    except OSError as error:
        from mproxy.service.exit import FAILED, complain
        complain(PROGRAM, f"cannot run ssh: {error.strerror}; is it installed?")
        return FAILED


def connecting() -> list[str]:
    """How ssh is to call this mproxy: a program that pip has made is a Python, which takes long to start."""
    mproxy = own_command()
    quick = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quick-start")
    return [quick, "-", *mproxy] if len(mproxy) == 1 and os.access(quick, os.X_OK) else mproxy


def compose(argv: list[str], mproxy: list[str]) -> list[str]:
    """The ssh command for these words, with our ProxyCommand, and with the way to the host moved into that."""
    kept, shared = [], []
    for words, is_option in split(argv):
        option = words[0][1] if is_option else ""
        name = words[-1].replace("=", " ").split()[0].lower() if option == "o" and words[-1].strip(" =") else ""
        is_way = option == "J" or name in WAYS
        if option and option in SHARED and not name.startswith(NOT_SHARED):
            shared += words
        if not is_way:
            kept += words
    connect = [*mproxy, "connect", *(["--ssh", shell_words(["ssh", *shared])] if shared else [])]
    # ssh replaces what follows a % in it.
    return ["ssh", "-o", f"ProxyCommand={shell_words(connect).replace('%', '%%')} %r@%h:%p %n", *kept]


def split(argv: list[str]) -> list[tuple[list[str], bool]]:
    """(words, whether they are an option) of ssh's command line, in order: its options may come before and after the
    host, and what follows is a command, as one. Of `-tt4p22` each option has words of its own."""
    found: list[tuple[list[str], bool]] = []
    rest = list(argv)
    has_host = False
    while rest:
        word = rest[0]
        if word == "--" or not word.startswith("-") or word == "-":
            if has_host:
                break
            at = 2 if word == "--" else 1
            found.append((rest[:at], False))
            del rest[:at]
            has_host = True
            if word == "--":
                break
            continue
        del rest[0]
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in VALUE_OPTIONS:
                found.append(([f"-{letter}"], True))
                continue
            value = [letters] if letters else rest[:1]
            if not letters:
                del rest[:1]
            found.append(([f"-{letter}", *value], True))
            letters = ""
    if rest:
        found.append((rest, False))
    return found
