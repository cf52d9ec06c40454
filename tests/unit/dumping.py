"""Sessions that go from one program to the next as a dump: `-m tests.unit.dumping MODE SEED N`.

A program of its own, for a process has one arena, or none; each of those that it makes has another. Prints one line;
exits with a failure when a byte is lost, repeated or changed, or a dump is taken for what it is not.
"""

import os
import random
import struct
import sys
import traceback

from mproxy._dump import OLDEST, VERSION, DumpError, dump_sessions, load_sessions
from mproxy._inherit import map_arena, recover
from tests.drivers import _survival
from tests.unit.session_pair import make_config

IDS = 2000
STEPS = 2000
FOREVER = 1 << 40
ABOUT = b"about the program"
HEAD = struct.Struct("=8sIIQII")
REFUSED, OTHER = 3, 4


def apart(act):
    """Do it in another process; its exit status: what `act()` returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = act() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(ok, what):
    if not ok:
        sys.exit(what)


def dump(version=VERSION, about=ABOUT):
    rooms = []

    def room(length):
        rooms.append(bytearray(length))
        return rooms[0]

    check(dump_sessions(version, about, room) == [], "the world has no descriptors")
    return bytes(rooms[0])


def load(data):
    """Load a dump as a program does: in another process."""
    check(apart(lambda: load_sessions(data, [])[1] != ABOUT * (data[8] > 1)) == 0, "it is not loaded")


class File:
    """What one process leaves for the next."""

    def __init__(self):
        self._fd = os.memfd_create("dump")

    def write(self, data):
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def read(self):
        return os.pread(self._fd, 1 << 30, 0)


def live(seed, file, version=VERSION, steps=STEPS):
    """A program: it goes on with what it is given, and leaves what there is in the end."""
    map_arena()
    if given := file.read():
        load(given)
    world = _survival.World(make_config(), seed, IDS)
    world.take_over()
    world.run(steps)
    file.write(dump(version))


def loaded_again(data):
    """What a dump of a loaded dump is."""
    file = File()

    def act():
        map_arena()
        load_sessions(data, [])
        file.write(dump(data[8]))

    check(apart(act) == 0, "it is not loaded")
    return file.read()


def pass_on(seed, count):
    """So many programs, one after the other; each third writes the former version."""
    file, sizes = File(), []
    for n in range(count):
        version = VERSION if n % 3 else OLDEST
        check(apart(lambda n=n, version=version: live(seed * 1000 + n, file, version)) == 0, "a program failed")
        data = file.read()
        sizes.append(len(data))
        check(loaded_again(data) == data, "the dump of a dump is another one")
    check(apart(lambda: live(seed, file, steps=FOREVER)) == 0, "the last program failed")
    check(not _survival.incomplete(), f"incomplete: {_survival.incomplete()}")
    print(count, max(sizes), _survival.steps_done()[0])


def try_load(data):
    """0: it is a dump, and what it says can be; REFUSED; OTHER: what is in it was changed, and nothing else."""
    def act():
        map_arena()
        try:
            _numbers, about = load_sessions(data, [])
        except DumpError:
            return REFUSED
        again = dump(data[8], about)
        return REFUSED if recover()[1] else 0 if again == data else OTHER
    return apart(act)


def spoil(seed, count):
    """Damage a dump in one bit, again and again; only what applications wrote, or a program, may look right."""
    chance = random.Random(seed)
    file = File()
    apart(lambda: live(seed, file))
    data = file.read()
    check(try_load(data) == 0, "the dump is sound")
    refused = 0
    for n in range(count):
        at = n if n < HEAD.size + len(ABOUT) + 200 else chance.randrange(len(data))
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << chance.randrange(8)
        found = try_load(bytes(spoilt))
        check(found in (0, REFUSED), f"byte {at}: {found}")
        check(found == REFUSED or at >= HEAD.size, f"byte {at} of the head was believed")
        refused += found == REFUSED
    for length in [0, 1, HEAD.size, *(chance.randrange(len(data)) for _ in range(count // 4)), len(data) - 1]:
        check(try_load(data[:length]) == REFUSED, f"cut off at {length}")
    check(try_load(data + b"x") == REFUSED, "something follows")
    print(count, refused, len(data))


def versions(seed, _count):
    """Those that this build does not know are refused."""
    file = File()
    apart(lambda: live(seed, file))
    data = file.read()
    for version in (0, VERSION + 1, 1 << 31):
        head = list(HEAD.unpack_from(data))
        head[1] = version
        check(try_load(HEAD.pack(*head) + data[HEAD.size:]) == REFUSED, f"version {version} was believed")
    print(OLDEST, VERSION)


MODES = {"pass": pass_on, "spoil": spoil, "versions": versions}


def main():
    _survival.begin_kernel()
    MODES[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
