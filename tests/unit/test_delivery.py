"""When a sender gives up: in virtual time, with a receiver that is only made up."""

from types import SimpleNamespace

import pytest

from mproxy.programs.delivery import LOOK_US, Delivery, DeliveryObserver
from mproxy.transfer.messages import FileKind, Outcome, Result
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.source_queue import SourceQueue
from mproxy.transport._packet import EndCode
from tests.unit.dial_parts import SECOND_US, FakeLoop


class Observer(DeliveryObserver):
    def __init__(self):
        self.finished = None

    def on_trouble(self, event, **fields):
        """Nothing to do."""

    def on_finished(self, error, code):
        self.finished = error, code


@pytest.fixture
def delivery(monkeypatch):
    """One that has just heard from the receiver that it has gone, and would wait 3 s for another."""
    monkeypatch.setattr(Delivery, "_dial", lambda self, addresses: None)
    monkeypatch.setattr(Delivery, "_dial_anew", lambda self: None)
    observer = Observer()
    delivery = Delivery(FakeLoop(), None, "receiver", 1, list, lambda: None, observer, 3 * SECOND_US,
                        SimpleNamespace(codings=0))
    delivery.start(SourceQueue([SourceFile(b"f", FileKind.FILE, "f")]), [], None)
    link = SimpleNamespace(heard_us=delivery._loop.now(), statistics={"packets_in": 1}, peer=("receiver", 1))
    delivery._sender = SimpleNamespace(link=link, sent_bytes=0, kept_bytes=0, saved_bytes=0, done_bytes=0,
                                       takes_attributes=False, takes_codings=0, first=None, unsettled=[])
    delivery.on_over(delivery._sender, "not heard for too long", EndCode.IDLE, False)
    return delivery


def test_a_receiver_that_has_gone_is_waited_for(delivery):
    delivery._loop.run(2.9)
    assert delivery._observer.finished is None
    delivery._loop.run(0.5)
    assert delivery._observer.finished == ("not heard for too long", EndCode.IDLE)


def test_the_time_in_which_it_was_stopped_does_not_count(delivery):
    """Goal: a sender that was stopped after it had taken note of the time, and before it noted what the receiver said,
    does not believe that it has waited in vain since then."""
    delivery._loop.time += 4 * SECOND_US
    delivery._look()
    assert delivery._observer.finished is None
    delivery._loop.time += LOOK_US
    delivery._look()
    assert delivery._observer.finished is None


def test_what_is_sent_again_over_another_connection():
    """Goal: the first source, the directories, and what has no outcome, in this order; what arrived is told once, and
    its bytes count once."""
    told = []
    observer = Observer()
    observer.on_file = lambda source: told.append(source.name)
    sources = SourceQueue([SourceFile(b"first", FileKind.FILE, "f"), SourceFile(b"d", FileKind.DIRECTORY, "d"),
                       *(SourceFile(b"d/%d" % number, FileKind.FILE, "f") for number in range(4))])
    delivery = Delivery(FakeLoop(), None, "receiver", 1, list, lambda: None, observer, 3 * SECOND_US,
                        SimpleNamespace(codings=0))
    delivery._sources = sources

    def connection(count, arrived):
        """One that takes so many; returns what the next one gets first."""
        taken = [sources.take(False) for _ in range(count)]
        unsettled = [source for source in taken if source.name not in arrived]
        sender = SimpleNamespace(link=SimpleNamespace(heard_us=0, statistics={}), first=taken[0], unsettled=unsettled,
                                 sent_bytes=0, kept_bytes=0, saved_bytes=0, done_bytes=0, takes_attributes=True,
                                 takes_codings=0)
        for source in taken:
            if source.name in arrived:
                source.size, source.outcome = 10, Outcome(0, Result.DONE, bytes(32), "")
                delivery.on_file(sender, source)
        delivery._drop(sender)
        again = delivery._take_again()
        assert all(source.outcome is None for source in again)
        sources.put_back(again)
        return [source.name for source in again]

    assert connection(4, {b"d", b"d/0"}) == [b"first", b"d", b"d/1"]
    assert delivery.done_bytes == 10, "the directory is announced again"
    assert connection(4, {b"first", b"d", b"d/2"}) == [b"first", b"d", b"d/1"]
    assert delivery.done_bytes == 20
    assert connection(4, {b"first", b"d", b"d/1", b"d/3"}) == [b"first", b"d"]
    assert told == [b"d", b"d/0", b"first", b"d/2", b"d/1", b"d/3"]
    assert delivery.done_bytes == 40
