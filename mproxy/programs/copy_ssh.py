"""How `mproxy copy` has ssh start its other end."""

from __future__ import annotations

from mproxy.programs.own_command import shell_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.programs.copy_options import CopyConfig

# What ssh does here, whatever ssh_config says for other uses: one command, without a terminal or a forward.
BARE = ("-T", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no")

# Where mproxy may be on the other host although ssh does not look there.
MORE_PATH = "$PATH:$HOME/.local/bin:/usr/local/bin"

NOT_FOUND = 127  # exit status of a shell: there is no such command


def ssh_command(config: CopyConfig) -> str:
    """The shell command that runs ssh."""
    mproxy = config.remote_mproxy or "mproxy"
    look = "" if config.remote_mproxy else f"command -v mproxy >/dev/null || exit {NOT_FOUND}; "
    there = shell_words(["sh", "-c", f'PATH="{MORE_PATH}"; {look}{mproxy} copy --other-end'])
    login = ["-l", config.remote.user] if config.remote.user else []
    return f"exec {shell_words([*config.ssh, *BARE, *login, '--', config.remote.host, f'exec {there}'])}"
