"""A program that runs until it is told to stop: from command line to exit status, its log, its signals."""

from __future__ import annotations

import os
import resource
import signal

from mproxy import __version__
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.left_ignored import is_left_ignored
from mproxy.io._loop import Loop
from mproxy.io._socket import keep_spare
from mproxy.io.stdio import check_stdio
from mproxy.service.control import Handover, open_control
from mproxy.service.exit import exit_status
from mproxy.service.log import Log
from mproxy.service.restart import Restart
from mproxy.service.rights import User, protect_memory, warn_of_lost_file
from mproxy.service.signal_handlers import install_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any, NoReturn, TypeVar

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import LogConfig
    from mproxy.keeper.handing_out import HandingOut
    from mproxy.keeper.keeper import Keeper
    from mproxy.keeper.leaving import Part
    from mproxy.keeper.successor import Successor
    from mproxy.service.background import LogFile
    from mproxy.service.control import Command, Desk, Reply, Server

    Configuration = TypeVar("Configuration", bound=LogConfig)
    Parse = Callable[[list[str] | None], Configuration]
    MakeProgram = Callable[[Configuration, Log, Loop], "Program"]

class Program:
    """What `run_program` runs: a program from its configuration on, until it stops the loop."""

    exit_status = 0  # looked at when the loop has stopped
    reloads = False  # SIGHUP means `reload`
    workers = 1  # processes that do its work; of several each is told which one it is by `join`
    is_kept = False  # a keeper has a worker run it, and the next one when that dies
    condemned: Collection[int] = ()  # sessions, by their marks (mproxy._inherit), that are to be ended by a worker

    @property
    def authorized_keys_file(self) -> str | None:
        """The list of keys that is read again later."""
        return None

    def open(self) -> None:
        """Open ports and read keys, with the rights with which the process was started."""

    def start(self) -> None:
        """Begin, with the rights that it keeps; then the loop runs."""
        raise NotImplementedError

    def shut_down(self, signal_name: str) -> None:
        """Stop the loop as soon as what is under way is done."""
        raise NotImplementedError

    def reload(self) -> None:
        """Read files again; what is under way continues."""

    def hung_up(self) -> bool:
        """SIGHUP, with --stdio: False if that is its end."""
        return False

    def claim(self, _fds: list[int]) -> Collection[int]:
        """In a worker, first of all: which descriptors that it did not begin with are still wanted; the others are
        closed."""
        return ()

    def inspect_sessions(self) -> Iterator[tuple[Endpoint, object]]:
        """Each session's endpoint, and more."""
        return iter(())

    def connections(self) -> int:
        """How many of applications there are."""
        return sum(endpoint.app_count for endpoint, _more in self.inspect_sessions())

    def understands(self, _record: bytes) -> bool:
        """Whether what another build has kept with a session is of a version that this one knows."""
        return True

    def vows(self) -> dict[str, Any]:
        """What the next build has to do, too."""
        return {}

    def keep_vows(self, vows: Mapping[str, Any]) -> None:
        """When open: MproxyError if this one cannot do what the build before it did."""

    def join(self, number: int) -> None:
        """This process is of worker `number` of several; nothing runs yet."""
        raise NotImplementedError

    def open_desk(self, loop: Loop, log: Log, name: str, commands: Mapping[str, Command]) -> Desk | Server | None:
        """Where a worker of several is asked, all others perhaps through it."""
        raise NotImplementedError

    def commands(self) -> Mapping[str, Command]:
        """What can be asked through the control socket; empty: there is no socket."""
        return {}


def run_program(name: str, parse: Callable[[list[str] | None], Configuration],
                make_program: MakeProgram[Configuration], argv: list[str] | None) -> int:
    """Parse, run until the program stops its loop, and return the exit status."""
    return exit_status(name, _run, name, parse, make_program, argv)


def _run(name: str, parse: Parse[Configuration], make_program: MakeProgram[Configuration],
         argv: list[str] | None) -> int:
    if "MPROXY_SUCCESSOR" not in os.environ:
        return _begin(name, parse, make_program, argv)
    from mproxy.keeper.successor import Successor
    successor = Successor(name)
    try:
        return _begin(name, parse, make_program, argv, successor)
    except BaseException as error:
        if successor.serves:
            raise
        successor.fail(error if isinstance(error, MproxyError) else f"{type(error).__name__}: {error}")


