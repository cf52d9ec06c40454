"""Each Cython module has a .pxd with a comment for every field, and a stub that matches the built extension."""

import re
import subprocess
import sys

import pytest

from tests.meta.sources import PACKAGE, ROOT, imports, module_name, source_files

MODULES = source_files(".pyx")
NAMES = {module_name(path) for path in MODULES}
BLOCK = re.compile(r"(?P<indent> *)(?:cdef |cpdef |ctypedef )?(?:packed )?(?P<kind>class|struct|union)\b.*:\s*(#.*)?")
METHOD = re.compile(r"[^#]*\w\(|\s*@|\s*pass\b")

# What Cython adds to a module of its own accord.
STUBTEST_IGNORES = r"""
.*\.__pyx_\w+__
.*\.__(reduce|setstate)_cython__
.*\.__test__
"""


def fields(path):
    """(line number, line) of every data field of the classes and structs in a .pxd that this project defines."""
    inside = None
    extern = None  # indentation of a `cdef extern` block: its structs are described elsewhere
    depth = 0      # of parentheses: a declaration goes on
    for number, line in enumerate(path.read_text().split("\n"), 1):
        indent = len(line) - len(line.lstrip())
        goes_on, code = depth > 0, line.partition("#")[0]
        depth += code.count("(") - code.count(")")
        if goes_on or not code.strip():
            continue
        if extern is not None and indent > extern:
            continue
        extern = indent if line.lstrip().startswith("cdef extern") else None
        if inside is not None and indent <= inside:
            inside = None
        if block := BLOCK.fullmatch(line):
            inside = len(block["indent"])
        elif inside is not None and not METHOD.match(line):
            yield number, line


def imported_extensions(*suffixes):
    """Extensions that files of these kinds import."""
    for path in source_files(*suffixes):
        for found in imports(path):
            yield from {found.name, found.name.rpartition(".")[0]} & NAMES


def test_every_field_has_a_line():
    declarations = [path.with_suffix(".pxd") for path in MODULES]
    missing = [path.name for path in declarations if not path.exists()]
    assert not missing, f"they say what a module holds, and are missing: {', '.join(missing)}"
    bare = [f"{path.name}:{number}: {line.strip()}" for path in declarations for number, line in fields(path)
            if "#" not in line]
    assert not bare, "fields without a comment (why, invariant, or unit):\n" + "\n".join(bare)


def test_extensions_that_python_imports_have_stubs_and_no_others():
    """Stubs import from stubs, too."""
    needed = set(imported_extensions(".py", ".pyi"))
    assert {module_name(path) for path in source_files(".pyi")} == needed


def test_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.long
def test_stubs_tell_the_truth(tmp_path):
    """Names, signatures and kinds of the stubs are those of the built extensions; what Python does not use they may
    leave out."""
    stubs = [module_name(path) for path in source_files(".pyi")]
    assert stubs, "there is no stub at all"
    ignores = tmp_path / "ignores"
    ignores.write_text(STUBTEST_IGNORES)
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases", "--ignore-missing-stub",
         "--ignore-unused-allowlist", "--allowlist", ignores, "--mypy-config-file", ROOT / "pyproject.toml", *stubs],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
