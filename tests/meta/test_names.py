"""One word, one meaning: no two public classes of the package have one name, and no two modules.

A class here is what has a name of its own and is more than a function: `class`, `cdef class`, `cdef struct`, union or
enum. Modules are compared without the underscore that says "Cython": whoever reads `pool` must not ask which.
"""

import re
from collections import defaultdict

from tests.meta.sources import blank_strings, module_name, source_files

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
    """{name without underscore: modules}; packages are rooms, which stand in a table of their own."""
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
