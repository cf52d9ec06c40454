"""tour LAPTOP SERVER INDEX WHEEL [WHEEL ...]: takes a new user's way on two bare Linux systems, writes docs/tour.md.

LAPTOP and SERVER are directories, each the root of a system such as debootstrap makes, with the packages in NEEDED.
Between them there is a cable, and no other network; so INDEX is a directory with what pip would fetch: cryptography
and what it needs, pip, setuptools and wheel (`pip download`). WHEELs of mproxy are for the Python of each. Needs root.
The systems are changed; what runs in them has ended afterwards.

    python3 .ci/tour bookworm trixie packages dist/mproxy-*.whl
"""

import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))

from hosts import PASSWORD, SERVER_ADDRESS, USER, Cable, Shown, System

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "tour.md"
NEEDED = {"laptop": "pipx openssh-client git rsync postgresql-client chromium iproute2 procps",
          "server": "pipx openssh-server git rsync postgresql iproute2 procps"}


class Tour:
    """What was done so far, as a page."""

    def __init__(self, laptop, server, cable):
        self.laptop, self.server, self.cable = laptop, server, cable
        self.parts, self.failed = [], []

    def say(self, text):
        self.parts.append(text.strip() + "\n")

    def show(self, command, moved_at=None, away_s=4, on=None, good=lambda shown: shown.status == 0, limit_s=180,
             expect=None):
        """Type it and show what came. With `moved_at` the laptop's address changes when that is printed."""
        print(f"tour: {command}", file=sys.stderr, flush=True)
        shown = Shown(on or self.laptop, command, moved_at and (self.cable, moved_at, away_s), limit_s)
        prompt = "ann@server:~$ " if on is self.server else "ann@laptop:~$ "
        lines = [f"{'':9}{prompt if number == 0 else '> '}{line}" for number, line in enumerate(command.split("\n"))]
        lines += [f"{at:6.1f} s {line}".rstrip() for at, line in shown.lines]
        status = f", exit status {shown.status}" if shown.status else ""
        lines.append(f"{'':9}({shown.seconds:.1f} s{status})")
        text = "\n".join(f"    {line}".rstrip() for line in lines).replace(f"/home/{USER}", "~")
        self.parts.append(text + "\n")
        print("\n".join(lines), file=sys.stderr, flush=True)
        if not good(shown) or (expect and expect not in shown.printed()):
            self.failed.append(command)
        return shown

    def write(self):
        PAGE.write_text("\n".join(self.parts).rstrip() + "\n")


