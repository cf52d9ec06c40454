"""Whether a value that was read from JSON is what it should be: kinds of plain values, and lists and objects of them.

A stranger's answer is checked as a whole before anything is made of it, and it may have a hundred thousand values.
"""


cdef enum PlainKind:
    PLAIN_TEXT
    PLAIN_COUNT       # a whole number from 0 on
    PLAIN_WHOLE       # a whole number
    PLAIN_NUMBER      # from 0 on
    PLAIN_ANY_NUMBER
    PLAIN_END         # [address, port]


cdef class Check:
    cdef bint fits(self, object value) except -1


cdef class PlainCheck(Check):
    cdef PlainKind kind    # what it has to be


cdef class NullCheck(Check):
    cdef Check check       # what it has to be unless it is null


cdef class ListCheck(Check):
    cdef Check check       # of each item


cdef class NamedCheck(Check):
    cdef Check check       # of each value, whatever its name


cdef class ObjectCheck(Check):
    cdef list names        # of the fields that are known: first those that it must have, then those that it may have
    cdef list checks       # of each of them
    cdef Py_ssize_t must   # how many it must have
    cdef tuple never       # names that it must not have
