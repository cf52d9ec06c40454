"""Holds one host of the lab: run in fresh network and mount namespaces, it keeps them until its stdin ends.

Its stdin is a pipe from the test process. However that process ends, even by `kill -9`, the pipe ends with it; then
every process left in this host is killed, and the namespaces go with the last of them. So nothing outlives a run.

usage: _holder.py ETC_DIRECTORY      its files replace those in /etc, for this host alone
"""

import os
import signal
import sys
import time

# Programs that run as nobody have their control sockets here, and not in a /tmp that all hosts share.
NOBODY = 65534
NOBODY_RUNTIME = f"/run/user/{NOBODY}"


def run(*command):
    """Runs a program to its end. (To import `subprocess` would take longer than all the rest, in every test.)"""
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(command[0], command, os.environ), 0)[1])
    if status:
        sys.exit(f"{' '.join(command)} ended with status {status}")


def own_files(etc):
    # A private /run: sshd wants /run/sshd, telnetd writes utmp, and neither may touch the machine's.
    table = ["private /run tmpfs"]  # a name of its own: mount leaves out what there is already
    table += [f"private {place} tmpfs" for place in control_sockets()]
    for name in os.listdir(etc):
        table.append(f"{quoted(os.path.join(etc, name))} /etc/{name} none bind")
    with open(os.path.join(etc, "fstab"), "w") as file:
        file.write("\n".join(table) + "\n")
    run("mount", "--all", "--fstab", file.name)
    os.mkdir("/run/sshd", 0o755)
    os.makedirs(NOBODY_RUNTIME, 0o700)
    try:
        os.chown(NOBODY_RUNTIME, NOBODY, NOBODY)
    except OSError:
        pass  # nor can a program become nobody here: it is not the real root


def control_sockets():
    """Where programs have them that were started outside of the lab: by tests beside this one, or for good (mproxy
    status in a host is root, and looks for those of every user)."""
    for name in os.listdir("/tmp"):
        place = f"/tmp/{name}"
        if name.startswith("mproxy-") and name[7:].isdigit() and os.path.isdir(place) and not os.path.islink(place):
            yield place


def quoted(path):
    """A path as fstab(5) has it."""
    return path.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")


def ready_network():
    # Without duplicate address detection an IPv6 address works at once; in the lab nobody else can have it.
    for which in ("all", "default"):
        with open(f"/proc/sys/net/ipv6/conf/{which}/accept_dad", "w") as setting:
            setting.write("0")


def kill_the_rest(parent):
    mine = os.readlink("/proc/self/ns/net")
    spared = (os.getpid(), parent)  # a thread of the test process may be in here for a moment
    # A run that was killed may have had a program on its way in.
    until = time.monotonic() + (0 if os.getppid() == parent else 0.5)
    left = True
    while left or time.monotonic() < until:
        left = False
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(pid) not in spared and os.readlink(f"/proc/{pid}/ns/net") == mine and not zombie(pid):
                    os.kill(int(pid), signal.SIGKILL)
                    left = True
            except OSError:
                continue  # gone meanwhile
        if not left and time.monotonic() < until:
            time.sleep(0.02)


def zombie(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


def main():
    parent = os.getppid()
    own_files(sys.argv[1])
    ready_network()
    print("ready", flush=True)
    sys.stdin.read()
    kill_the_rest(parent)


if __name__ == "__main__":
    main()
