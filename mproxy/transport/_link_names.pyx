"""Ids of connections: _link_names.pxd."""


cdef class LinkNames:
    """Of the links of one DatagramEndpoint."""

    def __init__(self):
        self.links, self.ids = {}, {}

    cdef object find(self, uint64_t id):
        """The link; None: nobody has that id."""
        return self.links.get(id)

    cdef void rename(self, object link, list ids) noexcept:
        """Find it by these ids from now on, and by no others."""
        for id in set(self.ids.get(link, ())).difference(ids):
            if self.links.get(id) is link:
                del self.links[id]
        for id in ids:
            self.links.setdefault(id, link)  # nobody can choose an id that another one has
        self.ids[link] = ids

    cdef void forget(self, object link) noexcept:
        """It is over."""
        self.rename(link, [])
        del self.ids[link]
