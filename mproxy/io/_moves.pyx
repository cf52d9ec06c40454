"""Files that take a name by rename: _moves.pxd."""

import os
import struct

from libc.stdint cimport uint32_t


cdef extern from "<sys/inotify.h>" nogil:
    uint32_t IN_MOVED_TO, IN_MODIFY, IN_ATTRIB, IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_ONLYDIR
    int IN_NONBLOCK, IN_CLOEXEC
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)

EVENT = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, bytes of the name that follows

cdef enum:
    READ_BYTES = 65536


cdef class Moves:
    """Watches the name `path`; `inside`: all names in the directory `path`, but those that begin with a dot."""

    def __init__(self, path, bint inside=False):
        directory, name = (os.path.abspath(path), "") if inside else os.path.split(os.path.abspath(path))
        self.directory = os.fsencode(directory)
        self.name = os.fsencode(name)
        self.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        self.watch()

    def last_was_move(self):
        """Whether the last thing that happened to the name since this was last asked is that a file was moved to it; to
        several names: to each of them. None: nothing has happened."""
        moved = {}
        for mask, name in self._events():
            if name == self.name or (not self.name and not name.startswith(b".")):
                moved[name] = bool(mask & IN_MOVED_TO)
        self.watch()
        return all(moved.values()) if moved else None

    def close(self):
        """Stop watching."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _events(self):
        """[(mask, name)] of what happened, oldest first."""
        events = []
        while self.fd >= 0:
            try:
                data = os.read(self.fd, READ_BYTES)
            except OSError:
                break
            at = 0
            while at < len(data):
                _watch, mask, _cookie, length = EVENT.unpack_from(data, at)
                at += EVENT.size
                events.append((mask, data[at:at + length].rstrip(b"\0")))
                at += length
        return events

    cdef void watch(self) noexcept:
        """Watch the directory that has the name now."""
        if self.fd >= 0:
            inotify_add_watch(self.fd, self.directory, IN_ONLYDIR | IN_MOVED_TO | IN_MODIFY | IN_ATTRIB | IN_CREATE
                              | IN_DELETE | IN_MOVED_FROM)
