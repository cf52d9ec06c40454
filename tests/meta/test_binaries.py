"""The built extension modules are hardened, however the Python that built them was itself compiled."""

import os
import platform
import re
import subprocess

import pytest

from tests.meta.sources import PACKAGE

MODULES = sorted(PACKAGE.rglob("*.so"))
# Without optimisation nothing is fortified, and a sanitizer's build is for finding bugs.
SANITIZED = "MPROXY_REPORTS" in os.environ

ENDBR64 = b"\xf3\x0f\x1e\xfa"


def readelf(option, module):
    done = subprocess.run(["readelf", "--wide", option, module], capture_output=True, text=True, check=True)
    return done.stdout


def is_debug_build(module):
    return ".debug_info" in readelf("--section-headers", module)


def of_release():
    """The modules, if this is a release build."""
    if SANITIZED or is_debug_build(MODULES[0]):
        pytest.skip("a build for finding bugs")
    return MODULES


def imported(module):
    """Functions of other libraries that a module calls."""
    return set(re.findall(r" UND (\w+)", readelf("--dyn-syms", module)))


def test_there_is_one_for_each_source():
    built = {path.name.split(".")[0] for path in MODULES}
    assert built >= {path.stem for path in PACKAGE.rglob("*.pyx")}


def test_hardened():
    """Goal: stack canaries, read-only relocations, and a stack that is not executable."""
    for module in MODULES:
        segments = readelf("--program-headers", module)
        assert "GNU_RELRO" in segments, module.name
        assert re.search(r"GNU_STACK(\s+0x\w+)+\s+RW\s", segments), module.name
        assert re.search(r"BIND_NOW|FLAGS_1.*\bNOW\b", readelf("--dynamic", module)), module.name
        assert "__stack_chk_fail" in imported(module), module.name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CET is of x86")
def test_jumps_land_where_they_may():
    """Goal: functions begin with ENDBR64. Whether that is enforced depends on the C library and the system."""
    lacking = [module.name for module in MODULES if ENDBR64 not in module.read_bytes()]
    assert not lacking


def test_memory_functions_are_fortified():
    """Goal: _FORTIFY_SOURCE is active. Most calls have sizes known at compile time, so it shows in few modules."""
    assert any(name.endswith("_chk") for module in of_release() for name in imported(module) - {"__stack_chk_fail"})


def test_debug_information_is_apart():
    for module in of_release():
        sections = readelf("--section-headers", module)
        assert ".debug_info" not in sections and ".symtab" not in sections, module.name
        assert ".gnu_debuglink" in sections, module.name
