"""Which process has a connection: asked of the kernel, by questions and, where it answers none, from its tables."""

import contextlib
import os
import socket

import pytest

from mproxy.service import owners
from mproxy.service.owners import find_owners
from tests.unit.test_stream_text import connected

HERE = os.getpid()


def owners_of(wanted):
    (found,) = find_owners([(HERE, wanted)])
    return found


def no_answer(_keys):
    raise OSError


@pytest.fixture(params=["questions", "tables", "nothing"])
def way(request, monkeypatch):
    """How it is asked; nothing: the kernel knows no such questions."""
    if request.param == "tables":
        monkeypatch.setattr(owners, "find_inodes", no_answer)
    elif request.param == "nothing":
        monkeypatch.setattr(owners, "find_inodes", lambda keys: [0] * (len(keys) // 36))
    else:
        monkeypatch.setattr(owners, "_from_tables", lambda *_: {})


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_ours_are_found(way, family):
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(connected(family)) for _ in range(100)]
        wanted = [*found, *(ends[::-1] for ends in found)]
        name = owners.name_of(HERE)
        assert find_owners([(HERE, wanted)]) == [dict.fromkeys(wanted, (HERE, name))]
        assert find_owners([(HERE, wanted)], [HERE, os.getppid()]) == [dict.fromkeys(wanted, (HERE, name))]


def test_an_ipv4_address_of_a_socket_for_ipv6(way):
    with (socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
          socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as one, listener.accept()[0]):
        ours, theirs = one.getsockname(), one.getpeername()
        assert set(owners_of([(ours, theirs), (theirs, ours)])) == {(ours, theirs), (theirs, ours)}


def test_others_are_not(way):
    """Goal: neither who listens there, nor what is no address, nor a connection that is over."""
    with connected(socket.AF_INET) as (ours, theirs):
        for wanted in ((ours, ("127.0.0.1", 1)), (theirs, ("127.0.0.1", 1)), (("a.example", 5), theirs),
                       (("", 5), theirs), (ours, ("127.0.0.1", 70_000)), (ours, ("::1", theirs[1]))):
            assert owners_of([wanted]) == {}
    assert owners_of([]) == {} and find_owners([]) == []


def test_a_process_that_has_gone(way):
    with connected(socket.AF_INET) as ends:
        assert find_owners([(1 << 30, [ends])]) == [{}]


def test_several_are_answered_by_one_look(way, monkeypatch):
    """Goal: each gets its own, and processes, which may have thousands of descriptors, are looked into once for all."""
    looks = []
    find = owners.find_processes
    monkeypatch.setattr(owners, "find_processes", lambda *arguments: looks.append(1) or find(*arguments))
    with connected(socket.AF_INET) as one, connected(socket.AF_INET6) as other:
        first, nothing, second = find_owners([(HERE, [one]), (HERE, []), (HERE, [other, other[::-1]])])
    assert (set(first), nothing, set(second)) == ({one}, {}, {other, other[::-1]}) and len(looks) == 1


def test_descriptors_beyond_the_first_few_hundred(way):
    with contextlib.ExitStack() as stack:
        early = stack.enter_context(connected(socket.AF_INET))
        for _ in range(800):  # whose list is longer than what is read of it in one go
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        late = stack.enter_context(connected(socket.AF_INET))
        assert set(owners_of([late, early, late[::-1]])) == {late, early, late[::-1]}
