"""A wheel contains the package, and nothing that only tests use."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import mproxy
from tests.meta.sources import PACKAGE, ROOT, blank_strings, source_files
from tests.meta.test_binaries import is_debug_build

PACK = Path(__file__).parent / "pack_wheel.py"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
QUICK_START = "mproxy/programs/quick-start"
DEFINED = re.compile(r"^ *(?:cp?def +)?(?:class|def|cpdef) +(?:[\w ]+ )?(?P<name>[A-Za-z]\w*) *[(:]", re.MULTILINE)
NAME = re.compile(r"(?<!--)\b[A-Za-z]\w*")  # an option of that name (--checksum) is not a use of it
# Seen by Python though no Python of the package asks for it.
SHOWN = {
    "transport/_packet.pyx: checksum": "two ways to compute it, which are C of that module, are compared",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The whole wheel, of the modules that are built."""
    place = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, PACK, place], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = place.glob("mproxy-*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture
def files(wheel):
    """Names of all its files but those about it."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def about(wheel, name):
    """The text of a file about it."""
    (found,) = (each for each in wheel.namelist() if each.endswith(f".dist-info/{name}"))
    return wheel.read(found).decode()


def test_holds_the_whole_package_and_nothing_else(files):
    sources = {path.relative_to(ROOT).as_posix() for path in source_files(".py", ".pyx", ".pxd", ".pyi")}
    modules = {name.removesuffix(".pyx") + SUFFIX for name in sources if name.endswith(".pyx")}
    page = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / "web" / "page").iterdir()}
    assert page, "where is it?"
    assert files == sources | modules | page | {"mproxy/py.typed", QUICK_START}


def test_holds_no_drivers(files):
    drivers = {path.name.split(".")[0] for path in (ROOT / "tests" / "drivers").glob("*.pyx")}
    assert drivers, "where are they?"
    assert not {name for name in files if os.path.basename(name).split(".")[0] in drivers}


def test_debug_information_is_apart(wheel, files, tmp_path):
    """Nine tenths of a module's size."""
    modules = [wheel.extract(name, tmp_path) for name in sorted(files) if name.endswith(SUFFIX) or name == QUICK_START]
    shown = subprocess.run(["readelf", "--wide", "--section-headers", *modules], capture_output=True, text=True,
                           check=True).stdout
    assert shown.count(".dynsym") == len(modules)
    if is_debug_build(PACKAGE / f"_ring{SUFFIX}"):
        pytest.skip("a build for finding bugs")
    assert ".debug_info" not in shown and ".symtab" not in shown


def test_the_quick_start_can_be_executed(wheel):
    assert wheel.getinfo(QUICK_START).external_attr >> 16 & 0o111 == 0o111  # by all; who may write is the umask's


def test_says_what_it_is(wheel):
    commands = {line.split(" = ")[0] for line in about(wheel, "entry_points.txt").splitlines() if " = " in line}
    assert commands == {"cproxy", "sproxy", "mproxy"}
    metadata = about(wheel, "METADATA")
    assert re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE) == ["cryptography>=41"]
    assert f"\nVersion: {mproxy.__version__}\n" in metadata
    assert about(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_is_shown_to_python_for_a_reason():
    """Whatever a Cython module shows to Python is used by the package; what only tests use is in tests/drivers."""
    texts = {path: blank_strings(path.read_text()) for path in source_files(".py", ".pyx", ".pxd")}
    uses, declared = Counter(), set()
    for path, text in texts.items():
        if path.suffix == ".pxd":
            declared.update(NAME.findall(text))
        else:
            uses.update(NAME.findall(text))
    idle = {f"{path.relative_to(PACKAGE)}: {found['name']}" for path in source_files(".pyx")
            for found in DEFINED.finditer(texts[path]) if uses[found["name"]] < 2 and found["name"] not in declared}
    assert idle == set(SHOWN)
