"""Overwriting secrets in place."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING


def wipe(secret):
    """Overwrite bytes or a bytearray in place with zeros, by a call that no compiler optimises away.

    Even bytes, although Python calls them immutable: so whoever wipes some must be their last user, and must have made
    them (never a literal, which others may share).
    """
    if len(secret) > 1:  # shorter ones are shared by all of Python
        if isinstance(secret, bytearray):
            explicit_bzero(PyByteArray_AS_STRING(secret), len(secret))
        else:
            explicit_bzero(PyBytes_AS_STRING(<bytes?>secret), len(<bytes>secret))
