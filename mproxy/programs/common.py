"""What cproxy and sproxy share: from command line to exit status, listeners, signals, words for the log."""

import os
import resource
import signal
import socket

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.io._loop import Loop
from mproxy.io._socket import keep_spare
from mproxy.io.bind import BACKLOG, NO_SUCH_ADDRESS, explain_bind
from mproxy.io.stdio import check_stdio
from mproxy.programs.options import complain
from mproxy.service.log import Log, Seconds
from mproxy.service.rights import User, protect_memory, warn_of_lost_file


def run_program(name, parse, program_class, argv):
    """Parse, run until the program stops its loop, and return the exit status."""
    log = log_file = None
    try:
        config = parse(argv)
        protect_memory()
        stdio = getattr(config, "stdio", False)
        check_stdio(standard_fds_of(config))
        log_file = open_log_file(getattr(config, "log_file", None))
        log = Log(config.log_level, config.log_format)
        user = User(config.user) if getattr(config, "user", None) else None
        raise_descriptor_limit()
        loop = Loop()
        loop.on_error = lambda error: log.error("internal-error", why=f"{type(error).__name__}: {error}")
        log.restrain(loop.call_later)
        program = program_class(config, log, loop)
        reloads = hasattr(program, "reload") and not stdio  # ssh says SIGHUP to its ProxyCommand when it is done
        install_signals(loop, program, Reload(program, log, log_file) if reloads else None)
        if hasattr(program, "open"):
            program.open()  # ports and keys, with the rights that we were started with
        if user is not None:
            user.become()
            warn_of_lost_file(getattr(program, "authorized_keys_file", None), user, log)
        program.start()
        loop.run()
        log.tell_rest()
        return program.exit_status
    except UsageError as error:
        why, status = str(error), 2
    except MproxyError as error:
        why, status = str(error), 1
    except OSError as error:
        why, status = f"{error.strerror or error}{': ' + str(error.filename) if error.filename else ''}", 1
    if log_file is not None:
        log_file.give_back()  # whoever started it reads this, not the log
    complain(name, why)
    return status


def standard_fds_of(config):
    """Those of descriptors 0 and 1 that carry what is to be relayed, sent or received."""
    stdio = getattr(config, "stdio", False)
    reads = stdio or "-" in getattr(config, "paths", ())
    writes = stdio or getattr(config, "output", None) == "-"
    return [fd for fd, used in enumerate((reads, writes)) if used]


def open_log_file(path):
    """Send standard error to a file; None without one. UsageError."""
    if path is None:
        return None
    from mproxy.service.daemon import LogFile
    log_file = LogFile(path)
    log_file.open()
    return log_file


class Reload:
    """What SIGHUP means to a server: files are read again, sessions continue."""

    def __init__(self, program, log, log_file):
        self._program = program
        self._log = log
        self._log_file = log_file
        self._had_terminal = has_terminal()

    @property
    def wanted(self):
        """Not when the terminal that the program was started from is gone: then the signal means its end."""
        return not self._had_terminal or has_terminal()

    def __call__(self):
        try:
            if self._log_file is not None:
                self._log_file.open()
        except UsageError as error:
            self._log.error("reload-failed", why=error)
        self._program.reload()


def has_terminal():
    """Whether the process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def install_signals(loop, program, reload=None):
    """First SIGTERM, SIGINT or SIGHUP: `program.shut_down()`. Second: leave at once. SIGHUP: `reload`, if there is one.
    """
    received: list[int] = []

    def on_signal(number, _frame):
        if number == signal.SIGHUP and reload is not None and not received and reload.wanted:
            loop.call_soon_threadsafe(reload)
            return
        received.append(number)
        if len(received) > 1:
            os._exit(1)  # an exception could come while the interpreter ends, where nobody catches it
        loop.call_soon_threadsafe(lambda: program.shut_down(signal.Signals(number).name))

    # A signal that comes just before the loop sleeps would only be seen after the next event: let it be one.
    arrived, arrival = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(arrival, warn_on_full_buffer=False)
    loop.watch(arrived, lambda _events: os.read(arrived, 512))
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup(1)
        signal.signal(signal.SIGHUP, on_signal)  # the terminal is gone, or the ssh whose ProxyCommand this is
    # What has no meaning here must not end anything; SIGXFSZ comes for a log file at its size limit.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def raise_descriptor_limit():
    """Every stream takes a descriptor: use all that the system grants."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keep_spare(min(hard, 1 << 30))


def open_listeners(config):
    """Return listening sockets for the configured addresses, all on one port.

    Of the default addresses those whose family the host lacks are left out; one that the user named must work.
    """
    listeners = []
    port = config.port
    for address in config.bind_addresses:
        try:
            listeners.append(listen(address, port))
        except OSError as error:
            others = listeners or address != config.bind_addresses[-1]
            if others and not config.bind and error.errno in NO_SUCH_ADDRESS:
                continue
            for listener in listeners:
                listener.close()
            raise MproxyError(
                f"cannot listen on {format_host_port(address, port)}: {explain_bind(error, port)}") from None
        port = listeners[-1].getsockname()[1]
    return listeners


def listen(address, port):
    """Return a non-blocking listening TCP socket; an IPv6 one takes IPv6 only."""
    host, _, scope = address.partition("%")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What it accepts inherits these. Without the second an urgent byte (telnet sends some) would not be read.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port, 0, socket.if_nametoindex(scope) if scope else 0))
        else:
            listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class Drain:
    """Waits until endpoints have nothing left to deliver: buffers empty, and no byte moved for a while.

    Applications are read on meanwhile, because what they had written before the end lies in the kernel, too.
    """

    # Between two looks; and how many of them without a byte mean that the applications have no more.
    LOOK_US = 20_000
    QUIET_LOOKS = 5

    def __init__(self, loop, endpoints, patience_us, done):
        self._loop = loop
        self._endpoints = endpoints
        self._deadline = loop.now() + patience_us
        self._done = done
        self._moved = None
        self._quiet = 0
        self._look()

    def _look(self):
        endpoints = self._endpoints()
        moved = sum(e.session.out_bytes + e.session.in_bytes for e in endpoints)
        self._quiet = self._quiet + 1 if moved == self._moved else 0
        self._moved = moved
        drained = all(e.drained for e in endpoints)
        if (drained and self._quiet >= self.QUIET_LOOKS) or not endpoints or self._loop.now() >= self._deadline:
            self._done()
        else:
            self._loop.call_later(self.LOOK_US, self._look)


def say_address(sockaddr):
    """A socket address as the log shows it: `10.0.0.1:6200`, `[::1]:6200`."""
    host = sockaddr[0]
    if host.startswith("::ffff:"):
        host = host[7:]
    return format_host_port(host, sockaddr[1])


def say_session(session_id):
    """A session as the log names it: the beginning of its id, which gives no right to it."""
    return session_id[:4].hex()


def say_seconds(us):
    """A duration as the log shows it: `6.213s`, in JSON 6.213."""
    return Seconds(us / 1e6)
