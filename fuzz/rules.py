# Invariant: any text is a relay configuration, or is refused in one line with the number of its line; what is accepted
# is within bounds.
"""The parser of relay rules."""

from mproxy.relay.rule_file import RulesError, parse_rules


def check(data):
    """Called with every input."""
    try:
        rules = parse_rules(data.decode(errors="replace"), "file")
    except RulesError as error:
        assert all(0 < number <= data.count(b"\n") + 1 for number, _ in error.wrong)
        return
    for rule in rules:
        assert 0 < rule.listen_port < 65536
        assert all(host and 0 < port < 65536 for host, port in rule.targets)
