"""A heap of deadlines beside a dictionary that says the same."""

import random

import pytest
from tests.drivers._pydeadlines import PyDeadlines


@pytest.mark.parametrize("number", range(20))
def test_as_a_dictionary(number):
    chance = random.Random(number)
    heap, model = PyDeadlines(), {}
    for _step in range(2000):
        record = chance.randrange(64)
        if chance.random() < 0.3:
            heap.remove(record)
            model.pop(record, None)
        else:
            at = chance.randrange(-5, 50)
            heap.set(record, at)
            model[record] = at
        assert len(heap) == len(model)
        if model:
            at, first = heap.first()
            assert at == min(model.values()) == model[first]
        else:
            assert heap.first() is None


def test_they_come_in_order():
    heap = PyDeadlines()
    for record in range(64):
        heap.set(record, record * 37 % 64)
    found = []
    while len(heap):
        at, record = heap.first()
        found.append(at)
        heap.remove(record)
    assert found == list(range(64))
