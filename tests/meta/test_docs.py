"""The documentation: links lead somewhere, and the options page has every option and no other."""

import ast
import re
import subprocess
import sys

from mproxy.programs import main
from tests.meta.sources import PACKAGE, ROOT, blank_strings, source_files

PAGES = [ROOT / "README.md", *source_files(".md", under=ROOT / "docs")]
OPERATIONS = ROOT / "docs" / "operations.md"
RELAY = ROOT / "docs" / "relay.md"
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)  # [](here), ![](here), [name]: here
PROGRAMS = [name if name in ("cproxy", "sproxy") else f"mproxy {name}" for name in main.PROGRAMS if name != "relay"]
LOG_PAGES = [OPERATIONS, RELAY, ROOT / "docs" / "transfer.md"]
LEVELS = ("debug", "info", "warning", "error")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def page_name(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """The page without its blocks of code."""
    return FENCED.sub("", path.read_text())


def anchors(path):
    """The anchors that the headings get when the page is rendered for the web."""
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(path)))
    return set(slugs)


def broken(page):
    """The links of `page` that lead nowhere on this disk."""
    for groups in LINK.findall(prose(page)):
        link = "".join(groups)
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            yield f"{page_name(page)}: {link}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{page_name(page)}: {link}: no such heading"


def options_of(program):
    """Every option that `./program --help-all` shows, or `mproxy program --help-all`."""
    program, *word = program.split()
    command = [sys.executable, "-m", "mproxy.programs.main", *word] if word else [ROOT / program]
    done = subprocess.run([*command, "--help-all"], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(OPTION.findall(done.stdout))


def documented(page=OPERATIONS):
    """The options that have a row of their own in a page: they stand in its first cell."""
    rows = (line for line in prose(page).split("\n") if line.startswith("|"))
    return {option for row in rows for option in OPTION.findall(row.split("|")[1])}


def test_the_pages_are_there():
    missing = [name for name in ("README.md", "docs/protocol.md", "docs/architecture.md", "docs/operations.md")
               if not (ROOT / name).exists()]
    assert not missing, f"not written: {', '.join(missing)}"


def test_links_lead_somewhere():
    wrong = [line for page in PAGES for line in broken(page)]
    assert not wrong, "\n".join(wrong)


def test_every_option_has_its_row_and_every_row_its_option():
    shown = {program: options_of(program) for program in PROGRAMS}
    page = documented()
    missing = [f"{program} {option}" for program, options in shown.items() for option in sorted(options - page)]
    assert not missing, f"--help shows, docs/operations.md has no row for: {', '.join(missing)}"
    unknown = page.difference(*shown.values())
    assert not unknown, f"docs/operations.md has rows for, no --help shows: {' '.join(sorted(unknown))}"


def test_the_relay_has_its_own_page():
    shown = options_of("mproxy relay") | options_of("mproxy relay status")
    page = documented(RELAY)
    assert page == shown, f"only in --help or only in docs/relay.md: {' '.join(sorted(page ^ shown))}"


def logged_events():
    """(event, where) of every line that a program can log under a name that stands in its source."""
    for path in source_files(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
                    and node.args and isinstance(node.args[0], ast.Constant)):
                yield node.args[0].value, f"{path.relative_to(ROOT)}:{node.lineno}"


def documented_events():
    """Events with a row of their own in a table of events: those of which the second column is a level."""
    rows = [line.split("|") for page in LOG_PAGES for line in page.read_text().split("\n") if line.startswith("| `")]
    first_cells = [row[1] for row in rows if row[2].strip().split(",")[0] in LEVELS]
    return {event for cell in first_cells for event in re.findall(r"`([a-z-]+)`", cell)}


def test_every_event_has_its_row():
    documented = documented_events()
    missing = [f"{event} ({where})" for event, where in logged_events() if event not in documented]
    assert not missing, f"logged, and in no table of events: {', '.join(missing)}"


def test_every_row_has_its_event():
    source = "".join(path.read_text() for path in source_files(".py"))
    unknown = [event for event in documented_events() if f'"{event}"' not in source]
    assert not unknown, f"in a table of events, and logged by nobody: {', '.join(unknown)}"


NAMED_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
NAMING_CODE = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / f"{name}.md" for name in ("architecture", "datagram"))]
TICKED = re.compile(r"`([^`\n]+)`")
SOURCES = (".py", ".pyx", ".pxd", ".c")
CODE = [*source_files(*SOURCES), *(path for name in ("tests", "fuzz", "benchmarks")
                                   for path in source_files(*SOURCES, under=ROOT / name))]
