"""`mproxy certify`: signs a key with that of a CA, so that nobody has to copy lists of keys."""

from __future__ import annotations

import itertools
import os
import sys
import time

from mproxy.ground._wipe import wipe
from mproxy.ground.config import format_duration
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.key_formats import PKCS8_PREFIX, pem_block
from mproxy.ground.words import parse_duration, parse_name, printable
from mproxy.io.stdio import check_stdio
from mproxy.policy.certificates import (
    CLIENT,
    FOR_EVER,
    HOST,
    OPTION_NAMES,
    ROLES,
    SSH_KEY_TYPE,
    Certificate,
    certificate_line,
    encode_certificate,
    parse_certificate,
    parse_certificate_line,
    parse_ssh_key,
    say_time,
)
from mproxy.policy.grants import parse_option
from mproxy.policy.keys import KEY_TYPE, fingerprint, parse_spki, read_identity
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROGRAM = "mproxy certify"

SECOND_US = 1_000_000

# A certificate is valid from so long before it is made: clocks of other hosts may be slow.
EARLIER_S = 300

MOST_BYTES = 65536
MOST_SERIAL = (1 << 64) - 1


def main(argv: list[str]) -> int:
    """`mproxy certify`; the exit status."""
    return exit_status(PROGRAM, lambda: _run(_parse(argv)))


def certify_parser() -> OneLineParser:
    """Its options."""
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} --ca FILE --id NAME [options] KEY\n       {PROGRAM} --show FILE",
        "Sign a key with that of a CA, and print the certificate: the one line of the\n"
        "file client-key-cert.pub (host-key-cert.pub) beside the key.\n\n"
        "  KEY             file with the line of the public key, which 'mproxy keygen'\n"
        "                  prints where the key is; - for standard input",
        "A CA's key is one like any other, on a host where nothing else runs:\n"
        "  mproxy keygen -f ca.pem --comment 'our CA'\n"
        "sproxy trusts it by that line with 'cert-authority ' in front, in\n"
        "authorized_keys; cproxy by '@cert-authority *.example.com ' in known_hosts.\n\n"
        "TIME is a number with us, ms, s, m, h or d (12h, 30d; a bare number is seconds).\n\n"
        "examples:\n"
        "  mproxy certify --ca ca.pem --id ann --principals dev,ops --valid 12h ann.pub\n"
        "  mproxy certify --ca ca.pem --host --id web1 --principals web1.example.com \\\n"
        "      --valid 30d web1.pub > web1-cert.pub")
    parser.add_argument("key", nargs="?", metavar="KEY", help="see above")
    parser.add(parser, "--ca", parse_name, "file with the CA's key", metavar="FILE")
    parser.add(parser, "--id", parse_name, metavar="NAME", help=(
        "whose key it is: for the log of sproxy, and for revoking"))
    parser.add(parser, "--principals", _parse_principals, metavar="NAME,...", help=(
        "what principals= in authorized_keys asks for; with --host the names of the host, also with * and wildcards"))
    parser.add(parser, "--valid", parse_duration, metavar="TIME", default=24 * 3600 * SECOND_US, help=(
        "how long from now on (default 1d)"))
    parser.add(parser, "--serial", _parse_serial, metavar="N", help="its number, for revoking (default: random)")
    parser.add(parser, "--option", _parse_option, metavar="NAME=VALUE", action="append", help=(
        "bind it to target=, listen=, from=, max-streams= or max-sessions=, as a line of authorized_keys; repeatable"))
    parser.add_argument("--host", action="store_true", help="the key is that of an sproxy, not of a client")
    parser.add(parser, "--output", parse_name, "write it to this file, not to standard output", metavar="FILE")
    parser.add(parser, "--show", parse_name, "print what the certificate in this file says", metavar="FILE")
    parser.add_help_options()
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = certify_parser()
    options = parser.parse_args(argv)
    if options.show is not None:
        return options
    for name, shown in (("ca", "--ca"), ("id", "--id"), ("key", "KEY")):
        if getattr(options, name) is None:
            parser.error(f"missing argument: {shown}")
    if options.host and not options.principals:
        raise UsageError("--host needs --principals: the names of the host")
    if options.host and options.option:
        raise UsageError("--host and --option cannot be used together")
    return options


