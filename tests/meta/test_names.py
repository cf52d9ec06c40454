"""One word, one meaning: no two public classes of the package have one name, and no two modules; the glossary in
docs/architecture.md says what words mean.

`cdef class`, `cdef struct`, unions and enums count as classes, too. Modules are compared without the underscore that
says "Cython", so that `pool` can mean only one of them.
"""

import re
from collections import defaultdict

from tests.meta.sources import ROOT, blank_strings, module_name, source_files

CLASS = re.compile(r"^(?:@[\w.]+\n)*(?:cdef (?:packed )?(?:class|struct|union|enum)|class|cpdef enum) ([A-Za-z]\w*)\b",
                   re.MULTILINE)


def classes():
    """{name: modules that define it}, each module once."""
    found = defaultdict(set)
    for path in source_files(".py", ".pyx", ".pxd"):
        text = blank_strings(path.read_text())
        for match in CLASS.finditer(text):
            found[match[1]].add(module_name(path))
    return found


def modules():
    """{name without underscore: modules}; packages are rooms, which have a table of their own."""
    found = defaultdict(set)
    for path in source_files(".py", ".pyx", ".pxd"):
        if path.stem not in ("__init__", "__main__"):
            found[path.stem.lstrip("_")].add(module_name(path))
    return found


def taken_twice(found):
    return {name for name, where in found.items() if len(where) > 1}


def say(found, names):
    return "\n".join(f"{name}: {', '.join(sorted(found[name]))}" for name in sorted(names))


def test_classes_have_names_of_their_own():
    found = classes()
    assert not taken_twice(found), "one name, several classes:\n" + say(found, taken_twice(found))


def test_modules_have_names_of_their_own():
    found = modules()
    assert not taken_twice(found), "one name, several modules:\n" + say(found, taken_twice(found))


def test_the_glossary_names_what_there_is():
    """The last column of each row names classes or functions that exist."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (.+) \|$", page.partition("## Words")[2].partition("\n## ")[0],
                      re.MULTILINE)[2:]
    text = "\n".join(path.read_text() for path in source_files(".py", ".pyx", ".pxd"))
    defined = set(re.findall(r"^(?:def|cdef [\w* ]*?\*?)(?: |(?<=\*))(\w+)\(", text, re.MULTILINE)) | classes().keys()
    missing = [f"{word}: {name}" for word, names in rows for name in re.findall(r"`(\w+)`", names)
               if name not in defined]
    assert len(rows) > 30 and not missing, "the glossary names what is not there: " + ", ".join(missing)
    words = [word for row in rows for word in row[0].split(", ")]
    assert len(words) == len(set(words)), "a word is explained twice"
