"""The source tree as the meta tests see it: files, the modules they are, and what these import."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mproxy"

STRING = re.compile(r'(?P<quotes>"""|\'\'\').*?(?P=quotes)', re.DOTALL)
COMMENT = re.compile(r"#.*")
FROM = re.compile(r"^[ \t]*from[ \t]+(\S+)[ \t]+c?import[ \t]+(\([^)]*\)|.*)$", re.MULTILINE)
IMPORT = re.compile(r"^[ \t]*c?import[ \t]+(.*)$", re.MULTILINE)
EXTERN = re.compile(r"""cdef\s+extern\s+from\s+["']([^"']*)["']|^\s*#\s*include\s*[<"]([^>"]*)[>"]""", re.MULTILINE)


@dataclass(frozen=True)
class Import:
    """One imported module, or name of a module: `from a import b` gives a.b."""

    name: str
    path: Path  # of the importing file
    line: int

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name}"


def source_files(*suffixes, under=PACKAGE):
    """Files below `under` with one of `suffixes`, except those that tools put there."""
    found = (path for suffix in suffixes for path in under.rglob(f"*{suffix}"))
    return sorted(
        path for path in found if not any(part[0] == "." or part == "build" for part in path.relative_to(under).parts))


def module_name(path):
    """mproxy/io/_loop.pyx is mproxy.io._loop; a package's __init__ is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every Import of a Python or Cython file, wherever it is in the file."""
    return _python_imports(path) if path.suffix in (".py", ".pyi") else _cython_imports(path)


def externs(path):
    """C headers of a Cython file: `cdef extern from`, and #include in verbatim C."""
    return [(match[1] or match[2]).strip("<>") for match in EXTERN.finditer(path.read_text())]


def blank_strings(text):
    """`text` without its triple-quoted strings and its comments; every line keeps its number."""
    text = STRING.sub(lambda match: "\n" * match[0].count("\n"), text)
    return COMMENT.sub("", text)


def _python_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = f"{node.module}." if node.module else ""
                yield Import("." * node.level + module + alias.name, path, node.lineno)


def _cython_imports(path):
    text = blank_strings(path.read_text())
    for match in FROM.finditer(text):
        for name in _names(match[2]):
            yield Import(f"{match[1]}.{name}", path, _line(text, match))
    for match in IMPORT.finditer(text):
        for name in _names(match[1]):
            yield Import(name, path, _line(text, match))


def _names(words):
    """The imported names of `a, b as c` or `(a, b)`."""
    return [part.split()[0] for part in words.strip("()").replace("\n", " ").split(",") if part.strip()]


def _line(text, match):
    return text.count("\n", 0, match.start() + len(match[0]) - len(match[0].lstrip())) + 1
