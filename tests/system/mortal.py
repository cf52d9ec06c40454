"""Workers that are killed under their keeper, and what is left of them."""

import os
import re
import signal
import threading
from pathlib import Path

from lab import outage, until

from tests.root import real_root


def kill_worker(*programs, number=signal.SIGKILL):
    """End programs' workers by a signal, all at once, and wait for the next ones."""
    pids = [program.worker_pid for program in programs]
    for pid in pids:
        os.kill(pid, number)
    for program, pid in zip(programs, pids, strict=True):
        until(lambda program=program, pid=pid: program.worker_pid != pid, 10, "there is another worker")


def descriptors(program):
    """What the worker has open: {number: what it leads to}."""
    place = Path(f"/proc/{program.worker_pid}/fd")
    return {entry.name: os.readlink(entry) for entry in place.iterdir()}


def arena_bytes(program):
    """Memory that the file behind the arena takes; 0 where that is not to be known, by others than the real root."""
    if not real_root():
        return 0
    pid = program.worker_pid
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    places = {line.split()[0] for line in lines if "memfd:mproxy" in line}
    return max(os.stat(f"/proc/{pid}/map_files/{place}").st_blocks * 512 for place in places)


def keeper_bytes(program):
    """Anonymous memory of the keeper: what is its own, and what its worker has from it and neither has changed."""
    text = Path(f"/proc/{program.pid}/smaps_rollup").read_text()
    return 1024 * int(re.search(r"^Anonymous: +([0-9]+) kB", text, re.MULTILINE)[1])


class Reaper(threading.Thread):
    """Kills the workers of `programs` together so many times, at random moments; `join` says what went wrong."""

    def __init__(self, programs, count, chance, longest_s=0.3):
        super().__init__(daemon=True)
        self.programs, self.count, self.chance, self.longest_s = programs, count, chance, longest_s
        self.error = None
        self.start()

    def run(self):
        try:
            for _ in range(self.count):
                outage(self.chance.random() * self.longest_s * self.chance.choice([0.1, 1]))
                kill_worker(*self.programs)
        except BaseException as error:
            self.error = error

    def join(self):
        super().join()
        if self.error is not None:
            raise self.error


def shared_memory(program):
    """Where the arena begins in the worker's memory."""
    text = Path(f"/proc/{program.worker_pid}/maps").read_text()
    return int(re.search(r"^([0-9a-f]+)-.*memfd:mproxy", text, re.MULTILINE)[1], 16)


def damage(program, offset, data):
    """Write into the arena of a program that runs."""
    with open(f"/proc/{program.worker_pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(shared_memory(program) + offset)
        memory.write(data)
