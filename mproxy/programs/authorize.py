"""`mproxy authorize`: exchanges the keys of both sides over ssh, once, so that nobody has to copy them.

One ssh, one script (authorize_script.py) for the server's sh on its standard input:

1. find the sproxy that listens on the port, and its files; refuse if these cannot be determined;
2. append this client's line to authorized_keys there, unless its key is in it already; after an expired line only if
   ours has another expiry;
3. if no sproxy has ever been started there, make its host key now, with the server's mproxy or with openssl. A private
   key never goes over the wire, in either direction;
4. print the host key's certificate, which becomes a line in known_hosts here, unless the sproxy that answers on the
   port has another key.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time

from mproxy._wire import CloseCode
from mproxy.carrier._tls import Tls, TlsContext
from mproxy.ground._wipe import wipe
from mproxy.ground.config import default_state_dir, format_host_port
from mproxy.ground.errors import LocalError, MproxyError, PeerError, UsageError
from mproxy.ground.words import parse_command, parse_host, parse_name, parse_port, printable
from mproxy.handshake import Caller
from mproxy.policy.grants import parse_grant
from mproxy.policy.keys import find_spki, fingerprint, public_line, take_identity
from mproxy.policy.trust import HostTrust
from mproxy.programs.authorize_script import BEGIN, END, SCRIPT
from mproxy.programs.connect import bare_environment
from mproxy.programs.keygen import key_file, own_name
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from mproxy.handshake import Hello
    from mproxy.policy.grants import Grant

PROGRAM = "mproxy authorize"

# Where sproxy listens in all examples; sproxy itself has no default port.
SPROXY_PORT = 6200

# Seconds that a reachable sproxy has to show its key.
LOOK_S = 3

def main(argv: list[str]) -> int:
    """`mproxy authorize`; the exit status."""
    return exit_status(PROGRAM, lambda: _authorize(_parse(argv)))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] [USER@]HOST",
        "Run ssh once: add this client's key to authorized_keys of the sproxy that USER\n"
        "runs on HOST, and the key of that sproxy to known_hosts here. Safe to repeat.",
        "examples:\n"
        "  mproxy authorize ann@server\n"
        "  mproxy authorize --ssh 'ssh -p 2222' --options 'max-streams=50' server")
    parser.add(parser, "--port", parse_port, metavar="PORT", default=SPROXY_PORT, help=(
        f"where sproxy listens (default {SPROXY_PORT})"))
    parser.add(parser, "--name", parse_host, metavar="HOST", help=(
        "the server's name for cproxy, if ssh uses another one (default HOST)"))
    parser.add(parser, "--ssh", parse_command, metavar="COMMAND", default=["ssh"], help=(
        "the ssh command, with any options (default ssh)"))
    parser.add_argument("--options", metavar="LIST", default="", help=(
        "options to put before the key: target=, listen=, from=, expiry=, max-streams=, max-sessions=, max-flows=; an"
        " existing line is not changed (exit status 1), only one that has expired is renewed by another expiry="))
    parser.add_argument("--comment", metavar="TEXT", help="comment after the key (default USER@HOST of this side)")
    parser.add(parser, "--key", parse_name, metavar="FILE", help=(
        "our key, created if missing (default client-key.pem)"))
    parser.add(parser, "--known-hosts", parse_name, metavar="FILE", help="file to which the server's key is added")
    parser.add_argument("--remote-dir", metavar="DIR", default="", help=(
        "sproxy's state directory on the server (default: that of the sproxy listening on PORT there, or else sproxy's"
        " default)"))
    parser.add_argument("--remote-mproxy", metavar="COMMAND", default="mproxy", help=(
        "mproxy command on the server, to create a missing host key (default mproxy)"))
    parser.add_help_options()
    parser.add_word("destination", _parse_destination, "user and host for ssh")
    return parser.parse_args(argv)


def _parse_destination(text: str) -> tuple[str, str]:
    user, _, host = text.rpartition("@")
    if text.startswith("-") or "@" in user or not text.isprintable() or " " in text:
        raise UsageError("not a valid destination; use USER@HOST or HOST")
    return text, parse_host(host)


def _authorize(options: argparse.Namespace) -> int:
    destination, host = options.destination
    path = options.key or key_file("client-key.pem")
    identity, _ = take_identity(path)
    wipe(identity.pem)
    line = public_line(identity.spki, own_name() if options.comment is None else options.comment)
    if options.options:
        line = f"{options.options} {line}"
    wanted = parse_grant(line)  # a mistake in --options is reported here, and not only in sproxy's log
    if not wanted.is_current(time.time()):
        raise UsageError("--options: the expiry is in the past")
    words = ask_server(options, destination, line, wanted)
    done, _, place = words[0].partition(" ")
    if done == "refused":
        raise MproxyError(f"{host}: {place}; nothing was changed")
    status = tell_outcome(options, wanted, done, [word[3:] for word in words if word.startswith("is ")],
                          identity.fingerprint, f"{host}:{place}")
    certificate = "\n".join(word for word in words[1:] if not word.startswith("is ")).encode()
    if not certificate:
        raise MproxyError(
            f"sproxy has no host key on {host} yet, and neither mproxy nor openssl is available there to create one:"
            " start sproxy once and run this again (or let cproxy trust the first key that it sees)")
    spki = find_spki(certificate, f"what {host} sent")
    check_offered(options.name or host, options.port, path, spki, f"{host}:{place}")
    return remember(options, options.name or host, spki) or status


def tell_outcome(options: argparse.Namespace, wanted: Grant, done: str, present: list[str], key: str,
                 place: str) -> int:
    """Say what became of our line; returns the exit status. `done`: a word of the script, `present`: lines that were
    there."""
    if done == "expired":
        complain(PROGRAM, f"{key} is in {place}, but its expiry has passed: sproxy lets nobody in by that line. Renew"
                          " it with --options 'expiry=\"DATE\"' (and what else it is to say), or edit it there. It"
                          f" reads: {present[0]}")
        return 1
    said = {"added": "added to", "renewed": "renewed in", "present": "already in"}[done]
    complain(PROGRAM, f"{key} is {said} {place}")
    return check_options(options, wanted, present, place)


def check_options(options: argparse.Namespace, wanted: Grant, present: list[str], place: str) -> int:
    """The exit status: 1, with a message, if --options are not those of the lines `present` in the file."""
    if not options.options or not present:
        return 0
    for text in present:
        try:
            if parse_grant(text).same_rights(wanted):
                return 0
        except UsageError:
            pass  # sproxy's log says what is wrong with it
    complain(PROGRAM, f"--options were NOT applied: the existing line in {place} was not changed; edit it there. It"
                      f" reads: {present[0]}")
    return 1


def check_offered(name: str, port: int, key_path: str, spki: bytes, place: str) -> None:
    """Raise MproxyError if an sproxy answers at (name, port) with a key other than `spki`; none need answer."""
    offered = look_at_key(name, port, key_path)
    if offered in (None, spki):
        return
    raise MproxyError(
        f"{format_host_port(name, port)} offers the key {fingerprint(offered)}, but the host key beside {place} is"
        f" {fingerprint(spki)}: either that sproxy keeps its keys elsewhere (give its directory with --remote-dir, and"
        " remove our line from that file), or someone is intercepting the connection. Nothing was remembered")


def look_at_key(name: str, port: int, key_path: str) -> bytes | None:
    """The key of the sproxy at (name, port); None if none answers in time."""
    seen = []

    def judge(spki: bytes) -> None:
        seen.append(spki)
        raise PeerError(CloseCode.ORDERLY, "seen enough")

    def compose() -> tuple[Hello, bytes, bytes]:
        raise LocalError("the server's key is always refused")

    identity, _ = take_identity(key_path)
    try:
        caller = Caller(compose, Tls(TlsContext(identity.pem, is_server=False)), judge)
        with socket.create_connection((name, port), timeout=LOOK_S) as sock:
            while True:
                sock.sendall(caller.outgoing)
                caller.outgoing = b""
                caller.feed(sock.recv(65536) or b"not mproxy's")
    except (OSError, MproxyError):
        return seen[0] if seen else None
    finally:
        wipe(identity.pem)


def ask_server(options: argparse.Namespace, destination: str, line: str, wanted: Grant) -> list[str]:
    """Run the script over ssh; returns the lines that it printed. `wanted`: the Grant of our `line`."""
    key = line.split("mproxy-ed25519 ", 1)[1].split()[0]
    variables = {"line": line, "key": key, "renews": "no" if wanted.expires_at is None else "yes",
                 "port": str(options.port), "directory": options.remote_dir, "mproxy": options.remote_mproxy}
    script = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()) + SCRIPT
    command = [*options.ssh, "-T", "--", destination, "exec sh -s"]
    try:
        done = subprocess.run(command, input=script.encode(), stdout=subprocess.PIPE, env=bare_environment(),
                              check=False)
    except OSError as error:
        raise MproxyError(f"cannot run {printable(command[0])}: {error.strerror}; is ssh installed?") from None
    output = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or BEGIN not in output or END not in output:
        raise MproxyError(f"ssh to {destination} failed with status {done.returncode}; as far as is known, nothing was"
                          " changed")
    return output[output.index(BEGIN) + 1:output.index(END)]


def remember(options: argparse.Namespace, name: str, spki: bytes) -> int:
    """Put the server's key into known_hosts; returns the exit status."""
    state_dir = default_state_dir()
    path = options.known_hosts or (state_dir and os.path.join(state_dir, "known_hosts"))
    if path is None:
        raise UsageError("no home directory for known_hosts: name the file with --known-hosts FILE")
    warnings: list[str] = []
    found = HostTrust(path, warn=warnings.append).verify(name, options.port, spki)
    for warning in warnings:
        complain(PROGRAM, warning)
    if found == "unwritten":
        return 1
    said = "added to" if found == "new" else "already in"
    complain(PROGRAM, f"{format_host_port(name, options.port)} {fingerprint(spki)} is {said} {path}")
    return 0
