"""Who says goodbye for a cproxy that cannot do it itself: a small process (goodbye.py), detached from whoever started
cproxy.

`leave_word` starts it at once: a cproxy has to end while there is no carrier, or finds others that were killed. A
Guardian starts it when a cproxy with --stdio has died without a word. Until then it is a shell that waits for the end
of a pipe: 0.1 MB, where a Python that waits would have ten.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop, Timer
    from mproxy.policy.instance import Instance

# Where the process finds its settings: a dictionary, as Python writes it.
VARIABLE = "MPROXY_GOODBYE"

# Settings that are files, which the process reads from another directory.
PATHS = ("state_dir", "key", "known_hosts")

NOW = 'cd / && exec "$@"'
AT_ITS_END = 'cd / && { read -r word || exec "$@"; }'


def leave_word(config: CproxyConfig, files: list[str]) -> int | None:
    """Start the process for the instances in `files`; returns its number, or None if it could not be started."""
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _start(NOW, config, files, nothing)
    except OSError:
        return None
    finally:
        os.close(nothing)


class Guardian:
    """Says goodbye for the instance in `file` as soon as this process has ended, however it did, unless it is
    dismissed before. OSError if it cannot be started."""

    def __init__(self, config: CproxyConfig, file: str) -> None:
        watched, self._lifeline = os.pipe()
        try:
            self.pid = _start(AT_ITS_END, config, [file], watched)
        except OSError:
            os.close(self._lifeline)
            raise
        finally:
            os.close(watched)

    def dismiss(self) -> None:
        """There is nothing to say any more."""
        try:
            os.write(self._lifeline, b"\n")
        except OSError:
            pass  # somebody has killed it
        os.close(self._lifeline)


class Guard:
    """Has a cproxy with --stdio guarded when its session begins. A process takes 10 ms to start, for which the
    application would wait: so it is started before, while sproxy's answer is awaited."""

    def __init__(self, loop: Loop, config: CproxyConfig, instance: Instance, log: Logger) -> None:
        self._loop = loop
        self._config, self._instance, self._log = config, instance, log
        self._guardian: Guardian | None = None
        self._timer: Timer | None = None
        self._is_begun = False

    def prepare(self) -> None:
        """There may soon be a session: start it as soon as the loop has done what is to be done now."""
        if self._config.stdio and not self._is_begun and self._timer is None:
            self._timer = self._loop.call_later(0, self._start)

    def begin(self) -> None:
        """There is a session."""
        self._start()
        leave_for_the_dead(self._config, self._instance, self._log)

    def _start(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._cancel()
            self._guardian = guard(self._config, self._instance, self._log)

    def leave(self, path: str) -> int | None:
        """Have goodbye said for the instance in that file after our end; the process that will, None if there is
        none."""
        self._cancel()
        return self._guardian.pid if self._guardian is not None else leave_word(self._config, [path])

    def dismiss(self) -> None:
        """There is nothing to say any more."""
        self._cancel()
        if self._guardian is not None:
            self._guardian.dismiss()
            self._guardian = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def guard(config: CproxyConfig, instance: Instance, log: Logger) -> Guardian | None:
    """Have sproxy told if this process dies without a word: nobody else can come back to the session of --stdio.

    A cproxy that listens says it itself when it is started again."""
    if not instance.persistent or instance.path is None:
        return None
    try:
        return Guardian(config, instance.path)
    except OSError as error:
        log.warning("no-guardian", why=(
            f"the process that would tell sproxy of our death cannot be started: {error.strerror}"))
        return None


def leave_for_the_dead(config: CproxyConfig, instance: Instance, log: Logger) -> None:
    """Have sproxy told of others with --stdio that died together with their guardians: their host was cut off from
    power."""
    files = instance.left_beside()
    if files:
        process = leave_word(config, files)
        log.info("goodbye-left", process=process, why=(
            f"{len(files)} cproxy --stdio to this server died: a small process tells sproxy"))


def _start(script: str, config: CproxyConfig, files: list[str], stdin: int) -> int:
    """Have a shell run the script, whose arguments are the process."""
    values = {**config.__dict__, "session": config.session.__dict__, "instances": [os.path.abspath(f) for f in files]}
    for name in PATHS:
        values[name] = values[name] and os.path.abspath(values[name])
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    if not _log_is_file():
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    return os.posix_spawn(
        "/bin/sh", ["cproxy-goodbye", "-c", script, "cproxy-goodbye", sys.executable, "-PS", "-m",
                    "mproxy.programs.goodbye"],
        {**os.environ, "PYTHONPATH": os.path.dirname(package), VARIABLE: repr(values)},
        file_actions=actions, setsid=True)


def _log_is_file() -> bool:
    """Whether standard error may be kept: it is a file, for whose end nobody waits."""
    try:
        return stat.S_ISREG(os.fstat(2).st_mode)
    except OSError:
        return False
