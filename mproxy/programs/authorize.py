"""`mproxy authorize`: exchanges the keys of both sides over ssh, once, so that nobody has to copy them.

One ssh, one script for the server's sh on its standard input:

1. append this client's line to authorized_keys there, unless its key is in it already;
2. when sproxy has never been started there, make its host key now: with the server's mproxy, or openssl. A private key
   never goes over the wire, in either direction;
3. print the host key's certificate, which becomes a line in known_hosts here.
"""

import os
import shlex
import subprocess

from mproxy._wipe import wipe
from mproxy.config import default_state_dir, format_host_port
from mproxy.errors import MproxyError, UsageError
from mproxy.policy.grants import parse_grant
from mproxy.policy.keys import find_spki, fingerprint, public_line, take_identity
from mproxy.policy.trust import HostTrust
from mproxy.programs.keygen import key_file, own_name
from mproxy.programs.options import OneLineParser, complain
from mproxy.words import parse_host, parse_name, parse_port, printable

PROGRAM = "mproxy authorize"

# Where sproxy listens in all examples; it has no default of its own.
SPROXY_PORT = 6200

# Everything of interest stands between these lines: a login shell may greet before, and say goodbye behind.
BEGIN, END = "mproxy-authorize-begin", "mproxy-authorize-end"

SCRIPT = r"""
set -u
umask 077
line={line}
key={key}
dir={directory}
mproxy={mproxy}
if [ -z "$dir" ]; then
    case ${{XDG_STATE_HOME:-}} in
        /*) dir=$XDG_STATE_HOME/mproxy ;;
        *) if [ "$(id -u)" = 0 ]; then dir=/var/lib/mproxy; else dir=$HOME/.local/state/mproxy; fi ;;
    esac
fi
keys=$dir/authorized_keys
host=$dir/host-key.pem

echo {begin}
mkdir -p "$dir" || exit 3
if [ -e "$keys" ] && grep -v '^[[:space:]]*#' "$keys" | grep -qF -e "$key"; then
    echo "present $keys"
else
    if [ -s "$keys" ] && [ -n "$(tail -c 1 "$keys")" ]; then echo >> "$keys" || exit 3; fi
    printf '%s\n' "$line" >> "$keys" || exit 3
    echo "added $keys"
fi

if [ ! -e "$host" ]; then
    if command -v "$mproxy" > /dev/null 2>&1; then
        "$mproxy" keygen --host -f "$host" > /dev/null 2>&1
    fi
fi
if [ ! -e "$host" ] && command -v openssl > /dev/null 2>&1; then
    made=$(mktemp "$dir/.host-key.XXXXXX") &&
        openssl req -x509 -newkey ed25519 -nodes -days 36500 -subj /CN=mproxy \
            -keyout "$made" -out "$made.certificate" > /dev/null 2>&1 &&
        cat "$made.certificate" >> "$made" && ln "$made" "$host" 2> /dev/null
    rm -f "$made" "$made.certificate"
fi
if [ -e "$host" ]; then
    sed -n '/-----BEGIN CERTIFICATE-----/,/-----END CERTIFICATE-----/p' "$host"
fi
echo {end}
"""


def main(argv):
    """Run; the exit status."""
    try:
        return _authorize(_parse(argv))
    except UsageError as error:
        complain(PROGRAM, error)
        return 2
    except MproxyError as error:
        complain(PROGRAM, error)
        return 1
    except KeyboardInterrupt:
        return 1


