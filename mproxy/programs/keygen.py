"""`mproxy keygen`: makes a key and prints the line that authorises it."""

from __future__ import annotations

import os
import socket

from mproxy.ground._wipe import wipe
from mproxy.ground.config import default_state_dir
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.policy.keys import fingerprint, public_line, read_identity, take_identity
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROGRAM = "mproxy keygen"


def main(argv: list[str]) -> int:
    """`mproxy keygen`; the exit status."""
    return exit_status(PROGRAM, lambda: _generate(_parse(argv)))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options]",
        "Create this client's key, and print the line that authorizes it, to be appended\n"
        "to sproxy's authorized_keys. An existing key is kept, and its line is printed.",
        "Options may precede the key on its line, separated by commas:\n"
        "  target=\"HOST:PORT,...\"  only these daemons\n"
        "  from=\"CIDR,...\"         only from these addresses\n"
        "  expiry=\"2027-01-31\"     not valid from that day on\n"
        "  max-streams=N           connections at once, in all its sessions\n"
        "  max-sessions=N          sessions at once\n"
        "  max-flows=N             flows of datagrams at once (cproxy --udp)\n"
        "  cert-authority          it is a CA's: who has its certificate may connect\n"
        "  principals=\"NAME,...\"   with that: only certificates for one of these")
    parser.add_argument("-f", "--file", metavar="FILE", help=(
        "file of the key (default client-key.pem in $XDG_STATE_HOME/mproxy or ~/.local/state/mproxy; root:"
        " /var/lib/mproxy)"))
    parser.add_argument("--comment", metavar="TEXT", help="comment after the key (default USER@HOST)")
    parser.add_argument("--host", action="store_true", help="sproxy's key instead of a client's (host-key.pem)")
    parser.add_argument("--openssh", action="store_true", help="print the key as OpenSSH writes it, for ssh-keygen -s")
    parser.add_help_options()
    return parser.parse_args(argv)


def _generate(options: argparse.Namespace) -> int:
    if options.file == "":
        raise UsageError("--file '': must not be empty")
    path = options.file or key_file("host-key.pem" if options.host else "client-key.pem")
    existing = read_identity(path)
    identity, new = (existing, False) if existing else take_identity(path)
    wipe(identity.pem)
    comment = own_name() if options.comment is None else options.comment
    if options.openssh:
        from mproxy.policy.certificates import ssh_public_line
        line = ssh_public_line(identity.spki, comment)
    else:
        line = public_line(identity.spki, comment)
    try:
        os.write(1, f"{line}\n".encode())
    except OSError as error:
        raise MproxyError(f"cannot write the line to standard output: {error.strerror}; the key is in {path}") from None
    if new:
        complain(PROGRAM, f"created {path}, {fingerprint(identity.spki)}")
    else:
        complain(PROGRAM, f"kept the existing {path}, {fingerprint(identity.spki)}; the line below is its own")
    return 0


def key_file(name: str) -> str:
    """The default place of a key; UsageError when the environment tells none."""
    directory = default_state_dir()
    if directory is None:
        raise UsageError("no home directory to keep the key in: name a file with -f FILE")
    return os.path.join(directory, name)


def own_name() -> str:
    """USER@HOST, as ssh-keygen comments a key."""
    import pwd  # needed here alone
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
