"""Which files of a directory are sent: patterns as rsync has them.

Rules are tried in order, and the first whose pattern fits decides; what none fits is sent. A directory that is left out
is not looked into.

    *.o         a file or directory of such a name; `*` and `?` stand for anything but a slash, `[a-z]` for one of these
    build/      only a directory
    doc/*.txt   the end of a path
    /top/tmp    a whole path, from what the command line names on
    a/**/b      `**` stands for slashes, too
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mproxy.ground.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Rule = tuple[bool, str]  # whether what fits is sent, the pattern


class Selection:
    """What `rules` leave."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = [(sent, pattern.endswith("/"), _compiled(pattern)) for sent, pattern in rules]

    def takes(self, name: bytes, is_directory: bool) -> bool:
        """Whether a file of this name, a path as the receiver sees it, is sent."""
        for sent, only_directories, expression in self._rules:
            if (is_directory or not only_directories) and expression.fullmatch(name):
                return sent
        return True


def _compiled(pattern: str) -> re.Pattern[bytes]:
    path = pattern.encode("utf-8", "surrogateescape").rstrip(b"/")
    if not path:
        raise UsageError(f"pattern {pattern!r}: it matches nothing; give a name, such as '*.o' or 'build/'")
    before = b"" if path.startswith(b"/") else b"(?:.*/)?"
    try:
        return re.compile(before + _expression(path.lstrip(b"/")), re.DOTALL)
    except re.error as error:
        raise UsageError(f"pattern {pattern!r}: {error}") from None


def _expression(pattern: bytes) -> bytes:
    parts = re.findall(rb"\*+|\?|\[[!^]?\]?[^\]]*\]|\\.|.", pattern, re.DOTALL)
    return b"".join(map(_part, parts))


def _part(part: bytes) -> bytes:
    if part.startswith(b"*"):
        return b"[^/]*" if part == b"*" else b".*"
    if part == b"?":
        return b"[^/]"
    if part.startswith(b"[") and len(part) > 1:
        opposite = part[1:2] in (b"!", b"^")
        inside = part[1 + opposite:-1].replace(b"\\", b"\\\\").replace(b"[", b"\\[").replace(b"]", b"\\]")
        return b"(?!/)[" + b"^" * opposite + (b"\\^" + inside[1:] if inside.startswith(b"^") else inside) + b"]"
    return re.escape(part[1:] if part.startswith(b"\\") and len(part) > 1 else part)
