"""What all tests share: one seed for everything random, and patience on a slow machine.

    pytest --seed N     what a failed run printed in its header, to have the same run again
"""

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

SEEDS = 2**32

# A deadline per example fails on a busy machine and says nothing about the code.
hypothesis.settings.register_profile("mproxy", deadline=None, print_blob=True)
hypothesis.settings.register_profile("sanitizer", parent=hypothesis.settings.get_profile("mproxy"), max_examples=15)

# A run on the sanitizers' build: where its programs leave reports, and the Python that brings the sanitizers with it.
REPORTS = os.environ.get("MPROXY_REPORTS")
if "MPROXY_PYTHON" in os.environ:
    sys.executable = os.environ["MPROXY_PYTHON"]
    multiprocessing.set_executable(sys.executable)

if "ASAN_OPTIONS" in os.environ:
    # Children may be anybody's programs, whose leaks are not ours; this process has read its own options already.
    os.environ["ASAN_OPTIONS"] += ":detect_leaks=0"
hypothesis.settings.load_profile("sanitizer" if "ASAN_OPTIONS" in os.environ else "mproxy")


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="seed of the random schedules (default: another one each run)")


def pytest_configure(config):
    # A run in the background of a shell inherits an ignored SIGINT, and so would every program under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.seed is None:
        config.option.seed = random.randrange(SEEDS)


def pytest_report_header(config):
    return f"seed: {config.option.seed} (the same again: --seed {config.option.seed})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    """After everything that a test has started has ended: no sanitizer may have said anything about it."""
    result = yield
    if REPORTS:
        files = sorted(Path(REPORTS).iterdir())
        said = "\n".join(file.read_text(errors="replace") for file in files)
        for file in files:
            file.unlink()
        assert not said, f"what the sanitizers say of a program:\n{said}"
    return result


@pytest.fixture(scope="session")
def seed(request):
    """The seed of this run."""
    return request.config.option.seed
