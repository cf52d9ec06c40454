"""`mproxy doctor`: why no session can be had with an sproxy, or how good one will be, in plain words."""

from __future__ import annotations

import argparse
import json
import sys

from mproxy.ground.config import CproxyConfig, default_state_dir
from mproxy.ground.errors import UsageError
from mproxy.ground.words import (
    escaped,
    parse_duration,
    parse_fingerprint,
    parse_host,
    parse_name,
    parse_port,
    parse_proxy,
    split_host_port,
    via_host,
)
from mproxy.programs.examination import Examination
from mproxy.programs.findings import FAULT, MARKS
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import exit_status, silence_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mproxy.programs.findings import CheckResult

PROGRAM = "mproxy doctor"

# Characters of a line of output: what strangers say is in it.
LONGEST_LINE = 600

# How long a step may take; enough for a lost packet or two.
PATIENCE_US = 5_000_000
VIA_PATIENCE_US = 15_000_000  # ssh has a handshake of its own, and a shell at the other end


def main(argv: list[str]) -> int:
    """`mproxy doctor`; the exit status: 1 when something prevents a session."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    config, options = _parse(argv)
    examination = Examination(config, with_session=options["session"] or options["long"], long=options["long"])
    try:
        found = _tell(examination.run(), options["json"])
        summary = _summary(config, found)
        if options["json"]:
            print(json.dumps(summary | {"findings": [finding.facts() for finding in found]}))
        else:
            print("\n".join(_conclude(config.sproxy_name, summary)))
    except BrokenPipeError:
        silence_output()  # `| head` has seen enough
        return 1
    return int(not summary["possible"])


def _parse(argv: list[str]) -> tuple[CproxyConfig, dict[str, bool]]:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] HOST PORT\n       {PROGRAM} [options] --via COMMAND [HOST PORT]",
        "Find out why cproxy has no session with the sproxy at HOST PORT, or how good the\n"
        "path to it is, and what to do. Existing sessions are not affected.\n\n"
        "  HOST PORT       where sproxy should be; HOST:PORT means the same; with\n"
        "                  --via as with cproxy",
        "TIME is a number with us, ms, s, m, h or d (a bare number is seconds).\n\n"
        "exit status: 0 a session is possible, 1 something prevents it, 2 wrong command\n"
        "line\n\n"
        "examples:\n"
        "  mproxy doctor server 6200\n"
        "  mproxy doctor --proxy http://10.0.0.1:3128 server 6200\n"
        "  mproxy doctor --via 'ssh -T server sproxy --attach'")
    parser.add_argument("--session", action="store_true", default=False, help=(
        "begin a session as well, and show what the daemon says first; an sproxy --single ends its other session for"
        " it"))
    parser.add_argument("--long", action="store_true", default=False, help=(
        "--session, which is then left idle for a minute: does its connection survive?"))
    parser.add_argument("--json", action="store_true", default=False, help="one JSON object at the end")
    parser.add(parser, "--connect-timeout", parse_duration, metavar="TIME", help=(
        "how long each step waits for an answer (default 5s; a command of --via: 15s)"))
    parser.add(parser, "--proxy", parse_proxy, metavar="URL", help=(
        "through this HTTP or SOCKS proxy, as with cproxy: what does it say?"))
    parser.add(parser, "--via", parse_name, metavar="COMMAND", help=(
        "through this command, as with cproxy: does it bring an sproxy? It has no terminal here"))
    parser.add(parser, "--name", parse_name, metavar="NAME", help=(
        "as with cproxy --via: the name under which known_hosts has that sproxy"))
    parser.add(parser, "--key", parse_name, metavar="FILE", help=(
        "our key, as with cproxy (default client-key.pem in --state-dir)"))
    parser.add(parser, "--known-hosts", parse_name, metavar="FILE", help=(
        "the keys of servers (default known_hosts in --state-dir); nothing is added"))
    parser.add(parser, "--host-fingerprint", parse_fingerprint, metavar="SHA256:...", action="append", help=(
        "the server must have this key; repeatable"))
    parser.add_argument("--plaintext", action="store_true", default=None, help="as with cproxy: no encryption")
    parser.add(parser, "--state-dir", parse_name, metavar="DIR", help=(
        "directory of the keys (default $XDG_STATE_HOME/mproxy or ~/.local/state/mproxy; root: /var/lib/mproxy)"))
    parser.add_help_options()
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    given, words = parser.split(argv)
    if "via" in given and "proxy" in given:
        raise UsageError("--via and --proxy cannot be combined: the command is what leads to sproxy")
    place: dict[str, Any] = {}
    if "via" not in given or words:
        place["sproxy_host"], place["sproxy_port"] = parser.take_words(
            split_host_port(words, 0), (("HOST", parse_host), ("PORT", parse_port)))
    else:
        place["sproxy_host"] = via_host(given.get("name") or given["via"])
    options = {name: given.pop(name) for name in ("session", "long", "json")}
    given.setdefault("state_dir", default_state_dir())
    config = CproxyConfig(
        stdio=True, **place,
        connect_timeout_us=given.pop("connect_timeout", VIA_PATIENCE_US if "via" in given else PATIENCE_US),
        host_fingerprint=tuple(given.pop("host_fingerprint", ())), **given)
    return config, options


def _tell(findings: Iterator[CheckResult], as_json: bool) -> list[CheckResult]:
    """All of them; a person sees each as soon as it is known."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            print(_clean(f"{MARKS[finding.verdict]:4}  {finding.check:8}  {finding.text}"), flush=True)
    return found


def _summary(config: CproxyConfig, found: list[CheckResult]) -> dict[str, object]:
    faults = [finding for finding in found if finding.verdict == FAULT]
    return {
        "host": config.sproxy_host if config.sproxy_port else None, "port": config.sproxy_port, "via": config.via,
        "possible": not faults,
        "why": faults[0].text if faults else "",
        "advice": list(dict.fromkeys(finding.advice for finding in found if finding.advice))}


def _conclude(where: str, summary: dict[str, object]) -> Iterator[str]:
    """What it comes to, and what to do."""
    yield ""
    yield _clean(f"{'A' if summary['possible'] else 'No'} session with {where} is possible from here.")
    advice = summary["advice"]
    assert isinstance(advice, list)
    if advice:
        yield "What to do:"
        for each in advice:
            yield _clean(f"  * {each}")


def _clean(line: str) -> str:
    return escaped(line)[:LONGEST_LINE]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
