"""sproxy: an application that is a daemon, to be reached at one of the addresses of a Target.

Addresses are tried in order: the next one when one has failed, and beside one that is silent (_attempts.pxd). The
newest attempt is the App's own socket, with fd -1 when it has failed and only others are left.
"""

from mproxy._stream cimport Stream
from mproxy.endpoint._app cimport App, Apps
from mproxy.io._socket cimport Target


cdef int daemon_dial(Apps *apps, Stream *stream, Target target) noexcept
cdef bint daemon_next(App *app) noexcept
