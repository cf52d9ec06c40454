# Invariant: any bytes are a certificate that a CA has signed, or an error in one line; and they are a list of revoked
# keys, or an error that names a line of it.
"""The parsers of certificates and of what is revoked."""

from mproxy.ground.errors import MproxyError
from mproxy.policy.certificates import (
    CLIENT,
    HOST,
    MOST_BYTES,
    check_host,
    parse_certificate,
    parse_certificate_line,
)
from mproxy.policy.keys import SPKI_BYTES, SPKI_PREFIX
from mproxy.policy.revoked import parse_revoked

KEY = SPKI_PREFIX + bytes(32)


def check(data):
    """Called with every input."""
    for parse in (parse_certificate, lambda words: parse_certificate(parse_certificate_line(words.decode("latin-1")))):
        try:
            found = parse(data)
        except MproxyError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            continue
        assert found.role in (CLIENT, HOST) and len(found.spki) == len(found.ca) == SPKI_BYTES
        assert len(data) <= MOST_BYTES or parse is not parse_certificate
        assert "\n" not in found.say()
        try:
            check_host(found, found.spki, "host", 1.8e9)
        except MproxyError as error:
            assert "\n" not in str(error)
    try:
        revoked = parse_revoked(data, "file")
    except MproxyError as error:
        assert str(error).startswith("file") and "\n" not in str(error)
    else:
        assert revoked.why(KEY, None) is None or len(revoked)
