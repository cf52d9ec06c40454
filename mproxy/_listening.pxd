"""What the two sides say about places where sproxy listens for a cproxy: LISTEN and LISTENING (docs/protocol.md)."""

from mproxy._session cimport Session


cdef say(Session session, int type, int flags, int number, bint listens, bytes text)
