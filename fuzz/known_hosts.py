# Invariant: any bytes are a known_hosts file: every line that says something is an entry, with a key or a warning, or
# is about many hosts, and a judgement about any key is "same", "new" or a refusal that names a line; "new" only while
# no line may be about it.
"""The parser of known_hosts."""

from mproxy.ground.errors import PeerError
from mproxy.policy.host_marks import judge_marks
from mproxy.policy.keys import SPKI_BYTES, SPKI_PREFIX
from mproxy.policy.trust import judge_host, lines_of, parse_known_hosts

KEY = SPKI_PREFIX + bytes(32)


def check(data):
    """Called with every input."""
    warnings = []
    marks = []
    entries = parse_known_hosts(data, "file", warnings.append, marks)
    whole = [entry for entry in entries if entry[2] is not None]
    assert len(entries) == len(whole) + len(warnings) == len(list(lines_of(data))) - len(marks)
    for mark in marks:
        assert mark.is_about("host", 1) in (True, False)
        try:
            assert judge_marks([mark], "file", ("host", 1), KEY, b"", 1.8e9) is not None
        except PeerError as error:
            assert "revoked by file:" in str(error)
    assert all(warning.startswith("file:") and "\n" not in warning for warning in warnings)
    for number, (host, port), spki in whole:
        assert len(spki) == SPKI_BYTES and 0 < port < 65536 and host and number > 0
        assert judge_host(entries, "file", (host, port), spki) == "same"
        try:
            assert judge_host(entries, "file", (host, port), KEY) == "same"
        except PeerError as error:
            assert "file:" in str(error)
    for _number, place, _spki in entries:
        try:
            assert judge_host(entries, "file", place or ("host", 1), KEY) == "same"
        except PeerError as error:
            assert "file:" in str(error)
