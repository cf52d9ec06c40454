"""Man pages and completions, as .ci/write-pages makes them: every program, every option, and shells take them."""

import re
import shutil
import subprocess
import sys

import pytest

from mproxy.programs import main
from tests.meta.sources import ROOT

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    place = tmp_path_factory.mktemp("pages")
    subprocess.run([sys.executable, ROOT / ".ci" / "write-pages", place], check=True, capture_output=True, timeout=60)
    return place / "share"


def help_of(name):
    done = subprocess.run([sys.executable, "-m", "mproxy.programs.main", name, "--help-all"], capture_output=True,
                          text=True, timeout=30, cwd=ROOT, check=True)
    return set(OPTION.findall(done.stdout))


def plain(page):
    """The page's text without changes of font."""
    return re.sub(r"\\f[BIR]", "", page.read_text().replace("\\-", "-"))


@pytest.mark.parametrize("name", main.PROGRAMS)
def test_every_option_is_on_its_page(pages, name):
    title = name if name in ("cproxy", "sproxy") else f"mproxy-{name}"
    assert help_of(name) <= set(OPTION.findall(plain(pages / "man" / "man1" / f"{title}.1")))
    assert f"{title}(1)" in plain(pages / "man" / "man1" / "mproxy.1")


def test_man_pages_are_well_formed(pages):
    if not shutil.which("groff"):
        pytest.skip("needs groff")
    for page in (pages / "man" / "man1").iterdir():
        command = ["groff", "-man", "-Tutf8", "-ww", "-z", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, ""), page.name


@pytest.mark.parametrize(("line", "found"), [
    ("cproxy --stat", "--state-dir"), ("mproxy relay --work", "--workers"), ("mproxy sta", "status"),
    ("/usr/bin/sproxy --allow-l", "--allow-listen")])
def test_bash_completes(pages, line, found):
    words = line.split()
    script = (f"source {pages}/bash-completion/completions/{words[0].rpartition('/')[2]}\n"
              f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _mproxy_complete; echo \"${{COMPREPLY[@]}}\"")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == (f"{found}\n", "")


@pytest.mark.parametrize(("shell", "file"), [
    ("zsh", "zsh/site-functions/_mproxy"), ("fish", "fish/vendor_completions.d/mproxy.fish")])
def test_other_shells_can_read_theirs(pages, shell, file):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    done = subprocess.run([shell, "-n", pages / file], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
