"""A dump of sessions, which another build of the program goes on with. See dumping.py."""

import re
import subprocess
import sys

from tests.meta.sources import PACKAGE, ROOT

# Of a record, but not of a dump: where it lies, or that is written otherwise.
OWN = {"out", "inp", "targets", "fd", "session", "number", "deaths"}


def dumping(*arguments):
    """Run the program of that name; its last line, as numbers."""
    done = subprocess.run([sys.executable, "-m", "tests.unit.dumping", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(word) for word in done.stdout.split()]


def test_sessions_go_through_many_programs(seed):
    """Every byte arrives once, though each program begins with what the one before has dumped, in either version."""
    programs, largest, steps = dumping("pass", sum(seed.encode()) if isinstance(seed, str) else seed, 40)
    assert programs == 40 and largest > 10_000 and steps > 10_000


def test_a_damaged_dump_is_refused():
    """Unless the damage is where bytes of applications are, of which nobody can tell."""
    tried, refused, _length = dumping("spoil", 1, 600)
    assert tried == 600 and refused > 130


def test_unknown_versions_are_refused():
    assert dumping("versions", 1, 0) == [1, 2]


def fields(file, struct):
    """The names in a struct of a .pxd file."""
    code = (PACKAGE / file).read_text()
    text = re.search(rf"^cdef (?:packed )?struct {struct}:\n(.*?)\n(?:\n\n|\Z)", code, re.S | re.M)[1]
    return set(re.findall(r"^    \w+ (\w+)", text, re.M))


def test_a_dump_has_every_number_of_a_record():
    """Each new one has to be written and read."""
    code = (PACKAGE / "_dump.pyx").read_text()
    for record, image in (("SessionState", "SessionImage"), ("StreamState", "StreamImage")):
        names = fields("_state.pxd", record) - OWN
        assert len(names) > 9 and names <= fields("_dump.pxd", image)
        for name in names:
            assert f"image.{name}" in code and f"state.{name}" in code, name
