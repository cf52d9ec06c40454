"""`mproxy relay rule add|remove|list`: both ends of the control socket."""

from __future__ import annotations

import json

from mproxy.ground._checks import COUNT, TEXT, list_of, object_of
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import counted, escaped, printable
from mproxy.service import control
from mproxy.service.answers import STRANGE, Refused, what_was_done
from mproxy.service.exit import silence_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mproxy.relay.live_rules import LiveRules, RuleSet
    from mproxy.relay.rules import Rule

# What `mproxy relay rule` does, and the argument of each.
WAYS = {"add": "RULE", "remove": "NAME|RULE", "list": None}

# A rule of at most 4096 characters, some of them escaped.
_LONGEST_REQUEST = 4000

_LISTED = list_of(object_of({"rule": TEXT, "line": COUNT}))


# ---- of the running relay

def propose(live: LiveRules, request: dict[str, Any]) -> tuple[RuleSet, str]:
    """The rules as a request wants them, and what is to be said once they are in force; UsageError."""
    what = request.get("rule")
    if not isinstance(what, str) or request.get("do") not in ("add", "remove"):
        raise UsageError('not a request for a rule: expected "do" and "rule"')
    if request["do"] == "add":
        proposed, changed = live.propose_adding(what)
        return proposed, f"added: {_say(changed)}"
    proposed, changed = live.propose_removing(what)
    done = f"removed: {_say(changed)}"
    of_file = ", ".join(map(str, sorted({rule.number for rule in changed if rule.number})))
    if of_file:
        done += f"; the next reload brings back what is still on line {of_file} of the file"
    return proposed, done


def _say(rules: Sequence[Rule]) -> str:
    return rules[0].line if len(rules) == 1 else f"{counted(len(rules), 'rule')}, the first of them {rules[0].line}"


def listed(live: LiveRules) -> list[dict[str, Any]]:
    """Every rule, as an answer."""
    return [{"rule": rule.line, "line": rule.number} for rule in live.written]


# ---- of whoever asks

def change_rules(given: dict[str, Any], path: str) -> int:
    """Have the relay that listens on `path` do what the command line says; the exit status."""
    rule = given.get("rule", "")
    if len(json.dumps(rule)) > _LONGEST_REQUEST:
        raise UsageError(f"rule of {len(rule)} characters is too long; put it into the file and reload")
    answer = control.ask(path, "rule", do=given["do"], rule=rule)
    try:
        done = what_was_done(answer)
    except Refused as refused:
        if answer.get("usage") is True:
            raise UsageError(str(refused)) from None
        raise
    if given["do"] != "list":
        print(escaped(done))
        return 0
    rules = answer.get("rules")
    if not _LISTED(rules):
        raise MproxyError(f"cannot show the rules of the relay: {STRANGE}")
    assert isinstance(rules, list)
    try:
        print(json.dumps(rules) if given.get("json") else "\n".join(map(_say_listed, rules)), flush=True)
    except BrokenPipeError:
        silence_output()  # `| head` has seen enough
    return 0


def _say_listed(rule: dict[str, Any]) -> str:
    """A line that a rule file may have."""
    return escaped(f"{rule['rule']:<56}  # {'line ' + str(rule['line']) if rule['line'] else 'added'}")


def parse_rule_words(words: list[str]) -> dict[str, Any]:
    """What is to be done, of `add RULE`, `remove NAME|RULE`, `list`; UsageError."""
    if not words or words[0] not in WAYS:
        found = f"unknown action: {printable(words[0])}; " if words else ""
        raise UsageError(f"{found}expected add, remove or list after 'mproxy relay rule'")
    do, *rest = words
    argument = WAYS[do]
    if argument and not rest:
        raise UsageError(f"missing argument: {argument}; expected mproxy relay rule {do} '{argument}'")
    if rest and not argument:
        raise UsageError(f"unexpected argument: {printable(rest[0])}")
    return {"do": do, "rule": " ".join(rest)}
