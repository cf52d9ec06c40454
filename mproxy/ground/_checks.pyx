"""Checks of JSON values. What for: _checks.pxd.

Types are compared exactly: for JSON, true is not a number. Numbers are finite, and fit into 64 bits with their sign.
"""

from cpython.dict cimport PyDict_CheckExact, PyDict_GetItem
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact

cdef double MOST = 9223372036854775808.0  # 2**63, which no number reaches


cdef class Check:
    """Base: fits whatever there is."""

    def __call__(self, value):
        """Whether a value is what it should be."""
        return self.fits(value)

    cdef bint fits(self, object value) except -1:
        return True


cdef class PlainCheck(Check):
    """A value that is neither list nor object, and an address with its port."""

    cdef bint fits(self, object value) except -1:
        if self.kind == PLAIN_TEXT:
            return PyUnicode_CheckExact(value)
        if self.kind == PLAIN_COUNT:
            return is_whole(value, 0)
        if self.kind == PLAIN_WHOLE:
            return is_whole(value, -0x7FFFFFFFFFFFFFFF)
        if self.kind == PLAIN_END:
            return is_end(value)
        if not PyFloat_CheckExact(value):
            return is_whole(value, 0 if self.kind == PLAIN_NUMBER else -0x7FFFFFFFFFFFFFFF)
        if self.kind == PLAIN_NUMBER:
            return 0 <= PyFloat_AS_DOUBLE(value) < MOST  # "not a number" is nowhere between
        return -MOST < PyFloat_AS_DOUBLE(value) < MOST


cdef bint is_whole(object value, long long least) except -1:
    cdef long long number
    cdef int overflow = 0
    if not PyLong_CheckExact(value):
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    return not overflow and number >= least


cdef bint is_end(object value) except -1:
    cdef list both
    if not PyList_CheckExact(value) or len(<list>value) != 2:
        return False
    both = <list>value
    return PyUnicode_CheckExact(both[0]) and is_whole(both[1], 0) and both[1] <= 65535


cdef class NullCheck(Check):
    """What may also be null."""

    cdef bint fits(self, object value) except -1:
        return value is None or self.check.fits(value)


cdef class ListCheck(Check):
    """A list of any length."""

    cdef bint fits(self, object value) except -1:
        if not PyList_CheckExact(value):
            return False
        for item in <list>value:
            if not self.check.fits(item):
                return False
        return True


cdef class NamedCheck(Check):
    """An object with values of one kind."""

    cdef bint fits(self, object value) except -1:
        if not PyDict_CheckExact(value):
            return False
        for item in (<dict>value).values():
            if not self.check.fits(item):
                return False
        return True


cdef class ObjectCheck(Check):
    """An object whose fields have checks of their own; those that are not known do not matter."""

    cdef bint fits(self, object value) except -1:
        cdef Py_ssize_t at
        cdef PyObject *found
        if not PyDict_CheckExact(value):
            return False
        for at in range(len(self.names)):
            found = PyDict_GetItem(value, self.names[at])
            if found == NULL:
                if at < self.must:
                    return False
            elif not (<Check>self.checks[at]).fits(<object>found):
                return False
        for name in self.never:
            if name in <dict>value:
                return False
        return True


cdef Check plain(PlainKind kind):
    cdef PlainCheck check = PlainCheck()
    check.kind = kind
    return check


TEXT, COUNT, WHOLE = plain(PLAIN_TEXT), plain(PLAIN_COUNT), plain(PLAIN_WHOLE)
NUMBER, ANY_NUMBER, END = plain(PLAIN_NUMBER), plain(PLAIN_ANY_NUMBER), plain(PLAIN_END)


def or_null(Check check not None):
    """Null, or what fits `check`."""
    cdef NullCheck made = NullCheck()
    made.check = check
    return made


def list_of(Check check not None):
    """A list, each item of which fits `check`."""
    cdef ListCheck made = ListCheck()
    made.check = check
    return made


def named(Check check not None):
    """An object with values that fit `check` under any name."""
    cdef NamedCheck made = NamedCheck()
    made.check = check
    return made


def object_of(dict must not None, dict may=None, never=()):
    """An object with all fields of `must` and none of `never`; those of `may` can be left out."""
    cdef ObjectCheck made = ObjectCheck()
    cdef dict known = must | (may or {})
    made.names = list(known)
    made.checks = list(known.values())
    made.must = len(must)
    made.never = tuple(never)
    for check in made.checks:
        if not isinstance(check, Check):
            raise TypeError(f"not a check: {check!r}")
    return made
