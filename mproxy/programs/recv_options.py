"""The command line of `mproxy recv`."""

from __future__ import annotations

from mproxy.ground.config import DAY_US
from mproxy.ground.errors import UsageError
from mproxy.ground.words import (
    parse_count,
    parse_duration,
    parse_host,
    parse_host_port,
    parse_name,
    parse_port,
    split_host_port,
)
from mproxy.programs.options import OneLineParser
from mproxy.programs.transfer import add_common, configure
from mproxy.transport.code_keying import is_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.programs.transfer_config import TransferConfig

PROGRAM = "mproxy recv"

_USAGE = """mproxy recv [options] PORT [-o FILE|DIR|-]
       mproxy recv [options] CODE [HOST PORT] [-o FILE|DIR|-]"""

_DESCRIPTION = """\
Receive what 'mproxy send' sends to UDP port PORT. Files go to the current
directory, to DIR, to FILE (one), or to standard output (-o -). A file gets its
name only once all of it has arrived and its hash matches.

Only senders with keys may send, see --key and --own-key; with --open anyone
may. CODE is what 'mproxy send FILE...' prints: one transfer, sealed, from that
sender; HOST PORT tells where it is, unless it is in the same network."""

_EPILOG = """\
exit status (--once): 0 everything arrived, 2 wrong command line, 3 no space, 4
no permission, 5 already exists, 6 no answer, 7 the keys do not agree, 8
partial: what was named could not be read, or changed while it was sent, 1 any
other failure. With -o -, with and without --once: 141 nobody reads standard
output any more.

TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).

examples:
  mproxy recv --key secret 7000 -o incoming/
  mproxy recv --once --key secret 7000 -o - | tar x
"""


def recv_parser() -> OneLineParser:
    """The options of `mproxy recv`."""
    parser = OneLineParser(PROGRAM, _USAGE, _DESCRIPTION, _EPILOG)
    group = parser.add_argument_group("files")
    group.add_argument("-o", "--output", metavar="FILE|DIR|-", help=(
        "destination: a file, a directory, or '-' for standard output (default: the current directory)"))
    group.add_argument("--force", action="store_true", default=None, help="replace existing files")
    group.add_argument("--perms", action="store_true", default=None, help=(
        "give files and directories the sender's modes, whatever our umask (never set-user-ID and the like)"))
    group.add_argument("--xattrs", action="store_true", default=None, help=(
        "give files and directories the extended attributes and ACLs that 'mproxy send --xattrs' sends"))
    group.add_argument("--delete", action="store_true", default=None, help=(
        "let senders with keys delete what they do not have ('mproxy send --delete'), in directories that they send"))
    group.add_argument("--once", action="store_true", default=None, help="exit after the first sender")
    parser.add(group, "--senders", parse_count, metavar="N", help="senders at once (default 16)")
    parser.add(group, "--partial-ttl", parse_duration, metavar="TIME", help=(
        "remove partial files that no sender has continued for this long (default 7d, with --open 1d)"))
    add_common(parser)
    parser.add(parser, "--authorized-keys", parse_name, metavar="FILE", help=(
        "list of the keys (from 'mproxy keygen') that may send, as for sproxy (default authorized_keys in its state"
        " directory)"))
    parser.add(parser, "--revoked-keys", parse_name, metavar="FILE", help=(
        "list of keys, and of certificates by serial or id, that are revoked, as for sproxy"))
    parser.add_argument("--open", action="store_true", default=None, help=(
        "without keys: accept files from anyone who can reach the port"))
    parser.add(parser, "--user", parse_name, metavar="USER", help=(
        "write files as this user: give up root's rights once the port is open and the keys are read"))
    parser.add(parser, "--ack-to", parse_host_port, metavar="HOST:PORT", help=(
        "send all answers to this address ('mproxy send --ack-port'), not to where the packets come from"))
    return parser


def parse_recv(argv: list[str] | None) -> TransferConfig:
    """The TransferConfig of the command line `argv`."""
    parser = recv_parser()
    given, words = parser.split(argv)
    if words and is_code(words[0]):
        return _configure_with_code(parser, given, words)
    port, = parser.take_words(words, (("PORT", lambda text: parse_port(text, 0)),))
    if given.get("output") == "":
        raise UsageError("--output '': must not be empty")
    if "partial_ttl" in given or "open" in given:
        given["partial_ttl_us"] = given.pop("partial_ttl", DAY_US)
    config = configure(given, "host-key.pem", port=port)
    if config.key is not None and config.open:
        raise UsageError("--open and a key cannot be used together: with a key nobody else may send; leave one out")
    if config.delete and config.open:
        raise UsageError("--delete and --open cannot be used together: anyone could have files here deleted; use --key"
                         " or --own-key")
    if config.key is None and not config.open:
        raise UsageError("without keys anyone who can reach the port could write files here: use --key FILE (a secret"
                         " that both sides have) or --own-key, or --open to accept files from anyone")
    return config


def _configure_with_code(parser: OneLineParser, given: dict[str, Any], words: list[str]) -> TransferConfig:
    from mproxy.transport import code_keying
    for option in ("once", "senders", "open", "authorized_keys", "ack_to", "user", "partial_ttl"):
        if option in given:
            raise UsageError(f"--{option.replace('_', '-')} is for a receiver that listens; leave it out with a code")
    words = split_host_port(words, -1) if len(words) > 1 else words
    place: tuple[Any, Any] = ("", 0)
    if len(words) > 1:
        host, port = parser.take_words(words[1:], (("HOST", parse_host), ("PORT", parse_port)))
        place = host, port
    code, = parser.take_words(words[:1], (("CODE", code_keying.parse_code),))
    code_keying.load()
    return configure(given, "host-key.pem", host=place[0], port=place[1], code=code, once=True, sweep=False)