def _begin(name: str, parse: Parse[Configuration], make_program: MakeProgram[Configuration], argv: list[str] | None,
           successor: Successor | None = None) -> int:
    """The same, perhaps in place of another build of the program."""
    log_file = None
    try:
        config = parse(argv)
        protect_memory()
        stdio = getattr(config, "stdio", False)
        check_stdio(standard_fds_of(config))
        log_file = open_log_file(getattr(config, "log_file", None), successor is not None)
        user_name = getattr(config, "user", None)
        user = User(user_name) if user_name else None
        raise_descriptor_limit()
        loop, log = make_loop(config)
        config = keep_workers(config, log, successor)
        program = make_program(config, log, loop)
        reloads = program.reloads and not stdio  # ssh sends SIGHUP to its ProxyCommand when it is done
        reload = Reload(program, log, log_file) if reloads else None
        if program.workers > 1:
            from mproxy.service.several import run_several
            restart = Restart(name, program, config, log, loop, has_keeper=True)
            return run_several(program, config, log, loop, user, restart, successor, lambda *about: (
                _serve_as_one_of_several(name, program, log, loop, reload, restart, *about)),
                reload.reopen_log if reload is not None else lambda: None)
        keeper = make_keeper(program, config, log, loop, successor) if program.is_kept else None
        restart = Restart(name, program, config, log, loop, keeper is not None)
        if keeper is None:
            if successor is not None:
                raise MproxyError("without a keeper no sessions can be taken over")
            # ssh sends SIGHUP to its ProxyCommand at its end, and so does the kernel if ssh had its own terminal.
            ignored = is_left_ignored(signal.SIGHUP)
            install_signals(loop, program.shut_down, program.hung_up if stdio and not ignored else reload,
                            one_hangup=stdio, leave=restart.leave)
        program.open()
        if user is not None:
            user.become()
            if successor is None:
                warn_of_lost_file(program.authorized_keys_file, user, log)
        if keeper is None:
            return _serve(name, program, log, loop)
        if successor is not None:
            program.keep_vows(successor.vows)
            given: Collection[int] = successor.take_over(program.understands)
        else:
            given = restart.take_over()
        return keeper.run(lambda: _serve_kept(name, program, log, loop, reload, keeper, restart), given)
    except (MproxyError, OSError):
        if log_file is not None:
            log_file.give_back()  # whoever started it reads standard error, not the log
        raise


def _serve(name: str, program: Program, log: Log, loop: Loop, more: Mapping[str, Command] | None = None) -> int:
    """Run until the program stops its loop; its exit status. `more`: what else can be asked for."""
    commands = {**program.commands(), **(more or {})}
    # Whoever has read in the log that it listens finds it: the socket is there first, and answers once the loop runs.
    control = open_control(loop, log, name.removeprefix("mproxy "), commands) if commands else None
    try:
        program.start()
        loop.run()
    finally:
        if control is not None:
            control.close()
    log.tell_rest()
    return program.exit_status


def _serve_kept(name: str, program: Program, log: Log, loop: Loop, reload: Reload | None, keeper: Keeper,
                restart: Restart) -> int:
    """The same in a worker, which dies of an error within it, so that the next one begins from a sound state."""
    from mproxy.keeper.handing_over import HandingOver
    from mproxy.keeper.main_process import is_upgraded, upgrades
    from mproxy.keeper.upgrades import ENDING
    program.condemned = keeper.condemned
    loop.on_error = lambda error: die(log, error)
    assert keeper.upgrades is not None
    handing_over = HandingOver(loop, log, name, keeper.upgrades.worker_end, keeper.orders, program.vows)

    def upgrade(_request: dict[str, Any], reply: Reply) -> None:
        reply(Handover(lambda asker, _pid: handing_over.ask(asker), {}))

    def shut_down(signal_name: str) -> None:
        handing_over.refuse(ENDING)
        program.shut_down(signal_name)

    restart.begin(keeper.upgrades.worker_end)
    install_signals(loop, shut_down, reload, orders=keeper.orders, leave=restart.leave)
    if is_upgraded():
        log.info("upgraded", version=__version__, upgrades=upgrades())
    keeper.let_signals_through()
    try:
        return _serve(name, program, log, loop, {"upgrade": upgrade})
    except MproxyError:
        raise
    except Exception as error:
        die(log, error)


def _serve_as_one_of_several(name: str, program: Program, log: Log, loop: Loop, reload: Reload | None,
                             restart: Restart, keeper: Keeper, main_socket: socket.socket, handing_out: HandingOut,
                             part: Part) -> int:
    """The same in a worker of several, which others may ask for this one."""
    from mproxy.keeper.handing_over import HandingOver
    from mproxy.keeper.main_process import is_upgraded, upgrades
    from mproxy.keeper.upgrades import ENDING
    program.condemned = keeper.condemned
    loop.on_error = lambda error: die(log, error)
    handing_over: HandingOver | None = None
    if part.number == 0:
        handing_over = HandingOver(loop, log, name, main_socket, keeper.orders, program.vows, handing_out)
        handing_out.succeeded = handing_over.succeed
    handing_out.open(loop, part.number)

    def upgrade(_request: dict[str, Any], reply: Reply) -> None:
        if handing_over is not None:  # everybody asks the first worker
            reply(Handover(lambda asker, _pid: handing_over.ask(asker), {}))

    def shut_down(signal_name: str) -> None:
        handing_out.refuse(ENDING)
        if handing_over is not None:
            handing_over.refuse(ENDING)
        program.shut_down(signal_name)

    restart.begin(main_socket, part)
    install_signals(loop, shut_down, reload, orders=keeper.orders, leave=restart.leave)
    if is_upgraded() and part.number == 0:
        log.info("upgraded", version=__version__, upgrades=upgrades())
    keeper.let_signals_through()
    try:
        desk = program.open_desk(loop, log, name, {**program.commands(), "upgrade": upgrade})
        program.start()
        loop.run()
        if desk is not None:
            desk.close()
        log.tell_rest()
        return program.exit_status
    except MproxyError:
        raise
    except Exception as error:
        die(log, error)


