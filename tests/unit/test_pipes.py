"""The pool of pipes: its limit, pipes that come back with bytes in them, and pipes that are closed."""


from tests.drivers._relay import DrivenPipes

from tests.unit.descriptors import open_descriptors

NOW = 1_000_000


def test_no_more_than_the_bound():
    pool = DrivenPipes(2)
    first, second = pool.borrow(NOW), pool.borrow(NOW)
    assert first and second and first != second
    assert pool.borrow(NOW) is None and pool.refusals == 0
    pool.bring_back(first)
    assert pool.borrow(NOW) == first, "a warm pipe is taken again"
    for pipe in (first, second):
        pool.bring_back(pipe)


def test_a_pipe_with_bytes_in_it_is_never_lent_again():
    before = open_descriptors()
    pool = DrivenPipes(2)
    pool.bring_back(pool.borrow(NOW), 1)
    assert (pool.open, pool.kept, open_descriptors()) == (0, 0, before)


def test_what_was_not_needed_since_the_last_trim_is_closed():
    before = open_descriptors()
    pool = DrivenPipes(4)
    for pipe in [pool.borrow(NOW) for _ in range(4)]:
        pool.bring_back(pipe)
    pool.trim_unused()
    assert pool.open == 4, "all were in use since the pool was made"
    pool.bring_back(pool.borrow(NOW))
    pool.trim_unused()
    assert pool.open == 1
    pool.trim_unused()
    assert (pool.open, open_descriptors()) == (0, before)


def test_the_pool_ends_with_its_pipes():
    before = open_descriptors()
    pool = DrivenPipes(3)
    for pipe in [pool.borrow(NOW) for _ in range(3)]:
        pool.bring_back(pipe)
    del pool
    assert open_descriptors() == before
