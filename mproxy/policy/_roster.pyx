"""The roster of a sproxy with several workers. What it is: _roster.pxd."""

import fcntl
import mmap
import os

from libc.string cimport memcmp, memcpy, memset

from mproxy._streams cimport StreamSet
from mproxy.ground._stores cimport stores_done


cdef class Roster:
    """For `workers` workers with at most `rows_each` sessions each; made before there is any of them."""

    def __init__(self, int workers, int rows_each):
        cdef uint8_t[::1] view
        self.workers, self.rows_each = workers, rows_each
        self.memory = mmap.mmap(
            -1, EXPECTATIONS * sizeof(Expectation) + workers * (sizeof(RosterTally) + rows_each * sizeof(RosterRow)))
        view = self.memory
        self.expectations = <Expectation *>&view[0]
        self.rows = <RosterRow *>(self.expectations + EXPECTATIONS)
        self.tallies = <RosterTally *>(self.rows + workers * rows_each)
        self.lock_file = open(os.memfd_create("mproxy-roster"), "r+b", buffering=0)
        self.streams, self.free_rows = [], []

    def begin(self, int own, bint settled=True):
        """This process is worker `own` from now on, and shows no session yet. Unless it is settled it has the lock
        until it is, so that nobody thinks meanwhile that the sessions of the worker before are gone. That one may have
        left its lock with the keeper, which holds its descriptors."""
        self.own = own
        fcntl.lockf(self.lock_file, fcntl.LOCK_UN)
        if not settled:
            fcntl.lockf(self.lock_file, fcntl.LOCK_EX)
        memset(self.row_of(own, 0), 0, self.rows_each * sizeof(RosterRow))
        memset(&self.tallies[own], 0, sizeof(RosterTally))
        self.streams = [None] * self.rows_each
        self.free_rows = list(range(self.rows_each - 1, -1, -1))

    def settled(self):
        """All sessions of the worker before are shown."""
        fcntl.lockf(self.lock_file, fcntl.LOCK_UN)

    def __enter__(self):
        """Decide alone; waits for another worker that does."""
        fcntl.lockf(self.lock_file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_what):
        fcntl.lockf(self.lock_file, fcntl.LOCK_UN)

    # ---- our rows

    def add(self, bytes session_id, bytes instance, StreamSet streams, int64_t began_at):
        """Show a session; returns its row, -1 if there is none left. `note` says the rest, and has it count."""
        cdef RosterRow *row
        if not self.free_rows:
            return -1
        number = self.free_rows.pop()
        row = self.row_of(self.own, number)
        memcpy(row.session, <const char *>session_id, MARK_BYTES)
        memcpy(row.instance, <const char *>instance, MARK_BYTES)
        row.began_at = began_at
        self.streams[number] = streams
        self.tallies[self.own].sessions += 1
        self.tallies[self.own].top = max(self.tallies[self.own].top, <uint32_t>number + 1)
        return number

    def note(self, int number, bytes holder, bint attached, int64_t lost_at, bint lent, list tags):
        """What may change of a session."""
        cdef RosterRow *row = self.row_of(self.own, number)
        cdef int i
        memcpy(row.holder, <const char *>holder, MARK_BYTES)
        row.attached, row.lost_at, row.lent = attached, lost_at, lent
        for i in range(ROW_TAGS):
            row.tags[i] = tags[i] if i < len(tags) else 0
        row.streams = (<StreamSet>self.streams[number]).open_list.count
        stores_done()
        if row.state == RowState.FREE:
            row.state = RowState.HERE

    def remove(self, int number):
        """The session is over."""
        cdef RosterTally *tally = &self.tallies[self.own]
        self.row_of(self.own, number).state = RowState.FREE
        self.streams[number] = None
        self.free_rows.append(number)
        tally.sessions -= 1
        while tally.top > 0 and self.row_of(self.own, tally.top - 1).state == RowState.FREE:
            tally.top -= 1

    def show_guests(self, uint32_t count):
        """Show how many connections we have that are not sessions yet."""
        self.tallies[self.own].guests = count

    def refresh(self):
        """Show how many streams our sessions have by now."""
        cdef RosterTally *tally = &self.tallies[self.own]
        cdef uint32_t number
        for number in range(tally.top):
            if self.streams[number] is not None:
                self.row_of(self.own, number).streams = (<StreamSet>self.streams[number]).open_list.count

    # ---- everybody's

    def load(self, int worker):
        """Sessions of a worker, and connections that may become some."""
        return self.tallies[worker].sessions + self.tallies[worker].guests

    def sessions(self, int worker):
        """Sessions of a worker."""
        return self.tallies[worker].sessions

    def send_guest(self, int worker):
        """A guest is on its way to that worker; it says itself how many it has soon."""
        self.tallies[worker].guests += 1

    def total(self):
        """Sessions of all workers, without those that are leaving."""
        cdef uint32_t number, count = 0
        cdef int worker
        for worker in range(self.workers):
            for number in range(self.tallies[worker].top):
                count += self.row_of(worker, number).state == RowState.HERE
        return count

    def find_session(self, bytes session_id):
        """The other worker that has a session; None: there is none."""
        return self.find_by(<size_t>&(<RosterRow *>NULL).session, <const uint8_t *><const char *>session_id, False)[0]

    def find_tag(self, uint64_t tag, int first):
        """The worker that has the session with that tag, most likely `first`; None: there is none."""
        cdef int nth, worker, i
        cdef uint32_t number
        cdef RosterRow *row
        for nth in range(self.workers):
            worker = (first + nth) % self.workers
            for number in range(self.tallies[worker].top):
                row = self.row_of(worker, number)
                for i in range(ROW_TAGS):
                    if row.tags[i] == tag and row.state == RowState.HERE:
                        return worker
        return None

    def expect(self, uint64_t source, int worker, int64_t now):
        """Whoever dials from there next is for that worker."""
        cdef Expectation *expectation = &self.expectations[source % EXPECTATIONS]
        expectation.source = 0
        expectation.worker, expectation.until = worker, now + EXPECTED_US
        stores_done()
        expectation.source = source

    def expected(self, uint64_t source, int64_t now):
        """The worker for whoever dials from there; None: nobody knows."""
        cdef Expectation *expectation = &self.expectations[source % EXPECTATIONS]
        if expectation.source != source or expectation.until < now:
            return None
        return expectation.worker

    def find_instance(self, bytes instance):
        """The other worker that has a session of a cproxy; None: there is none."""
        return self.find_by(<size_t>&(<RosterRow *>NULL).instance, <const uint8_t *><const char *>instance, False)[0]

    def find_holder(self, bytes holder):
        """Another worker that has a session of that holder; None: there is none."""
        return self.find_by(<size_t>&(<RosterRow *>NULL).holder, <const uint8_t *><const char *>holder, False)[0]

    def count(self, bytes holder):
        """(sessions, streams) that a holder has at all workers; the streams are those of the other workers alone."""
        _worker, sessions, streams = self.find_by(
            <size_t>&(<RosterRow *>NULL).holder, <const uint8_t *><const char *>holder, True)
        return sessions, streams

    def others(self):
        """[(worker, row, session id, holder, streams, attached, lost at, began at, lent)] of the other workers."""
        cdef uint32_t number
        cdef int worker
        cdef RosterRow *row
        found = []
        for worker in range(self.workers):
            for number in range(self.tallies[worker].top):
                row = self.row_of(worker, number)
                if worker != self.own and row.state == RowState.HERE:
                    found.append((worker, number, <bytes>(<char *>row.session)[:MARK_BYTES],
                                  <bytes>(<char *>row.holder)[:MARK_BYTES], row.streams, row.attached,
                                  row.lost_at or None, row.began_at, row.lent))
        return found

    def dismiss(self, int worker, int number):
        """A session of another worker, which will be told so, counts no more. Under the lock."""
        cdef RosterRow *row = self.row_of(worker, number)
        if row.state == RowState.HERE:
            row.state = RowState.LEAVING

    cdef RosterRow *row_of(self, int worker, int number):
        return self.rows + worker * self.rows_each + number

    cdef tuple find_by(self, size_t field, const uint8_t *mark, bint ours):
        """(worker of the last row found, how many rows, streams of other workers in them); `ours`: count our rows."""
        cdef uint32_t number, rows = 0, streams = 0
        cdef int worker
        cdef int where = -1
        cdef RosterRow *row
        for worker in range(self.workers):
            if worker == self.own and not ours:
                continue
            for number in range(self.tallies[worker].top):
                row = self.row_of(worker, number)
                if row.state == RowState.HERE and memcmp(<uint8_t *>row + field, mark, MARK_BYTES) == 0:
                    where = worker
                    rows += 1
                    streams += row.streams if worker != self.own else 0
        return where if where >= 0 else None, rows, streams
