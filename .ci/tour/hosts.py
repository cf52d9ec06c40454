"""Two Linux systems, each a directory with its own namespaces, joined by a cable whose end can get another address."""

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

SERVER_ADDRESS = "192.0.2.10"
USER = "ann"
PASSWORD = "correct horse"

# What holds a system's namespaces, and reaps what nobody waits for.
HOLD = """
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
mount -t sysfs sys "$ROOT/sys" 2> /dev/null
mount -t tmpfs tmpfs "$ROOT/run"
mkdir -p "$ROOT/run/lock" "$ROOT/run/user"
chmod 1777 "$ROOT/run/lock"
hostname "$NAME"
ip link set lo up
exec chroot "$ROOT" bash -c 'echo ready; while :; do sleep 3600 & wait; done'
"""

ANSWERS = (
    (re.compile(r"\(yes/no(?:/\[fingerprint\])?\)\?\s*$"), "yes"),
    (re.compile(r"[Pp]assword:\s*$"), PASSWORD),
    (re.compile(r"\[y/N\]\s*$"), "y"),
)


# A line that is drawn below the cursor; others that move it or erase.
BELOW = re.compile(r"\x1b7(.*?)\x1b8", re.DOTALL)
CODES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[A-Z])")


class System:
    """One of the two. `root` is its file system."""

    def __init__(self, name, root):
        self.name, self.root = name, Path(root).resolve()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net",
             "--propagation", "private", "bash", "-c", HOLD],
            env={**os.environ, "ROOT": str(self.root), "NAME": name}, stdout=subprocess.PIPE, text=True)
        if self._holder.stdout.readline() != "ready\n":
            raise SystemExit(f"tour: {root} could not be entered; it needs to be the root of a Linux system")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.pid = int(children[0])

    def command(self, words, user=USER):
        """The words that run this in the system, as its user would from a terminal."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--ipc", "--net", "--root"]
        if user == "root":
            return [*enter, "--wdns=/", "env", "-i", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8", *PATH, *words]
        return [*enter, f"--wdns=/home/{user}", "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups",
                "env", "-i", f"HOME=/home/{user}", f"USER={user}", f"LOGNAME={user}", "SHELL=/bin/bash", "TERM=dumb",
                "LANG=C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK=1", *PATH, *words]

    def run(self, text, user="root", check=True):
        """Run a shell command on the quiet; what it prints."""
        done = subprocess.run(self.command(["bash", "-lc", text], user), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False, timeout=300)
        if check and done.returncode:
            raise SystemExit(f"tour: {self.name}: {text}: {done.stdout}")
        return done.stdout

    def close(self):
        self._holder.send_signal(signal.SIGKILL)
        self._holder.wait()


PATH = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)


class Cable:
    """Between the two. The laptop's end has one address at a time, in a network of its own, like in another place."""

    def __init__(self, laptop, server):
        self._laptop, self.network = laptop, 0
        subprocess.run(["ip", "link", "add", "eth0", "netns", str(laptop.pid), "type", "veth", "peer", "name", "eth0",
                        "netns", str(server.pid)], check=True)
        server.run(f"ip address add {SERVER_ADDRESS}/24 dev eth0; ip link set eth0 up;"
                   " ip route add 10.0.0.0/8 dev eth0")
        self.plug_in()

    @property
    def address(self):
        return f"10.{self.network}.0.2"

    def pull(self):
        """The address and every route are gone."""
        self._laptop.run("ip address flush dev eth0; ip link set eth0 down")

    def plug_in(self):
        """In the next network."""
        self.network += 1
        self._laptop.run(f"ip link set eth0 up; ip address add {self.address}/24 dev eth0;"
                         f" ip route add {SERVER_ADDRESS} dev eth0 src {self.address};"
                         f" ip route add default via {SERVER_ADDRESS} dev eth0 src {self.address}")


class Shown:
    """A command as a person types it: what it prints, when each line came, and how it ended."""

    def __init__(self, system, text, moved=None, limit_s=180):
        """`moved`: (Cable, text that is waited for, seconds without a network): the change of address meanwhile."""
        self.text, self.lines, self._partial, self._raw = text, [], "", ""
        self._moved, self._system = moved, system
        self._began = time.monotonic()
        self._run(system.command(["bash", "-lc", text]), limit_s)

    def _run(self, words, limit_s):
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                                   preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(theirs)
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        mover = None
        while True:
            try:
                data = os.read(ours, 65536).decode(errors="replace")
            except OSError:
                break
            if not data:
                break
            self._take(data)
            for prompt, answer in ANSWERS:
                if prompt.search(self._partial):
                    os.write(ours, f"{answer}\n".encode())
                    self._partial += " " if self._partial[-1:] not in " \n" else ""
            if self._moved and mover is None and re.search(self._moved[1], self.printed()):
                mover = threading.Thread(target=self._move)
                mover.start()
        self.status = process.wait()
        self.seconds = time.monotonic() - self._began
        timer.cancel()
        os.close(ours)
        if mover:
            mover.join()
        elif self._moved:
            self._event("(the address was not changed: it was over before)")

    def _move(self):
        cable, _, away_s = self._moved
        old = cable.address
        cable.pull()
        self._event(f"(the cable is pulled; {old} is gone)")
        time.sleep(away_s)
        cable.plug_in()
        self._event(f"(another network: {cable.address})")

    def _event(self, text):
        self.lines.append((time.monotonic() - self._began, text))

    def _take(self, data):
        """What a terminal would show in the end: of a progress line its last state."""
        text = BELOW.sub(self._note, self._raw + data)
        cut = text.rfind("\x1b7")
        text, self._raw = (text[:cut], text[cut:]) if cut >= 0 else (text, "")
        *whole, self._partial = CODES.sub("", self._partial + text).replace("\r\n", "\n").split("\n")
        for line in whole:
            shown = [part for part in line.split("\r") if part.strip()]
            self._event(shown[-1].rstrip() if shown else "")

    def _note(self, drawn):
        """What mproxy draws below the cursor while the server is away."""
        text = CODES.sub("", drawn[1]).strip()
        if text:
            self._event(f"{text}  (in the line below, until it is back)")
        return ""

    def printed(self):
        return "\n".join(line for _, line in self.lines) + "\n" + self._partial
