"""How other programs call this `mproxy`."""

from __future__ import annotations

import os
import sys

# A word of these alone means itself to every shell.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_")


def own_command() -> list[str]:
    """The command's words: its file where it was called by that, else Python and the module."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "mproxy" and os.path.isfile(script) and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "mproxy"]


def is_plain(text: str) -> bool:
    """Whether a shell would leave it as it is."""
    return _PLAIN.issuperset(text)


def shell_words(words: list[str]) -> str:
    """As shlex.join; that takes 10 ms to import, and few words need it."""
    if all(word and is_plain(word) for word in words):
        return " ".join(words)
    import shlex
    return shlex.join(words)
