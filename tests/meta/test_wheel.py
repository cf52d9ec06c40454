"""A wheel contains the package, and nothing that only tests use."""

import fnmatch
import os
import re
import runpy
import sysconfig
import tomllib
from pathlib import Path

import pytest
import setuptools

from tests.meta.sources import PACKAGE, ROOT, blank_strings, source_files

TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
DEFINED = re.compile(r"^ *(?:cp?def +)?(?:class|def|cpdef) +(?:[\w ]+ )?(?P<name>[A-Za-z]\w*) *[(:]", re.MULTILINE)
# Seen by Python though no Python of the package asks for it.
SHOWN = {
    "transport/_packet.pyx: checksum": "two ways to compute it, which are C of that module, are compared",
}


def extension_modules(monkeypatch):
    """What setup.py would build, without building it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MPROXY_MODULES", raising=False)
    monkeypatch.setattr("Cython.Build.cythonize", lambda extensions, **_options: extensions)
    told = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: told.update(keywords))
    runpy.run_path("setup.py")
    sources = {path for extension in told["ext_modules"] for pattern in extension.sources
               for path in Path().glob(pattern)}
    return [".".join(path.with_suffix("").parts) for path in sources]


@pytest.fixture
def wheel(monkeypatch):
    """Names of all files of a wheel but those about it."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    files = {name.replace(".", "/") + suffix for name in extension_modules(monkeypatch)}
    for package in setuptools.find_packages(ROOT, include=TOOLS["packages"]["find"]["include"]):
        place = ROOT / package.replace(".", "/")
        patterns = ["*.py", *TOOLS["package-data"]["*"]]
        files |= {path.relative_to(ROOT).as_posix() for path in place.iterdir() if path.is_file()
                  and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)}
        files |= {path.relative_to(ROOT).as_posix() for pattern in TOOLS["package-data"].get(package, ())
                  for path in place.glob(pattern)}
    return files


def test_holds_the_whole_package_and_nothing_else(wheel):
    assert {Path(name).parts[0] for name in wheel} == {"mproxy"}
    sources = {path.relative_to(ROOT).as_posix() for path in source_files(".py", ".pyx", ".pxd", ".pyi")}
    assert sources <= wheel
    modules = {name.split(".")[0] for name in wheel if name.endswith(".so")}
    assert modules == {name.removesuffix(".pyx") for name in sources if name.endswith(".pyx")}


def test_holds_the_page(wheel):
    page = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / "web" / "page").iterdir()}
    assert page and page <= wheel


def test_holds_no_drivers(wheel):
    drivers = {path.name.split(".")[0] for path in (ROOT / "tests" / "drivers").glob("*.pyx")}
    assert drivers, "where are they?"
    assert not {name for name in wheel if os.path.basename(name).split(".")[0] in drivers}


def test_is_shown_to_python_for_a_reason():
    """Whatever a Cython module shows to Python is used by the package; what only tests use is in tests/drivers."""
    texts = {path: blank_strings(path.read_text()) for path in source_files(".py", ".pyx")}
    idle = set()
    for path in source_files(".pyx"):
        for found in DEFINED.finditer(texts[path]):
            name = found["name"]
            # An option of that name (--checksum) is not a use of it.
            uses = sum(len(re.findall(rf"(?<!--)\b{name}\b", text)) for text in texts.values())
            if uses < 2 and not re.search(rf"\b{name}\b", "".join(
                    blank_strings(page.read_text()) for page in source_files(".pxd"))):
                idle.add(f"{path.relative_to(PACKAGE)}: {name}")
    assert idle == set(SHOWN)
