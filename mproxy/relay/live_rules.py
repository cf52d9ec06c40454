"""The rules of a running relay: those of its file or command line, and what was added and removed since.

* What is added comes on top of the file, and stays over every reload, until it is removed or the relay ends. An added
  rule that the file has as well is the file's from then on.
* Rules of the file can be removed, too: until the next reload, which makes the rules what the file says.
* As with a file, all or nothing: whatever is wrong, nothing has changed. `propose_...` says what the rules would be,
  and `settle` takes that over once they are in force.
"""

from __future__ import annotations

from dataclasses import dataclass

from mproxy.ground.errors import UsageError
from mproxy.ground.words import printable
from mproxy.relay.rule_file import parse_head, parse_line, settle_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mproxy.relay.rules import Rule

# The number of rules that are in no file.
ADDED = 0


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules as they were written, and what they come to beside each other."""

    file: tuple[Rule, ...]
    added: tuple[Rule, ...]
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, name: str, file: Iterable[Rule], added: Iterable[Rule] = ()) -> RuleSet:
        """RulesError when they overlap; `name` of the file, for messages."""
        file = tuple(file)
        of_file = {rule.listener: rule for rule in file}
        added = tuple(rule for rule in added
                      if rule.listener not in of_file or not rule.same(of_file[rule.listener]))
        return cls(file, added, tuple(settle_rules((*file, *added), name)))


class LiveRules:
    """`file`: the rules as written, before `settle_rules`; `name`: where they come from, for messages."""

    def __init__(self, file: Sequence[Rule], name: str) -> None:
        self._name = name
        self._now = RuleSet.of(name, file)

    @property
    def rules(self) -> Sequence[Rule]:
        """What the relay carries out."""
        return self._now.rules

    @property
    def written(self) -> Sequence[Rule]:
        """The same rules as they were written."""
        return self._now.file + self._now.added

    def settle(self, proposed: RuleSet) -> None:
        """These rules are in force now."""
        self._now = proposed

    def propose_file(self, file: Sequence[Rule]) -> RuleSet:
        """With other rules of the file; RulesError."""
        return RuleSet.of(self._name, file, self._now.added)

    def propose_adding(self, line: str) -> tuple[RuleSet, list[Rule]]:
        """With one more line, and what that adds; UsageError."""
        new = parse_line(line, ADDED)
        return RuleSet.of(self._name, self._now.file, (*self._now.added, *new)), new

    def propose_removing(self, what: str) -> tuple[RuleSet, list[Rule]]:
        """Without the rules of that name, those that listen there, or those of a whole line; and which these are.
        UsageError: there are none."""
        going = self._find(what)
        gone = {id(rule) for rule in going}
        return RuleSet.of(self._name, *([rule for rule in rules if id(rule) not in gone]
                                        for rules in (self._now.file, self._now.added))), going

    def _find(self, what: str) -> list[Rule]:
        named = [rule for rule in self.written if what and rule.options.name == what]
        if named:
            return named
        if "->" in what:
            wanted = parse_line(what, ADDED)
            found = [rule for rule in self.written if any(rule.same(other) for other in wanted)]
        else:
            try:
                protocols, host, ports = parse_head(what.strip())
            except UsageError:
                raise UsageError(f"no rule has the name {printable(what)}; expected a name, a whole rule, or where it"
                                 " listens, such as 7005 or 'udp 10.0.0.1:53'; 'mproxy relay rule list' shows all"
                                 ) from None
            found = [rule for rule in self.written if rule.protocol in protocols and rule.listen_host == host
                     and rule.listen_port in ports]
        if not found:
            raise UsageError(f"no such rule: {printable(what)}; 'mproxy relay rule list' shows all")
        return found
