"""Certificates for tests: a CA that signs whatever it is asked to."""

from mproxy.ground._curves import ed25519_public_of
from mproxy.ground.key_formats import SPKI_PREFIX
from mproxy.policy.certificates import CLIENT, FOR_EVER, Certificate, encode_certificate

NOW = 1_800_000_000
HOUR = 3600


def spki_of(seed):
    """The public key of a private one."""
    return SPKI_PREFIX + ed25519_public_of(seed)


class Authority:
    """A CA with that private key."""

    def __init__(self, number=9):
        self.seed = bytes([number]) * 32
        self.spki = spki_of(self.seed)

    def certify(self, spki, **changes):
        """A certificate for a key, as bytes: of a client `ann`, valid from an hour before NOW to one after it."""
        facts = {"role": CLIENT, "serial": 7, "key_id": "ann", "principals": ["ann"], "valid_after": NOW - HOUR,
                 "valid_before": NOW + HOUR} | changes
        return encode_certificate(Certificate(spki=spki, ca=self.spki, **facts), self.seed)


def always(**changes):
    """For `certify`: a certificate that is valid whatever the time is."""
    return {"valid_after": 0, "valid_before": FOR_EVER} | changes
