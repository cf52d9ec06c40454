"""Lists of records against lists of Python's."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.drivers._memory import RecordLists

BOTH = (0, 1)
RECORDS = range(8)


class ListMachine(RuleBasedStateMachine):
    """Any sequence of operations on two lists that have the same records; `model` has what should be in each."""

    def __init__(self):
        super().__init__()
        self.lists = RecordLists()
        self.model = ([], [])

    def places(self, are_taken):
        """(list, record) for every record that is in that list, or that is not."""
        return [(which, number) for which in BOTH for number in RECORDS if (number in self.model[which]) == are_taken]

    @precondition(lambda self: self.places(False))
    @rule(data=st.data())
    def append(self, data):
        which, number = data.draw(st.sampled_from(self.places(False)))
        self.lists.append(which, number)
        self.model[which].append(number)

    @precondition(lambda self: self.places(False))
    @rule(data=st.data())
    def prepend(self, data):
        which, number = data.draw(st.sampled_from(self.places(False)))
        self.lists.prepend(which, number)
        self.model[which].insert(0, number)

    @precondition(lambda self: self.places(True))
    @rule(data=st.data())
    def remove(self, data):
        which, number = data.draw(st.sampled_from(self.places(True)))
        behind = self.model[which][self.model[which].index(number) + 1:]
        assert self.lists.remove(which, number) == (behind[0] if behind else None)
        self.model[which].remove(number)

    @invariant()
    def both_ways_lead_through_the_same_records(self):
        for which in BOTH:
            assert self.lists.walk(which) == (self.model[which], self.model[which][::-1])
            assert self.lists.count(which) == len(self.model[which])


TestAnyOperations = ListMachine.TestCase
TestAnyOperations.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
