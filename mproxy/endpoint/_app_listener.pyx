"""Accepts applications. While descriptors or memory are short the gate keeps them in the kernel's queue."""

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.io._accept cimport AcceptGate, Accepting, accept_on
from mproxy.io._socket cimport reset_on_close


cdef enum:
    ACCEPTS_A_TURN = 64


cdef void accepted(void *owner, int fd, sockaddr_storage *_address) noexcept:
    cdef AppListener listener = <AppListener>owner
    listener.acceptor.gate.leave()  # descriptors alone are what bounds applications
    if listener.greet is None:
        listener.endpoint.accepted(fd, listener.target)
    else:
        listener.acceptor.gate.loop.guard(listener.greet, fd)


cdef void turn_over(void *owner) noexcept:
    cdef Endpoint endpoint = (<AppListener>owner).endpoint
    if (endpoint.carrier is None or endpoint.forsaken) and endpoint.apps.all.count > 0:
        endpoint.tell(endpoint.observer.on_waiting, (endpoint,))


cdef class AppListener:
    """Relay every application that connects to the listening socket `fd` (a duplicate of the caller's).

    `greet(fd)`: what is done first with each, whose target is not known yet.
    """

    def __init__(self, AcceptGate gate, int fd, Endpoint endpoint, bytes target=b"", greet=None):
        cdef Accepting how
        how.prepare, how.accepted, how.turn_over = reset_on_close, accepted, turn_over  # the first: _app.pyx
        how.owner, how.with_address, how.most = <void *>self, False, ACCEPTS_A_TURN
        self.endpoint = endpoint
        self.target = target
        self.greet = greet
        self.acceptor = accept_on(gate, fd, &how)
        _listeners.add(self)

    def close(self):
        """Stop accepting."""
        self.acceptor.close()
        _listeners.discard(self)


_listeners = set()  # open ones: their acceptors hold a pointer to each