def prepare(laptop, server, index, wheels):
    """What a person has before: an account on both, an sshd and a database there, files to work with."""
    for system in (laptop, server):
        shutil.copytree(index, system.root / "srv" / "packages", dirs_exist_ok=True)
        (system.root / "etc" / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # no name server beyond the cable
        (system.root / "etc" / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /srv/packages\n")
        system.run(f"id {USER} > /dev/null 2>&1 || useradd -m -s /bin/bash {USER}")
        system.run(f"grep -q '{SERVER_ADDRESS} server' /etc/hosts || echo '{SERVER_ADDRESS} server' >> /etc/hosts")
    server.run(f"echo '{USER}:{PASSWORD}' | chpasswd; mkdir -p /run/sshd; /usr/sbin/sshd")
    server.run("pg_ctlcluster $(pg_lsclusters -h | awk '{print $1, $2}') start; for i in $(seq 100); do"
               " runuser -u postgres -- psql -qc 'select 1' > /dev/null 2>&1 && break; sleep 0.1; done;"
               f" runuser -u postgres -- createuser {USER}; runuser -u postgres -- createdb -O {USER} {USER}")
    home = laptop.root / "home" / USER
    for wheel in wheels:
        shutil.copy(wheel, home)
    for name in ("editor_load.py", "site.py"):
        shutil.copy(Path(__file__).parent / name, home)
    laptop.run("umask 022; cd ~; git config --global user.name Ann; git config --global user.email ann@example.org;"
               " git config --global init.defaultBranch main; mkdir -p project photos; cd project; git init -q;"
               " head -c 400M /dev/urandom > model.bin; git add .; git commit -qm 'a model';"
               " git remote add origin server:project.git; cd ../photos;"
               " for i in $(seq 100); do head -c 10M /dev/urandom > photo$i.raw; done", user=USER)
    server.run("git init -q --bare -b main project.git", user=USER)


def take(tour):
    laptop, server = tour.laptop, tour.server

    def release(system):
        return system.run(". /etc/os-release; echo $PRETTY_NAME, $(ssh -V 2>&1 | cut -d, -f1 | cut -d' ' -f1),"
                          " $(python3 -V)").strip()
    tour.say(f"""
# A tour

What a new user does in the first half hour, and what comes of it: two fresh systems, `laptop` and `server`, joined by
a cable whose laptop end gets another address while each thing runs. Every line that was printed is here, with the
second at which it came; of a progress line what it said last, and ann's home directory is written `~`. The page is made
by [a script](../.ci/tour/__main__.py), which fails when one of the programs here does.

* laptop: {release(laptop)}
* server: {release(server)}
* the network: a virtual cable without a speed limit, {time.strftime('%Y-%m')}; where the address changes, the old one
  and the link are taken away, there is none for some seconds, and then another one in another network
""")
    tour.say("## Install")
    tour.say("A wheel for each, here with pipx. Neither a compiler nor OpenSSL is needed for that.")
    version = laptop.run("python3 -c 'import sys; print(*sys.version_info[:2], sep=\"\")'").strip()
    theirs = server.run("python3 -c 'import sys; print(*sys.version_info[:2], sep=\"\")'").strip()
    wheel = laptop.run(f"cd /home/{USER}; ls mproxy-*-cp{version}-*.whl").strip()
    other = laptop.run(f"cd /home/{USER}; ls mproxy-*-cp{theirs}-*.whl").strip()
    tour.show(f"pipx install ./{wheel}")
    tour.show("mproxy")
    tour.say("ssh has to get in. A key for that, if there is none yet:")
    tour.show("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 && ssh-copy-id server")
    tour.show(f"scp {other} server: && ssh server pipx install ./{other}")

    tour.say("## ssh\n\nThe first time `mproxy ssh` has ssh start sproxy there; nothing has to run before.")
    tour.show("mproxy ssh server 'for i in $(seq 12); do echo $i; sleep 0.5; done'", moved_at=r"\n4\n", expect="\n12\n")
    tour.say("As ssh, beside ssh:")
    tour.show("time ssh server true")
    tour.show("time mproxy ssh server true")
    tour.say("## Everything that uses ssh\n\nOnce, for each host or a pattern:")
    tour.show("mproxy setup-ssh server")
    tour.say("From here on `ssh server` survives, and all that uses it. A terminal with a program in it:")
    tour.show("ssh -tt server 'top -b -d 1 -n 8 | grep --line-buffered Tasks'", moved_at=r"Tasks", away_s=3)

    tour.say("What is there now, and what it has been through:")
    tour.show("ssh -f server sleep 20 && mproxy status")
    tour.show("mproxy status", on=server)

    tour.say("""## An editor's remote host

What VS Code and its like do: a server, started there by an ssh that ends; a forward to it; many streams through that;
a file watcher; and an ssh for every command. [editor_load.py](../.ci/tour/editor_load.py) does this with 30 streams,
and compares every byte.""")
    tour.show("python3 editor_load.py server 30 15", moved_at=r"streams work", away_s=5, expect="everything is whole")

    tour.say("## git push\n\n400 MB that cannot be compressed.")
    tour.show("cd project && git push origin main", moved_at=r"Writing objects:  [1-9]", away_s=4)
    tour.show("git -C project.git fsck && git -C project.git log --oneline", on=server)

    tour.say("## rsync\n\n1 GB in 100 files.")
    tour.show("rsync -a --info=progress2 photos server:", moved_at=r"  [1-9]\d%", away_s=4)
    tour.show("rsync -a --checksum --dry-run --itemize-changes photos server: && echo nothing differs",
              expect="nothing differs")

    tour.say("""## psql

The database listens on the server's loopback only; one cproxy, started once, leads there. The transaction is open
while the address changes, and the session of PostgreSQL is the same one before and after.""")
    tour.server.run("sed -i 's/scram-sha-256/trust/' /etc/postgresql/*/main/pg_hba.conf;"
                    " runuser -u postgres -- psql -qc 'select pg_reload_conf()'")
    tour.show("cproxy --via 'ssh -T server .local/bin/sproxy --attach --start 127.0.0.1:5432' 5432 & sleep 3; "
              "psql -h 127.0.0.1 -a <<'END'\n"
              "select pg_backend_pid();\nbegin;\ncreate table seen (at timestamptz);\n"
              "insert into seen select now() from generate_series(1, 100000);\n"
              "select count(*), pg_sleep(8) from seen;\ncommit;\n"
              "select count(*), pg_backend_pid() from seen;\nEND\nkill %1; wait", moved_at=r"INSERT", away_s=4,
              expect=" 100000 |")

    tour.say("""## A browser

Through ssh's own SOCKS proxy. The page has 40 pictures, each of which takes a second;
[site.py](../.ci/tour/site.py) serves it on the server's loopback. Chromium itself gives up what it loads when an
address of its host changes, whatever the proxy; so the page asks again for what is broken. The proxy is still there.
""")
    tour.show("scp -q site.py server: && ssh server 'nohup python3 site.py 8000 > /dev/null 2>&1 < /dev/null &'")
    tour.show("ssh -f -N -D 1080 server; (sleep 4; echo loading) & \\\n"
              "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \\\n"
              "--disable-background-networking \\\n"
              "--proxy-server=socks5://127.0.0.1:1080 --proxy-bypass-list='<-loopback>' --timeout=60000 \\\n"
              "--dump-dom http://127.0.0.1:8000/ 2> /dev/null | grep -o '[0-9]* pictures are.*again</p>'",
              moved_at=r"loading", away_s=3, expect="40 pictures are whole")


def main(words):
    if len(words) < 4 or words[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    began = time.monotonic()
    laptop, server = System("laptop", words[0]), System("server", words[1])
    try:
        cable = Cable(laptop, server)
        prepare(laptop, server, words[2], words[3:])
        tour = Tour(laptop, server, cable)
        take(tour)
        tour.write()
    finally:
        laptop.close()
        server.close()
    print(f"tour: {time.monotonic() - began:.0f} s", file=sys.stderr)
    for command in tour.failed:
        print(f"tour: failed: {command}", file=sys.stderr)
    return 1 if tour.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
