# Invariant: any bytes are an authorized_keys file: every line that says something is a grant or a warning, and any
# grant answers any question about addresses, times and targets.
"""The parser of authorized_keys, options included."""

from mproxy.policy.trust import lines_of, parse_authorized_keys


def check(data):
    """Called with every input."""
    warnings = []
    grants = parse_authorized_keys(data, "file", warnings.append)
    assert len(grants) + len(warnings) == len(list(lines_of(data)))
    assert all(warning.startswith("file:") for warning in warnings)
    for grant in grants:
        for host in ("10.0.0.1", "fd00::1%eth0", "::ffff:10.0.0.1", "no address"):
            assert grant.refusal(host, 1.8e9) in (
                None, "the key's expiry date has passed", "the key may not be used from this address")
        assert grant.allows_target("localhost", 22) in (True, False)
        assert grant.max_streams is None or grant.max_streams > 0
        for spots in (grant.targets, grant.places):  # port 0: any, or the path of a unix socket
            assert spots is None or all(0 <= port < 65536 for _, port in spots)
