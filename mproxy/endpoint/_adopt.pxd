"""Going on with the applications of a process that is gone: their connections are still there, under the same numbers.

Every flag of an App follows from its stream's state, and from what the kernel says (_reconcile.pxd).
"""

from mproxy._session cimport Session
from mproxy._state cimport StreamState
from mproxy.endpoint._app cimport Apps


cdef enum Adopted:
    KEPT      # it goes on, or had ended before
    LOST      # what was done for its application cannot be told, or there is no memory: both ends of it are reset
    UNSERVED  # it has no connection to an application, and had none over which a byte has moved


cdef Adopted adopt_stream(Apps *apps, StreamState *state) noexcept
cdef bint serve_again(Session session, object unopened, const StreamState *state) noexcept