def _parse_principals(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise UsageError("not a list of names; expected NAME,...")
    return names


def _parse_serial(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= MOST_SERIAL):
        raise UsageError(f"not a number from 0 to {MOST_SERIAL}")
    return int(text)


def _parse_option(text: str) -> tuple[str, str]:
    """(name in a certificate, value)."""
    name, _equals, value = text.partition("=")
    word = next((word for word, known in OPTION_NAMES.items() if known == name), None)
    if word is None:
        raise UsageError(f"unknown option; expected one of {', '.join(OPTION_NAMES.values())}, with = and its value")
    parse_option(name, value)
    return word, value


def _run(options: argparse.Namespace) -> int:
    if options.show is not None:
        text = _show(_read(options.show))
        print(text)
        return 0
    spki = _parse_key(_read(options.key))
    seed = _read_seed(options.ca)
    now = int(time.time())
    certificate = Certificate(
        spki=spki, ca=b"", serial=int.from_bytes(os.urandom(8)) >> 1 if options.serial is None else options.serial,
        role=HOST if options.host else CLIENT, key_id=options.id, principals=options.principals or (),
        valid_after=now - EARLIER_S, valid_before=now + options.valid // SECOND_US, critical=dict(options.option or ()))
    try:
        data = encode_certificate(certificate, seed)
    finally:
        wipe(seed)
    line = f"{certificate_line(data, options.id)}\n"
    try:
        if options.output is not None:
            _write(options.output, line)
        else:
            os.write(1, line.encode())
    except OSError as error:
        raise MproxyError(f"cannot write {options.output or 'to standard output'}: {error.strerror}") from None
    complain(PROGRAM, f"{ROLES[certificate.role]} {fingerprint(spki)} is {printable(options.id)}, serial"
                      f" {certificate.serial}, for {format_duration(options.valid)}")
    return 0


def _write(path: str, text: str) -> None:
    """Write a file at once: whoever reads it meanwhile sees the former one, or all of the new one."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "x", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _read(path: str) -> str:
    """The text in a file, or on standard input; UsageError."""
    try:
        if path == "-":
            check_stdio([0])
            return sys.stdin.read(MOST_BYTES)
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror}") from None


def _parse_key(text: str) -> bytes:
    """The public key in the first line that has one; UsageError."""
    words = text.split()
    for word, after in itertools.pairwise(words):
        if word in (KEY_TYPE, SSH_KEY_TYPE):
            spki = parse_spki(after) if word == KEY_TYPE else parse_ssh_key(after)
            if spki is not None:
                return spki
    raise UsageError(f"KEY contains no public key; expected the line that 'mproxy keygen' prints: {KEY_TYPE} BASE64")


def _read_seed(path: str) -> bytearray:
    """The CA's private key."""
    identity = read_identity(path)
    if identity is None:
        raise UsageError(f"--ca {printable(path)}: no such file; create it with 'mproxy keygen -f {printable(path)}'")
    try:
        der = bytearray(pem_block(identity.pem, b"PRIVATE KEY"))
    finally:
        wipe(identity.pem)
    if not der.startswith(PKCS8_PREFIX):
        raise UsageError(f"--ca {printable(path)}: contains no Ed25519 key; create one with 'mproxy keygen'")
    seed = der[len(PKCS8_PREFIX):len(PKCS8_PREFIX) + 32]
    wipe(der)
    return seed


def _show(text: str) -> str:
    certificate = parse_certificate(parse_certificate_line(text))
    until = "for ever" if certificate.valid_before == FOR_EVER else f"to {say_time(certificate.valid_before)}"
    rows = [
        (ROLES[certificate.role], fingerprint(certificate.spki)), ("id", printable(certificate.key_id)),
        ("serial", str(certificate.serial)), ("CA", fingerprint(certificate.ca)),
        ("valid", f"from {say_time(certificate.valid_after)} {until}"),
        ("principals", ", ".join(map(printable, certificate.principals)) or "none"),
        *(("option", f"{printable(name)} {printable(value)}") for name, value in certificate.critical.items())]
    return "\n".join(f"{name:10} {value}" for name, value in rows)