def _parse(argv):
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] [USER@]HOST",
        "Run ssh once: put this client's key into authorized_keys of the sproxy that\n"
        "USER runs on HOST, and its host key into known_hosts here. Can be repeated.",
        "examples:\n"
        "  mproxy authorize ann@server\n"
        "  mproxy authorize --ssh 'ssh -p 2222' --options 'max-streams=50' server")
    parser.add(parser, "--port", parse_port, metavar="PORT", default=SPROXY_PORT, help=(
        f"where sproxy listens (default {SPROXY_PORT})"))
    parser.add(parser, "--name", parse_host, metavar="HOST", help=(
        "what cproxy will call the server, when ssh calls it otherwise (default HOST)"))
    parser.add(parser, "--ssh", _parse_command, metavar="COMMAND", default=["ssh"], help=(
        "ssh with options of its own (default ssh)"))
    parser.add_argument("--options", metavar="LIST", default="", help=(
        "put in front of the key: target=, from=, expiry=, max-streams="))
    parser.add_argument("--comment", metavar="TEXT", help="words behind the key (default USER@HOST of this side)")
    parser.add(parser, "--key", parse_name, metavar="FILE", help=(
        "our key, made when there is none (default client-key.pem)"))
    parser.add(parser, "--known-hosts", parse_name, metavar="FILE", help="the file that learns the server's key")
    parser.add_argument("--remote-dir", metavar="DIR", default="", help=(
        "sproxy's state directory on the server (default as sproxy's own)"))
    parser.add_argument("--remote-mproxy", metavar="COMMAND", default="mproxy", help=(
        "mproxy on the server, for a host key that is not there yet (default mproxy)"))
    parser.add_argument("-h", "--help", action="help", help="print this text and exit")
    parser.add_word("destination", _parse_destination, "user and host for ssh")
    return parser.parse_args(argv)


def _parse_destination(text):
    user, _, host = text.rpartition("@")
    if text.startswith("-") or "@" in user or not text.isprintable() or " " in text:
        raise UsageError("is no destination: write USER@HOST or HOST")
    return text, parse_host(host)


def _parse_command(text):
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"is no command: {str(error).lower()}") from None
    if not words:
        raise UsageError("is empty")
    return words


def _authorize(options):
    destination, host = options.destination
    identity, _ = take_identity(options.key or key_file("client-key.pem"))
    wipe(identity.pem)
    line = public_line(identity.spki, own_name() if options.comment is None else options.comment)
    if options.options:
        line = f"{options.options} {line}"
    parse_grant(line)  # a mistake in --options is told here, not by sproxy's log
    words = ask_server(options, destination, line, line.split("mproxy-ed25519 ", 1)[1].split()[0])
    done, _, place = words[0].partition(" ")
    complain(PROGRAM, f"{identity.fingerprint} is {'added to' if done == 'added' else 'already in'} {host}:{place}")
    certificate = "\n".join(words[1:]).encode()
    if not certificate:
        raise MproxyError(
            f"sproxy has no host key on {host} yet, and neither mproxy nor openssl is there to make one: start sproxy"
            " once and repeat this (or let cproxy trust the key that it sees first)")
    return remember(options, options.name or host, find_spki(certificate, f"what {host} sent"))


def ask_server(options, destination, line, key):
    """Run the script over ssh; the lines that it printed."""
    script = SCRIPT.format(
        line=shlex.quote(line), key=shlex.quote(key), directory=shlex.quote(options.remote_dir),
        mproxy=shlex.quote(options.remote_mproxy), begin=BEGIN, end=END)
    command = [*options.ssh, "-T", "--", destination, "exec sh -s"]
    try:
        done = subprocess.run(command, input=script.encode(), stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise MproxyError(f"cannot run {printable(command[0])}: {error.strerror}; is ssh installed?") from None
    output = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or BEGIN not in output or END not in output:
        raise MproxyError(f"ssh to {destination} failed with status {done.returncode}: nothing is known to be changed")
    return output[output.index(BEGIN) + 1:output.index(END)]


def remember(options, name, spki):
    """Have the server's key in known_hosts; the exit status."""
    state_dir = default_state_dir()
    path = options.known_hosts or (state_dir and os.path.join(state_dir, "known_hosts"))
    if path is None:
        raise UsageError("there is no home directory for known_hosts: say where with --known-hosts FILE")
    warnings: list[str] = []
    found = HostTrust(path, warn=warnings.append).verify(name, options.port, spki)
    for warning in warnings:
        complain(PROGRAM, warning)
    if found == "unwritten":
        return 1
    said = "added to" if found == "new" else "already in"
    complain(PROGRAM, f"{format_host_port(name, options.port)} {fingerprint(spki)} is {said} {path}")
    return 0
