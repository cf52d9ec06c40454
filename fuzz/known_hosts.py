# Invariant: any bytes are a known_hosts file: every line that says something is an entry or a warning, and a judgement
# about any key is "same", "new" or a refusal that names a line.
"""The parser of known_hosts."""

from mproxy.errors import PeerError
from mproxy.policy.keys import SPKI_BYTES, SPKI_PREFIX
from mproxy.policy.trust import judge_host, lines_of, parse_known_hosts

KEY = SPKI_PREFIX + bytes(32)


def check(data):
    """Called with every input."""
    warnings = []
    entries = parse_known_hosts(data, "file", warnings.append)
    assert len(entries) + len(warnings) == len(list(lines_of(data)))
    assert all(warning.startswith("file:") and "\n" not in warning for warning in warnings)
    for number, (host, port), spki in entries:
        assert len(spki) == SPKI_BYTES and 0 < port < 65536 and host and number > 0
        assert judge_host(entries, "file", (host, port), spki) == "same"
        try:
            assert judge_host(entries, "file", (host, port), KEY) == "same"
        except PeerError as error:
            assert "file:" in str(error)
