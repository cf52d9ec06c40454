"""The start of `mproxy copy` on the host where it was called: ssh logs in while the rest is still being imported."""

from __future__ import annotations

import os

from mproxy.ground.errors import MproxyError
from mproxy.policy.via_start import forget_early, start_early, take_over_early
from mproxy.programs.copy_begun import take_begun
from mproxy.programs.copy_options import PROGRAM, CopyConfig, parse_copy
from mproxy.programs.copy_places import find_landing
from mproxy.programs.copy_ssh import ssh_command
from mproxy.service.exit import exit_status


def main(argv: list[str]) -> int:
    """`mproxy copy`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    begun = take_begun()
    config = parse_copy(argv)
    if not take_over_early(ssh_command(config)) and needs_ssh(config):
        start_early(ssh_command(config), True)
    try:
        from mproxy.programs.copy_here import copy
        return copy(config, begun)
    finally:
        forget_early()


def needs_ssh(config: CopyConfig) -> bool:
    """Whether it is sure already that the other end will be asked; nobody shall type a password in vain."""
    if config.pushes:
        is_dry = config.dry_run and not config.options.get("delete")
        return not is_dry and all(path == "-" or os.path.lexists(path) for path in config.paths)
    try:
        find_landing(config.target, len(config.paths) > 1)
    except MproxyError:
        return False
    return True
