"""mproxy copy: files between this host and another, as scp copies them; ssh starts the other end, and the data go over
UDP beside it."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """`mproxy copy`; the exit status."""
    if argv == ["--other-end"]:
        from mproxy.programs.copy_there import main as main_there
        return main_there()
    from mproxy.programs.copy_start import main as main_here
    return main_here(argv)
