"""Looks for garbage in cycles."""

import gc
import weakref

import pytest

from mproxy.programs.cycles import LEAST, Cycles


class Thing:
    """It holds on to itself."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def cycles():
    made = Cycles()
    gc.collect()
    gc.disable()  # looks are those of the test
    made.begin()
    yield made
    made.end()
    gc.enable()


@pytest.mark.usefixtures("cycles")
def test_what_is_in_use_is_looked_at_once():
    """Goal: with very many objects the next look is at few of them; what has become garbage since is found by it."""
    things = [[] for _ in range(LEAST)]
    gc.collect()
    assert gc.get_freeze_count() >= len(things)
    young = weakref.ref(Thing())
    assert young() is not None
    assert len(gc.get_objects()) < LEAST
    gc.collect()
    assert young() is None


@pytest.mark.usefixtures("cycles")
def test_what_ends_later_is_found_when_there_is_much_new():
    """Goal: nothing is left for good: when as much again was made, everything is looked at."""
    old = Thing()
    gc.collect()
    before = gc.get_freeze_count()
    watch, old = weakref.ref(old), None
    gc.collect()
    assert watch() is not None, "it is not looked at"
    more = [[] for _ in range(2 * max(before, LEAST))]
    gc.collect()
    gc.collect()
    assert watch() is None and len(more) > LEAST
