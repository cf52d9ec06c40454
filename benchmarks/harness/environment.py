"""What the figures were taken on: machine, kernel, versions; all that a reader needs to compare."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from harness.places import congestion_control

VERSION_COMMANDS = {
    "haproxy": ["haproxy", "-v"],
    "nginx": ["nginx", "-v"],
    "socat": ["socat", "-V"],
    "stunnel": ["stunnel4", "-version"],
    "ssh": ["ssh", "-V"],
    "wrk": ["wrk", "-v"],
    "iperf3": ["iperf3", "--version"],
    "srt": ["srt-file-transmit", "-version"],
    "mosh": ["mosh-server", "--version"],
    "rsync": ["rsync", "--version"],
    "kcptun": ["dpkg-query", "-W", "-f", "${Version}", "kcptun"],
    "aioquic": [sys.executable, "-c", "import aioquic; print(aioquic.__version__)"],
    "mproxy": [str(Path(__file__).resolve().parents[2] / "cproxy"), "--version"],
}
_VERSION = re.compile(r"(?:\d+\.\d+|\d{8})[\w.+~-]*")


def describe(private_network: bool) -> dict:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "congestion_control": congestion_control(),
        "private_network_namespace": private_network,
        "load_before": os.getloadavg()[0],
        "versions": {
            name: version for name, command in VERSION_COMMANDS.items() if (version := _version(command))
        },
    }


def summary(environment: dict) -> str:
    """One paragraph for the head of the tables."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"{environment['date']}; {environment['cores']} cores of {environment['cpu']}, "
        f"{environment['memory_gb']:g} GB, Linux {environment['kernel']}, "
        f"TCP {environment['congestion_control']}; {versions}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(result.stdout + result.stderr)
    return found[0] if found else None
