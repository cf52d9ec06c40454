"""Rings and the pool they borrow from, and lists of records, as Python sees them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mproxy._pool cimport pool_charge, pool_free_bytes, pool_kept_bytes, pool_lent_bytes
from mproxy._ring cimport (
    Ring, iovec, ring_append, ring_drop, ring_init, ring_release, ring_reserve, ring_space, ring_view,
)
from mproxy.ground._list cimport LinkedList, ListLink, list_append, list_prepend, list_remove


def charge_memory(int64_t size):
    """Enter a record of `size` bytes that Python code keeps; a negative size when it is gone."""
    pool_charge(size)


def memory_left():
    """Bytes left of the limit."""
    return pool_free_bytes()


def pool_bytes():
    """Return (bytes lent to rings, bytes kept for the next ring)."""
    return pool_lent_bytes(), pool_kept_bytes()


cdef class ByteRing:
    """A ring whose offsets and lengths are checked: ValueError outside it."""

    cdef Ring ring  # the C ring behind this view

    def __cinit__(self, uint64_t offset=0):
        ring_init(&self.ring, offset)

    def __dealloc__(self):
        ring_drop(&self.ring, NULL)

    @property
    def head(self):
        """Offset of the oldest byte kept."""
        return self.ring.head

    @property
    def tail(self):
        """Offset behind the newest byte kept."""
        return self.ring.tail

    @property
    def capacity(self):
        """Bytes of storage."""
        return self.ring.capacity

    def reserve(self, uint32_t capacity):
        """Grow the storage to at least `capacity` bytes."""
        if ring_reserve(&self.ring, capacity, NULL) < 0:
            raise MemoryError

    def fill(self, bytes data):
        """Write as much of `data` as there is space, the way a socket read does; return how many bytes that was."""
        cdef iovec space[2]
        cdef const uint8_t *at = data
        cdef int i
        cdef uint32_t done = 0
        for i in range(ring_space(&self.ring, <uint32_t>len(data), space)):
            memcpy(space[i].iov_base, at + done, space[i].iov_len)
            done += <uint32_t>space[i].iov_len
        self.ring.tail += done
        return done

    def append(self, bytes data):
        """Copy all of `data` behind the newest byte, growing."""
        if ring_append(&self.ring, data, <uint32_t>len(data), NULL) < 0:
            raise MemoryError

    def view(self, uint64_t offset, uint32_t length):
        """Return the kept bytes [offset, offset + length)."""
        cdef iovec parts[2]
        cdef int i
        if offset < self.ring.head or offset > self.ring.tail or length > self.ring.tail - offset:
            raise ValueError("outside the ring")
        result = b""
        for i in range(ring_view(&self.ring, offset, length, parts)):
            result += (<char *>parts[i].iov_base)[:parts[i].iov_len]
        return result

    def release(self, uint64_t offset):
        """Forget every byte below `offset`."""
        if not self.ring.head <= offset <= self.ring.tail:
            raise ValueError("outside the ring")
        ring_release(&self.ring, offset, NULL)


cdef enum:
    LISTS = 2        # that a record can be in at the same time
    MOST_RECORDS = 8


cdef struct Record:
    int number              # its name
    ListLink links[LISTS]   # its places


cdef class RecordLists:
    """Records 0 to 7 and two lists that each of them may be in. Who asks knows which are in: that is not checked."""

    cdef LinkedList lists[LISTS]        # the lists
    cdef Record records[MOST_RECORDS]   # what can be in them

    def __cinit__(self):
        for number in range(MOST_RECORDS):
            self.records[<int>number].number = number

    def append(self, int which, int number):
        """Enter a record at the end of a list."""
        list_append(&self.lists[which], &self.records[number], &self.records[number].links[which])

    def prepend(self, int which, int number):
        """Enter a record at the beginning of a list."""
        list_prepend(&self.lists[which], &self.records[number], &self.records[number].links[which])

    def remove(self, int which, int number):
        """Take a record out of a list; return the number of the one behind it, as its link still says, or None."""
        cdef Record *behind
        list_remove(&self.lists[which], &self.records[number], &self.records[number].links[which])
        behind = <Record *>self.records[number].links[which].next
        return None if behind == NULL else behind.number

    def count(self, int which):
        """How many records a list has, by its own count."""
        return self.lists[which].count

    def walk(self, int which):
        """Return (numbers from the first to the last, numbers from the last to the first)."""
        cdef Record *record = <Record *>self.lists[which].first
        cdef list onward = []
        cdef list back = []
        while record != NULL and len(onward) <= MOST_RECORDS:
            onward.append(record.number)
            record = <Record *>record.links[which].next
        record = <Record *>self.lists[which].last
        while record != NULL and len(back) <= MOST_RECORDS:
            back.append(record.number)
            record = <Record *>record.links[which].prev
        return onward, back
