"""What all tests share: one seed for everything random, and no deadlines that a slow machine could miss.

    pytest --seed N     repeats a failed run; N is in its header
"""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

from tests.root import why_no_hosts

SEEDS = 2**32
SYSTEM = Path(__file__).parent / "system"

# Files for keys must not be writable by a group, as what users with a group of their own make often is.
os.umask(0o022)

# Where the tools for networks are, which ordinary users do not have on their path.
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"

# A deadline per example fails on a busy machine and says nothing about the code.
hypothesis.settings.register_profile("mproxy", deadline=None, print_blob=True)
hypothesis.settings.register_profile("sanitizer", parent=hypothesis.settings.get_profile("mproxy"), max_examples=15)

# A run on the sanitizers' build: where its programs leave reports, and the Python that brings the sanitizers with it.
REPORTS = [Path(os.environ["MPROXY_REPORTS"])] if "MPROXY_REPORTS" in os.environ else []
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # the name of this process, where several share the tests
if REPORTS and WORKER:  # a place of its own; what does not get our environment (through sshd) uses the common one
    REPORTS.append(REPORTS[0] / WORKER)
    REPORTS[1].mkdir(exist_ok=True)
    REPORTS[1].chmod(0o1777)  # also for programs that gave up root's rights
    os.environ["MPROXY_REPORTS"] = str(REPORTS[1])
if "MPROXY_PYTHON" in os.environ:
    sys.executable = os.environ["MPROXY_PYTHON"]
    multiprocessing.set_executable(sys.executable)

if "ASAN_OPTIONS" in os.environ:
    # Children may be anybody's programs, whose leaks are not ours; this process has read its own options already.
    os.environ["ASAN_OPTIONS"] += ":detect_leaks=0"
hypothesis.settings.load_profile("sanitizer" if "ASAN_OPTIONS" in os.environ else "mproxy")


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="seed of the random schedules (default: another one each run)")
    parser.addoption("--every-point", action="store_true", help="tests/system/test_fault_points.py: all, not some")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes many seconds, and is begun before others")
    # A run in the background of a shell inherits an ignored SIGINT, and so would every program under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.seed is None:
        config.option.seed = random.randrange(SEEDS)  # before the processes that share the tests start: one for all
    if WORKER is None and wants_hosts(config):  # and before they start, as becoming root needs a process of one thread
        why = why_no_hosts()
        if why:
            pytest.exit("the system tests need hosts of their own, with networks and mounts, and cannot have them here:"
                        f" {why}\nAll others: make test TESTS='tests/unit tests/sim tests/meta'", returncode=1)


def pytest_collection_modifyitems(items):
    """Long tests come first: otherwise one process would be left alone with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def wants_hosts(config):
    """Whether system tests are among those asked for."""
    asked = (Path(argument.partition("::")[0]).resolve() for argument in config.args)
    return any(path == SYSTEM or path in SYSTEM.parents or SYSTEM in path.parents for path in asked)


def pytest_report_header(config):
    return f"seed: {config.option.seed} (the same again: --seed {config.option.seed})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    """No sanitizer may have reported anything; checked when everything that the test started has ended."""
    result = yield
    said = []
    for file in (file for place in REPORTS for file in sorted(place.glob("report*"))):
        with contextlib.suppress(FileNotFoundError):  # another process was first, and its test fails
            said.append(file.read_text(errors="replace"))
            file.unlink()
    assert not said, "what the sanitizers say of a program:\n" + "\n".join(said)
    return result


@pytest.fixture(scope="session")
def seed(request):
    """The seed of this run."""
    return request.config.option.seed