# Where a path may begin that a page names: `tests/unit`, `transport/_seal`, `udp/_udp_rule.pyx`, `programs/sproxy.py`.
BASES = [ROOT, PACKAGE, PACKAGE / "relay", *(path.parent for path in NAMED_PAGES)]
CLASS = re.compile(r"^(?:cdef )?class (\w+)(?:\(([\w, .]*)\))?:", re.MULTILINE)
NAMED_PAGE = re.compile(r"docs/[\w/-]+\.(?:md|json)")


def ticked(pages):
    """(page, text in backticks), outside of blocks of code."""
    return [(page, text) for page in pages for text in TICKED.findall(prose(page))]


def is_there(name):
    """Whether a path leads somewhere, with the suffix of a source or without."""
    return any((base / f"{name}{suffix}").exists() for base in BASES for suffix in ("", *SOURCES))


def test_files_that_pages_name_are_there():
    beginnings = {path.name for base in BASES for path in base.iterdir() if path.is_dir()} - {"build"}
    wrong = [f"{page_name(page)}: {text}" for page, text in ticked(NAMED_PAGES)
             if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", text) and text.split("/")[0] in beginnings
             and not re.search("[A-Z]{4}", text) and not is_there(text)]  # GROUP stands for several
    names = {path.name for path in CODE} | {path.name for path in ROOT.iterdir()}
    wrong += [f"{page_name(page)}: {text}" for page, text in ticked(NAMED_PAGES)
              if text.endswith(SOURCES) and re.fullmatch(r"\w+\.\w+", text) and text not in names]
    assert not wrong, "named by a page, and not in the tree:\n" + "\n".join(wrong)


def classes():
    """{class: (its base classes, the text of its module)}; of a Cython class both of its files."""
    found = {}
    for path in source_files(".py", ".pyx"):
        text = "".join(part.read_text() for part in (path, path.with_suffix(".pxd")) if part.exists())
        for name, bases in CLASS.findall(text):
            found[name] = (re.findall(r"\w+", bases) or found.get(name, ((), ""))[0], text)
    return found


def test_methods_that_pages_name_are_there():
    known = classes()

    def has(owner, name):
        bases, text = known.get(owner, ((), ""))
        return re.search(rf"\b{name}\b", blank_strings(text)) or any(has(base, name) for base in bases)

    named = [(page, *match.groups()) for page, text in ticked(NAMED_PAGES)
             if (match := re.fullmatch(r"([A-Z]\w+)\.(\w+)", text)) and match[1] in known]
    assert len(named) > 20, "the pages name methods as Class.method"
    wrong = [f"{page_name(page)}: {owner}.{name}" for page, owner, name in named if not has(owner, name)]
    assert not wrong, "named by a page, and no such method or field:\n" + "\n".join(wrong)


def test_names_that_pages_take_from_the_code_are_there():
    words = {word for path in CODE for word in re.findall(r"\w+", blank_strings(path.read_text()))}
    wrong = [f"{page_name(page)}: {text}" for page, text in ticked(NAMING_CODE)
             if re.fullmatch(r"\w+_\w+", text) and text not in words]
    assert not wrong, "named by a page, and nowhere in the code:\n" + "\n".join(wrong)


def test_pages_that_the_code_names_are_there():
    wrong = [f"{path.relative_to(ROOT)}: {name}" for path in CODE if path.suffix != ".c"
             for name in NAMED_PAGE.findall(path.read_text()) if not (ROOT / name).exists()]
    assert not wrong, "no such page:\n" + "\n".join(wrong)
