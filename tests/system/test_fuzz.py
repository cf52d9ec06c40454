"""Half a minute of fuzzing with sanitizers, guided by coverage: enough to notice what a change has broken."""

import re
import subprocess

import pytest
from proxies import ROOT

TARGETS = sorted(path.name for path in (ROOT / "fuzz" / "corpus").iterdir())
SECONDS_EACH = 30 // len(TARGETS)


def test_every_target_has_a_corpus_and_says_what_must_hold():
    modules = {path.stem for path in (ROOT / "fuzz").glob("[!_]*.py")} - {"sessions"}
    assert modules == set(TARGETS)
    for name in modules:
        assert (ROOT / "fuzz" / f"{name}.py").read_text().startswith("# Invariant: ")


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_target(target):
    """Goal: nothing is found in a few seconds; the fuzzer really ran, and saw the coverage of its inputs."""
    done = subprocess.run([ROOT / ".ci" / "asan", "fuzz", str(SECONDS_EACH), target], timeout=1500, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout
    covered, executed = re.search(r"cov: (\d+)", done.stdout), re.search(r"executed_units: (\d+)", done.stdout)
    assert int(covered[1]) > 50 and int(executed[1]) > 50, done.stdout
