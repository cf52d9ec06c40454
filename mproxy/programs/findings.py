"""What `mproxy doctor` has to say about one subject."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A fault prevents a session; with a warning there can be one, though not as good as it might be.
OK, NOTE, WARNING, FAULT = "ok", "note", "warning", "fault"
MARKS = {OK: "ok", NOTE: "--", WARNING: "warn", FAULT: "FAIL"}


class CheckResult:
    """What one check has found: `advice` says what to do about it; `more` is for the JSON."""

    def __init__(self, check: str, verdict: str, text: str, advice: str = "", **more: Any) -> None:
        self.check = check
        self.verdict = verdict
        self.text = text
        self.advice = advice
        self.more = more

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"check": self.check, "verdict": self.verdict, "text": self.text, "advice": self.advice, **self.more}


def say_s(seconds: float) -> str:
    """`0.4 ms`, `12 ms`, `1.2 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
