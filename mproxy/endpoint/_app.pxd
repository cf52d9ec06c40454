"""One application connection and its stream: bytes from the socket into the stream's ring, and back.

Nothing here knows of carriers. An App is freed at the end of the loop's turn in which `app_close` was called.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from mproxy._session cimport Session
from mproxy._stream cimport Stream
from mproxy.ground._list cimport LinkedList, ListLink
from mproxy.io._loop cimport Loop, Source, Work


cdef struct App:
    Source source       # the socket, or where bytes are read from
    Source sink         # where bytes are written, if that is another descriptor; else fd -1
    Apps *apps          # the set it belongs to
    Stream *stream      # its stream
    ListLink in_all     # the set
    ListLink in_ready   # those to read in this turn
    bint ready          # it is among those
    bint is_socket      # recv and send, else read and write
    bint is_file        # cannot be waited for: always ready
    bint readable       # no EAGAIN since the last event
    bint writable       # no EAGAIN since the last event
    bint connecting     # the daemon has not answered yet
    bint hung_up        # the other end closed or broke: the next read will say which
    bint urgent         # it sends urgent data: a read ends before such a byte, so a short read proves nothing
    bint broken         # the connection is gone: what the kernel still has of it is read first, then it has vanished
    bint cut            # ... and its error, already fetched, did not follow an orderly end
    bint bounded        # the kernel takes little more than it can send at once
    bint read_ended     # EOF read and given to the stream
    bint write_ended    # the stream's end given to the application
    uint8_t address     # which of the target's addresses is being tried
    uint8_t refusal     # errno of its connection, found and so taken out of the socket by bytes sent early; 0: none
    void *target        # owned reference to a Target while connecting, else NULL
    void *race          # owned reference to Attempts while connecting to one of several addresses; else NULL


cdef struct Apps:
    void *session       # borrowed Session
    void *loop          # borrowed Loop
    Work *work          # queued when an application is ready
    LinkedList all      # oldest first
    LinkedList ready    # those to be read
    int vanished        # errno with which the last one's connection broke, ECONNRESET where nobody said; 0: none has
    void (*connect_failed)(Apps *apps, App *app, int error) noexcept  # daemon's address failed
    void (*left_away)(Apps *apps, App *app, bint broken) noexcept  # it ended or broke while there is no carrier
    void *owner         # for these two


cdef bint apps_may_grow(const Apps *apps) noexcept
cdef App *app_new(Apps *apps, Stream *stream, int fd, int write_fd) noexcept
cdef int app_watch(App *app) noexcept
cdef void app_watch_again(App *app) noexcept
cdef void app_answered(App *app) noexcept
cdef void app_close(App *app, bint abruptly) noexcept
cdef void app_vanished(App *app) noexcept
cdef void app_write_failed(App *app) noexcept
cdef int app_refusal(int error) noexcept
cdef void app_mark_ready(App *app) noexcept
cdef App *app_next_ready(Apps *apps) noexcept
cdef size_t app_read(App *app) noexcept
cdef void app_deliver(App *app, const uint8_t *data, uint32_t length) noexcept
cdef void app_flush(App *app) noexcept
