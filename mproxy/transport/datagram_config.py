"""Settings of a connection over datagrams: unit, default, range, reason."""

from __future__ import annotations

from mproxy.ground.config import HOUR_US, MIB, MILLISECOND_US, SECOND_US, Config, SessionConfig, Setting
from mproxy.ground.errors import UsageError

# Largest packets: what fits the loopback's MTU within the 65,535 bytes of an IPv4 packet, and jumbo frames.
LOOPBACK_PACKET_BYTES = 65483
JUMBO_PACKET_BYTES = 8972

RECOVERIES = ("sack", "gbn")
CONGESTIONS = ("bbr", "cubic", "fixed")


class DatagramConfig(Config):
    """What one end of a connection abides by; the peer's limits arrive with the set-up."""

    # How losses are found and repaired: `sack` by ranges of packet numbers, `gbn` by Go-Back-N. The active side's
    # choice holds for both directions.
    recovery = Setting("sack")

    # Who decides how much is under way: `bbr` by a model of the path, `cubic` by losses, `fixed` the user.
    congestion = Setting("bbr")

    # Packets under way with `fixed`.
    window = Setting(64, 1, 100_000)

    # Tries in a row without an answer before the connection fails; 0: as many as fit into the idle time. They are one
    # timeout apart, doubling up to 3 s.
    retries = Setting(0, 0, 1000)

    # Microseconds without any packet from the peer after which the connection fails. Time in which this process was
    # stopped does not count, nor, on the active side, time in which this host had no network.
    idle_us = Setting(60 * SECOND_US, 100 * MILLISECOND_US, 24 * HOUR_US)

    # Microseconds without a packet from the peer after which it is asked for one. A receiver whose address has changed
    # is found again by that; a ping is 36 bytes.
    keepalive_us = Setting(2 * SECOND_US, 10 * MILLISECOND_US, HOUR_US)

    # Longest that an ack waits for data to go with, in microseconds. Packets that call for one at once do not wait.
    ack_delay_us = Setting(10 * MILLISECOND_US, 0, SECOND_US)

    # Bytes that each direction's ring may grow to: bandwidth times round trip. 16 MiB fill 600 Mbit/s at 200 ms.
    max_window_bytes = Setting(16 * MIB, 16 * 1024, 1024 * MIB)

    # Bytes of UDP payload that the local interface carries in one packet; the search for the path's size ends there.
    max_packet_bytes = Setting(1472, 1200, 65507)

    # Packets are sealed with keys from a handshake; otherwise a checksum finds accidents, and nothing else.
    sealed = Setting(False)

    # Packets always go to the first address, wherever the peer's come from: for a path whose answers travel
    # separately.
    fixed_path = Setting(False)

    # The address everything is sent to instead of the peer's, as the bytes of a struct sockaddr; empty: the peer's.
    answer_to = Setting(b"")

    def _check(self) -> None:
        if self.recovery not in RECOVERIES:
            raise UsageError(f"--recovery {self.recovery}: must be one of {', '.join(RECOVERIES)}")
        if self.congestion not in CONGESTIONS:
            raise UsageError(f"--congestion {self.congestion}: must be one of {', '.join(CONGESTIONS)}")


def for_session(session: SessionConfig, max_packet_bytes: int) -> DatagramConfig:
    """Settings of a connection that carries such a session. Its ordered stream has lists and small frames, no bulk; the
    session's heartbeats are its signs of life."""
    return DatagramConfig(
        sealed=True, max_window_bytes=MIB, max_packet_bytes=max_packet_bytes,
        keepalive_us=max(DatagramConfig.keepalive_us.default, session.heartbeat_us),
        idle_us=min(max(DatagramConfig.idle_us.default, 4 * session.misses * session.heartbeat_us), 24 * HOUR_US))
