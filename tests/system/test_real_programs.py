"""Programs that people use, while the workers of the proxies between them are killed again and again, and builds
upgraded.

Each notices when a byte is lost, repeated or changed: ssh by its MACs, git by its hashes, pgbench by sums that have to
be equal, a subscriber of Redis by numbers in their order.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builds import take_over
from lab import outage, until
from mortal import kill_worker
from openssh import NEEDS_SSHD, SSHD_PORT, sha256, ssh_options
from proxies import CPROXY_PORT
from real_daemons import (
    GIT_PORT,
    MEGABYTES,
    NEEDS_GIT,
    NEEDS_POSTGRES,
    NEEDS_REDIS,
    POSTGRES_PORT,
    REDIS_PORT,
    postgres_programs,
)

KEPT = (sys.executable, Path(__file__).with_name("kept_proxy.py"))
KILLS = 20
KILLS_AN_ADDRESS = 4
KILLS_AN_UPGRADE = 4
PUBLISHED = 10  # between two deaths

# Copies last three times as long as the deaths.
BYTES = 60_000_000
RATE = "30mbit"

pytestmark = [*NEEDS_SSHD, pytest.mark.long]


class Ordeal:
    """Proxies to several daemons, a cproxy for each, and what happens to them."""

    def __init__(self, pair, *daemons):
        self.pair = pair
        allowed = [word for daemon in daemons for word in ("--allow", f"127.0.0.1:{daemon}")]
        pair.start_sproxy(*allowed, prefix=KEPT)
        self.ports = {daemon: CPROXY_PORT + number for number, daemon in enumerate(daemons)}
        self.cproxies = [pair.start_cproxy("--target", f"127.0.0.1:{daemon}", port=port, prefix=KEPT)
                         for daemon, port in self.ports.items()]

    def go_through(self, before, after):
        """All deaths, changes of the client's address and upgrades; `before(n)` and `after(n)` each death."""
        every = [*self.cproxies, self.pair.sproxy]
        turns = [self.cproxies, [self.pair.sproxy], every]
        for number in range(KILLS):
            before(number)
            kill_worker(*turns[number % len(turns)])
            if number % KILLS_AN_ADDRESS == 0:
                self.pair.lab.wifi.pull()
                outage(0.1)
                self.pair.lab.wifi.give(3 + number)
            elif number % KILLS_AN_UPGRADE == 2:
                take_over(every[number // KILLS_AN_UPGRADE % len(every)])
            after(number)
        for program in every:
            assert not [event for event in program.events("taken-over") if "lost" in event.fields]
            assert not program.events("session-damaged")


def size(place):
    """Bytes of a file, or of all files below a directory; those that vanish meanwhile do not count."""
    if place.is_dir():
        return sum(map(size, place.iterdir()))
    return os.path.getsize(place) if os.path.exists(place) else 0


def go_through(ordeal, programs, goals):
    """The ordeal of programs that copy; it is over before a third of `goals`, {place: bytes}, is there."""
    def go_on(number):
        part = (number + 1) / KILLS / 3
        until(lambda: all(size(place) >= part * goal for place, goal in goals.items()), 60, f"{part:.0%} is there")
        assert all(program.running or program.wait() == 0 for program in programs), f"not after death {number}"
    ordeal.go_through(go_on, lambda number: None)
    for program in programs:
        assert program.wait(120) == 0, str(program)


def test_copies(pair, lab, sshd):
    """Goal: an scp, and the output of a command of ssh, at the same time."""
    ordeal = Ordeal(pair, SSHD_PORT)
    lab.wifi.shape(RATE)
    source, there = lab.client.home / "source", lab.server.home / "there"
    origin, here = lab.server.home / "origin", lab.client.home / "here"
    source.write_bytes(os.urandom(BYTES))
    origin.write_bytes(os.urandom(BYTES))
    port = ordeal.ports[SSHD_PORT]
    with open(here, "wb") as file:
        programs = [
            lab.client.start("scp", "-q", *ssh_options(lab, "-P", port), source, f"root@127.0.0.1:{there}"),
            lab.client.start("ssh", *ssh_options(lab, "-p", port), "root@127.0.0.1", f"cat {origin}", stdout=file)]
    go_through(ordeal, programs, {there: BYTES, here: BYTES})
    assert sha256(there) == sha256(source) and sha256(here) == sha256(origin)


@NEEDS_GIT
def test_clone(pair, lab, repository):
    ordeal = Ordeal(pair, GIT_PORT)
    lab.wifi.shape(RATE)
    clone = lab.client.home / "clone"
    git = lab.client.start("git", "-c", "transfer.fsckObjects=true", "clone", "-q",
                           f"git://127.0.0.1:{ordeal.ports[GIT_PORT]}/large", clone)
    go_through(ordeal, [git], {clone: MEGABYTES * 1_000_000})
    lab.client.run("git", "-C", clone, "fsck", "--full")
    assert head(lab.client, clone) == head(lab.server, repository)


def head(host, place):
    return host.run("git", "-c", "safe.directory=*", "-C", place, "rev-parse", "HEAD")


@NEEDS_POSTGRES
@NEEDS_REDIS
def test_conversations(pair, lab, sshd, postgres, redis):
    """Goal: keys typed at a terminal, transactions, and messages to a subscriber, all at the same time."""
    ordeal = Ordeal(pair, SSHD_PORT, POSTGRES_PORT, REDIS_PORT)
    typist = Typist(lab, ordeal.ports[SSHD_PORT])
    bank = Bank(lab, ordeal.ports[POSTGRES_PORT])
    channel = Channel(lab, ordeal.ports[REDIS_PORT])
    parties = (typist, bank, channel)
    ordeal.go_through(lambda number: [party.ask(number) for party in parties],
                      lambda number: [party.hear(number) for party in parties])
    for party in parties:
        party.finish()


class Typist:
    """A person at a remote terminal, which echoes each key and answers each line."""

    def __init__(self, lab, port):
        loop = 'stty sane; echo ready; while read -r line; do echo "<$line>"; done; echo over'
        self.ssh = lab.client.start_on_terminal("ssh", "-tt", *ssh_options(lab, "-p", port), "root@127.0.0.1", loop)
        self.ssh.expect("^ready$")

    def ask(self, number):
        for key in f"key {number}\n":
            self.ssh.type(key)

    def hear(self, number):
        self.ssh.expect(f"^<key {number}>$")

    def finish(self):
        self.ssh.type("\x04")
        assert self.ssh.wait() == 0
        lines = [line for number in range(KILLS) for line in (f"key {number}", f"<key {number}>")]
        assert self.ssh.out.text.split("\n") == ["ready", *lines, "over", ""]


class Bank:
    """pgbench, which moves sums between accounts, tellers and branches."""

    def __init__(self, lab, port):
        self.lab = lab
        self.pgbench = lab.client.start(
            postgres_programs() / "pgbench", "-h", "127.0.0.1", "-p", port, "-U", "test", "-n", "-c", "4", "-T", "600",
            "postgres")
        self.known = 0
        self.hear(0)  # where nothing is connected yet, a path that is gone is told at once, as by connect(2)

    def ask(self, _number):
        self.known = self.query("select count(*) from pgbench_history")

    def hear(self, _number):
        until(lambda: self.query("select count(*) from pgbench_history") > self.known, 30, "a transaction more")

    def query(self, text):
        return int(self.lab.server.run(
            postgres_programs() / "psql", "-h", "127.0.0.1", "-U", "test", "-A", "-t", "-c", text, "postgres"))

    def finish(self):
        self.pgbench.signal(signal.SIGALRM)  # by which it notices that its time is over
        assert self.pgbench.wait() == 0, str(self.pgbench)
        assert "number of failed transactions: 0 " in self.pgbench.out.text
        done = int(re.search(r"actually processed: (\d+)", self.pgbench.out.text)[1])
        assert self.query("select count(*) from pgbench_history") == done
        sums = {self.query(f"select sum({column}) from {table}") for column, table in (
            ("abalance", "pgbench_accounts"), ("tbalance", "pgbench_tellers"), ("bbalance", "pgbench_branches"),
            ("delta", "pgbench_history"))}
        assert len(sums) == 1


class Channel:
    """Numbers that are published in their order, and somebody who has subscribed to them."""

    def __init__(self, lab, port):
        command = ["redis-cli", "-h", "127.0.0.1", "-p", port]
        self.subscriber = lab.client.start(*command, "subscribe", "numbers")
        self.subscriber.expect("^subscribe\nnumbers\n1$")
        self.publisher = lab.client.start(*command, stdin=subprocess.PIPE)

    def ask(self, number):
        for each in range(number * PUBLISHED, (number + 1) * PUBLISHED):
            self.publisher.process.stdin.write(f"publish numbers {each}\n".encode())
        self.publisher.process.stdin.flush()

    def hear(self, number):
        self.subscriber.expect(f"^{(number + 1) * PUBLISHED - 1}$")

    def finish(self):
        self.publisher.process.stdin.close()
        assert self.publisher.wait() == 0
        assert self.publisher.out.text == "1\n" * (KILLS * PUBLISHED), "one subscriber had each"
        published = "".join(f"message\nnumbers\n{number}\n" for number in range(KILLS * PUBLISHED))
        assert self.subscriber.out.text == "subscribe\nnumbers\n1\n" + published
