"""A command of --via that is started before who needs it is there."""

import os

import pytest

from mproxy.policy import via_start
from tests.unit.descriptors import open_descriptors

COMMAND = "echo early; echo errors >&2; cat"


def said(child):
    child.sock.setblocking(True)
    child.sock.settimeout(30)
    return child.sock.recv(100)


def end(child):
    child.sock.close()
    os.set_blocking(child.errors, True)
    assert os.read(child.errors, 100) == b"errors\n"
    os.close(child.errors)
    assert os.waitpid(child.pid, 0)[1] == 0


def test_it_is_taken_once_and_by_who_asks_for_it():
    via_start.start_early(COMMAND, False)
    other = via_start.start("echo other; echo errors >&2", False)
    assert said(other) == b"other\n"
    end(other)
    first, second = via_start.start(COMMAND, False), via_start.start(COMMAND, False)
    assert first.pid != second.pid and not via_start._early
    for child in (first, second):
        assert said(child) == b"early\n"
        end(child)


def test_who_is_not_asked_for_ends():
    """Goal: without its input; nothing of it stays open here."""
    before = open_descriptors()
    via_start.start_early("exec cat", False)
    (child,) = via_start._early.values()
    via_start.forget_early()
    assert os.waitpid(child.pid, 0)[1] == 0
    assert open_descriptors() == before
    via_start.forget_early()


def test_what_cannot_be_started_is_said_when_it_is_needed(monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(12, "no memory")
    monkeypatch.setattr(os, "posix_spawn", refuse)
    before = open_descriptors()
    via_start.start_early(COMMAND, False)
    with pytest.raises(OSError, match="no memory"):
        via_start.start(COMMAND, False)
    assert open_descriptors() == before


def test_a_directory_that_was_left_is_where_commands_begin(tmp_path, monkeypatch):
    """Goal: nothing keeps it from being unmounted; ssh's options may name files in it; it may be gone."""
    place = tmp_path / "it's here"
    place.mkdir()
    monkeypatch.setattr(via_start, "_directory", None)
    monkeypatch.chdir(place)
    for _ in range(2):
        via_start.leave_directory()
    assert os.getcwd() == "/"
    for where in (str(place), "/"):
        child = via_start.start("pwd; echo errors >&2", False)
        assert said(child).decode() == f"{where}\n"
        end(child)
        if place.exists():
            place.rmdir()
