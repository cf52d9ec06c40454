"""What the process may do, and what others may do to it: core dumps, debuggers, root's rights."""

from __future__ import annotations

import os
import resource
from importlib import import_module

from mproxy.ground.errors import UsageError
from mproxy.io._process import forbid_dumps, forbid_new_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Logger


def protect_memory() -> None:
    """Keep secrets in this process: neither core files nor debuggers of the same user get at them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    forbid_dumps()


class User:
    """Whose rights the process is to have; looked up before anything else, so that a mistyped name is reported."""

    def __init__(self, name: str) -> None:
        import pwd  # needed only by --user
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise UsageError(f"--user {name}: there is no such user on this system") from None
        if os.geteuid() not in (0, entry.pw_uid):
            raise UsageError(f"--user {name} works only when started as root: nobody else can become another user")
        self.name = name
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def become(self) -> None:
        """Give up every right of root for good, including groups and capabilities. To be called before there is a
        second thread: capabilities are those of the calling thread and of threads that it starts."""
        import_module("json")  # for answers to mproxy status: later it might be out of reach
        if os.geteuid() != 0:
            return
        if self.uid != 0:
            forbid_new_rights()
        os.initgroups(self.name, self.gid)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.uid != 0 and _can_return():
            raise OSError(f"cannot give up the rights of root for those of {self.name}")
        forbid_dumps()  # a change of user resets it


def warn_of_lost_file(path: str | None, user: User, log: Logger) -> None:
    """Warn if `user`, as whom this process now runs, cannot reach a list of keys that is read again later."""
    why = "after its next change nobody could connect"
    try:
        if path is None or os.access(path, os.R_OK, effective_ids=True):
            return
        os.stat(path)
    except FileNotFoundError:
        return
    except PermissionError:
        why = "its changes are not noticed before a restart"
    log.warning("file-out-of-reach", file=path, user=user.name, why=(
        f"{why}; make it readable for that user (chgrp, chmod g+r; the directory g+x)"))


def _can_return() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return False
    return True
