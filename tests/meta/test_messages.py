"""What a user reads: every message, help text and log value, in idiomatic English. `python -m tests.meta.test_messages`
prints them all, to be read as a whole."""

import ast
import functools
import re

from tests.meta.sources import ROOT, blank_strings, source_files

# Known patterns of translated English, each beside what a native speaker would write.
FOREIGN = (
    (r"(?<!there )(?:\bis|\bare) no (?!longer\b|such\b)[\w{']", "is not a ..., not a valid ...: what was given"),
    (r"\bexclude each other\b", "cannot be used together"),
    (r"\bone \w+ too many\b", "unexpected argument: ..."),
    (r"\bis missing: expected\b", "missing argument: ..."),
    (r": allowed is\b|\bexpected is\b|\bknown is\b", "out of range (1 to 5), expected ..."),
    (r"\banew\b", "again"),
    (r"\beverybody\b|\bwhoever\b|\bsomebody\b", "anyone, another program"),
    (r"\bmay be repeated\b", "repeatable"),
    (r"\bbehind the\b", "after the, beyond the"),
    (r"\b(?:object|rule|one|line) a (?:line|CPU|file)\b", "one per line"),
    (r"\bon its way\b|\bon their way\b|\bunder way\b", "in flight, being transferred"),
    (r"\bcannot do\b", "does not support"),
    (r"\bas of (?!\d)|\bof ours\b|\bof yours\b", "as for, our"),
    (r"\bthere already\b|\bthat (?:is|are) there\b", "existing, already exists"),
    (r"\bgoes? on\b|\bgoing on\b", "continues"),
    (r"\bformer\b", "previous"),
    (r"\bstands there\b|\bsays? where\b|\bsays? which\b", "is given, give ..., choose ..."),
    (r"\bhas no \w+ left\b|\bleads? to itself\b", "has run out of ..., would relay to itself"),
    (r"\bno place for\b", "nowhere to"),
    (r"\bis over\b", "has ended, has expired"),
    (r"\b(?:an|no) answer of (?!more)", "an answer from ..."),
    (r"\ballows? to\b", "allows ...ing, lets ..."),
    (r"\belse than\b", "other than"),
    (r"\bby chance\b", "at random, random"),
    (r"\bconnection stands\b|\bsession stands\b", "the connection is up, there is a session"),
    (r"\b(?:patterns?|names?|what) (?:that )?fits?\b|\bthings fit\b", "what matches"),
)

# Compared by the other side, which may be older: a change of the protocol, not of a text.
ON_THE_WIRE = {"cproxy started anew"}

# A program for nft, not for people.
NO_MESSAGES = {"mproxy/relay/kernel/nft.py"}

WORDS = re.compile(r"[A-Za-z']+ +[A-Za-z'{(]")

# Of a Cython file, whose docstrings and comments are left out.
CYTHON_TEXT = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


def template(node):
    """The text of a string literal, with {} for what is filled in; None for other nodes."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def docstrings(tree):
    """The ids of nodes that are strings but not values: docstrings, and notes below a field."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def messages(path):
    """[(line, text)] of a Python file: every string of several words, except docstrings and whole programs."""
    tree = ast.parse(path.read_text())
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in ast.walk(node) if part is not node)
    found = []
    for node in ast.walk(tree):
        text = None if id(node) in skipped else template(node)
        if text and WORDS.search(text) and text not in ON_THE_WIRE and not text.startswith("\nset -u\n"):
            found.append((node.lineno, text))
    return sorted(found)


def cython_messages(path):
    """[(line, text)] of a Cython file, the same."""
    lines = blank_strings(path.read_text()).split("\n")
    return [(number, text) for number, line in enumerate(lines, 1) for text in CYTHON_TEXT.findall(line)
            if WORDS.search(text)]


@functools.cache
def all_messages():
    """[(file:line, text)] of the package."""
    names = {str(path.relative_to(ROOT)): path for path in source_files(".py", ".pyx")}
    return [(f"{name}:{line}", text) for name, path in names.items() if name not in NO_MESSAGES
            for line, text in (messages if path.suffix == ".py" else cython_messages)(path)]


def test_messages_are_idiomatic():
    wrong = [f"{place}: {text!r}: rather {rather}"
             for place, text in all_messages() for pattern, rather in FOREIGN if re.search(pattern, text)]
    assert not wrong, "\n".join(wrong)


def test_messages_are_well_formed():
    """One sentence on one line: no doubled or dangling punctuation, no stray spaces, closed brackets."""
    wrong = []
    for place, text in all_messages():
        doubled = re.search(r"([,;!?])\1|[,;] ?[,;:] |\w [,;!?]|[^.]\.\.(?!\.)(?!')|\w  (?=[a-z])", text)
        if "\n" not in text and (doubled or text.count("(") != text.count(")")):
            wrong.append(f"{place}: {text!r}")
    assert not wrong, "\n".join(wrong)


def test_failures_are_quoted_as_programs_say_them():
    """What docs/operations.md quotes from a log is a text of the source."""
    source = "\n".join(text for _place, text in all_messages())
    table = (ROOT / "docs/operations.md").read_text().partition("## Failures")[2].partition("## Monitoring")[0]
    quoted = [text for row in re.findall(r'why="([^"]+)"', table) for text in re.split(r"\.\.\.|: ", row)]
    assert quoted
    missing = [text for text in quoted if len(text.split()) > 3 and text.strip() not in source]
    assert not missing, missing


if __name__ == "__main__":
    for where, message in all_messages():
        print(f"{where}: {message}")
