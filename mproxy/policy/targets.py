"""Where sproxy may connect: addresses that cannot be reached just by a name, or as one of many.

Link-local addresses (RFC 3927; RFC 4291, section 2.5.6) are the host's neighbourhood, and on cloud providers' machines
the place of the metadata service, which hands out the machine's own credentials. A name that a client may ask for could
be made to point there, so these addresses count only if they are given as numbers.
"""

from __future__ import annotations

import ipaddress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Address

# Metadata services outside the link-local networks: Amazon's over IPv6, Alibaba's, Oracle's.
METADATA = {ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")}


def is_guarded(host: str) -> bool:
    """Whether a numeric address is link-local or a metadata service's."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_link_local or address in METADATA


def without_guarded(addresses: list[Address], host: str) -> list[Address]:
    """Those of a resolver's `addresses` [(family, sockaddr)] that the name `host` may mean; all if it is a number."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return [(family, address) for family, address in addresses if not is_guarded(address[0])]
    return addresses


def elsewhere(addresses: list[Address]) -> list[Address]:
    """Those that may be meant by somebody who may go anywhere: neither guarded nor this host's own loopback, whose
    daemons rely on being reached from here alone."""
    return [(family, address) for family, address in addresses
            if not (is_guarded(address[0]) or is_own(address[0]))]


def is_own(host: str) -> bool:
    """Whether a numeric address means the host that connects to it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified
