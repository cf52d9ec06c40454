"""What `mproxy relay status` prints of the relay's answer."""

from __future__ import annotations

import json

from mproxy.ground.config import format_host_port
from mproxy.ground.words import counted, say_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.relay.datapath import Facts

_UNITS = ("", "K", "M", "G", "T", "P")

# Most rules shown as text; --json has them all.
SHOWN = 200


def say_status(facts: Facts, as_json: bool) -> str:
    """Text, or one line of JSON for each relay."""
    if as_json:
        return json.dumps(facts)
    totals = facts["totals"]
    lines = [
        f"mproxy relay {facts['version']}, process {facts['pid']}, {facts['state']} for"
        f" {say_duration(facts['uptime_s'])}, {facts['mode']} mode, {counted(len(facts['rules']), 'rule')} from"
        f" {facts['rules_from']}",
        f"tcp  {_say(totals['tcp'])}",
        f"udp  {_say(totals['udp'])}"]
    for worker in facts["workers"]:
        lines.append(
            f"worker {worker['worker']}: {worker['state']}, process {worker['pid'] or '-'} for"
            f" {say_duration(worker['uptime_s'])}, {counted(worker['connections'], 'connection')},"
            f" {counted(worker['sessions'], 'flow')}, {counted(worker['deaths'], 'death')}")
    lines += [f"broken, retrying: {facts['broken']}"] if "broken" in facts else []
    lines += [f"not resolved: {host}: {why}" for host, why in facts.get("unresolved", {}).items()]
    lines += [f"leads back to this relay, left out: {rule}: {', '.join(left_out)}"
              for rule, left_out in facts.get("circles", {}).items()]
    lines += [f"last reload failed: {line}" for line in facts["last_reload_errors"]]
    lines.append("")
    for rule in facts["rules"][:SHOWN]:
        listen = format_host_port(rule["address"], rule["port"]) if rule["address"] else rule["port"]
        lines.append(f"{rule['protocol']} {listen} -> {', '.join(rule['targets'])}")
        lines.append(f"     {_say(rule['counters'])}")
        lines += [f"     checks: {_say_checked(rule['checked'])}"] if "checked" in rule else []
        lines += [f"     down: {target}: {why}" for target, why in rule.get("down", {}).items()]
    if len(facts["rules"]) > SHOWN:
        lines.append(f"and {counted(len(facts['rules']) - SHOWN, 'more rule')}: --json has all")
    return "\n".join(lines)


def _say_checked(checked: dict[str, str]) -> str:
    """How the addresses with a health check are: `2 up, 1 down`."""
    states = list(checked.values())
    return f"{states.count('up')} up, {states.count('down')} down"


def _say(counters: dict[str, int]) -> str:
    if not counters:
        return "nothing yet"
    return ", ".join(f"{name.replace('_', ' ')} {say_bytes(value) if name.startswith('bytes') else value}"
                     for name, value in counters.items())


def say_bytes(count: float) -> str:
    """`640 B`, `1.5 MiB`: as options take sizes, powers of 1024."""
    number, unit = _scaled(count)
    return f"{number} {unit}iB" if unit else f"{number} B"


def say_bytes_short(count: float) -> str:
    """`640`, `1.5M`: the same where a column is narrow."""
    return "".join(_scaled(count))


def _scaled(count: float) -> tuple[str, str]:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f}" if unit else str(int(count)), _UNITS[unit]