def keep_workers(config: Configuration, log: Log, successor: Successor | None) -> Configuration:
    """The configuration with as many workers as what this program goes on with has: each session is in one of these."""
    asked, found = getattr(config, "workers", None), None
    if successor is not None:
        found = successor.workers
    elif asked is not None and "LISTEN_FDS" in os.environ:
        from mproxy.keeper.descriptor_store import stored_workers
        found = stored_workers()
    if asked is None or found is None or found == asked:
        return config
    log.warning("workers-kept", workers=found, asked=asked, why=(
        "sessions go on in the workers that have them; a stop and a start change the number"))
    return config.replace(workers=found)


def die(log: Log, error: BaseException) -> NoReturn:
    """End a worker by an error within it: the next one begins from a sound state."""
    from mproxy.keeper.deaths import INTERNAL_ERROR
    log.error("internal-error", why=f"{type(error).__name__}: {error}")
    if os.environ.get("MPROXY_TRACEBACK"):
        import traceback
        traceback.print_exception(error)
    os._exit(INTERNAL_ERROR)


def make_keeper(program: Program, config: LogConfig, log: Log, loop: Loop,
                successor: Successor | None = None) -> Keeper | None:
    """The keeper of a program, with a log of its own: nothing that a worker would write again. None: there is no
    memory that would outlive a worker."""
    # All that an upgrade needs is read now: by then the files are those of the next build.
    from mproxy._inherit import culprit, map_arena
    from mproxy.keeper import handing_over  # noqa: F401
    from mproxy.keeper.keeper import Keeper
    from mproxy.keeper.upgrades import Upgrades
    try:
        map_arena()
    except OSError as error:
        log.warning("no-keeper", why=f"no memory for it: {error.strerror}; connections end with this process")
        return None
    own_log = Log(config.log_level, config.log_format)
    own_log.restrain(lambda _delay_us, _function: None)
    upgrades = Upgrades(own_log, successor.main_socket if successor is not None else None)
    keeper = Keeper(loop, own_log, claim=program.claim, turn=culprit, upgrades=upgrades)
    keeper.hold_signals()
    return keeper


def make_loop(config: LogConfig) -> tuple[Loop, Log]:
    """The event loop of a program, and its log."""
    log = Log(config.log_level, config.log_format)
    loop = Loop()
    loop.on_error = lambda error: log.error("internal-error", why=f"{type(error).__name__}: {error}")
    log.restrain(loop.call_later)
    return loop, log


def standard_fds_of(config: LogConfig) -> list[int]:
    """Which of descriptors 0 and 1 carry what is to be relayed, sent or received."""
    stdio = getattr(config, "stdio", False)
    reads = stdio or "-" in getattr(config, "paths", ())
    writes = stdio or getattr(config, "output", None) == "-"
    return [fd for fd, used in enumerate((reads, writes)) if used]


def open_log_file(path: str | None, is_open: bool = False) -> LogFile | None:
    """Send standard error to a file; None without one. UsageError, unless it goes to one already: this process may have
    lost the right to open it."""
    if path is None:
        return None
    from mproxy.service.background import LogFile
    log_file = LogFile(path)
    try:
        log_file.open()
    except UsageError:
        if not is_open:
            raise
    return log_file


class Reload:
    """What SIGHUP means for a server: files are read again, sessions continue."""

    def __init__(self, program: Program, log: Log, log_file: LogFile | None) -> None:
        self._program = program
        self._log = log
        self._log_file = log_file
        self._is_immune = is_left_ignored(signal.SIGHUP)  # nohup(1): outlive the terminal
        self._had_terminal = has_terminal()

    def __call__(self) -> bool:
        """False, with nothing done, if the terminal from which the program was started is gone: that means its end."""
        if self._had_terminal and not self._is_immune and not has_terminal():
            return False
        self.reopen_log()
        self._program.reload()
        return True

    def reopen_log(self) -> None:
        """Write to a log file of the same name, if there is one and it was moved away."""
        try:
            if self._log_file is not None:
                self._log_file.open()
        except UsageError as error:
            self._log.error("reload-failed", why=error)


def has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def raise_descriptor_limit() -> None:
    """Every stream takes a descriptor: raise the limit to what the system allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keep_spare(min(hard, 1 << 30))
