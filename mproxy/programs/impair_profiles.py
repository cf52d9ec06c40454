"""Networks as people meet them, for `mproxy impair --profile`: the options that make each.

What of a profile is somebody's measurement or definition, and what is our choice, is in docs/operations.md; a test
compares the options there with these. A value A/B is A to the server, which is up, and B to the client, down.
"""

from __future__ import annotations

PROFILES = {
    "dsl": "--rate 384kbit/1.5Mbit --delay 25ms --queue 64KiB/256KiB",
    "hotel-wifi": "--rate 1Mbit/5Mbit --delay 14ms --jitter 10ms --queue 128KiB/512KiB --loss 0.2 --burst-loss 1:6",
    "lte-train": "--rate 12Mbit --delay 35ms --jitter 15ms --queue 1MiB --burst-loss 0.5:8 --outage 24s/2s",
    "geo-satellite": "--rate 3Mbit/25Mbit --delay 300ms --jitter 5ms --queue 256KiB/2MiB --loss 0.1",
}
