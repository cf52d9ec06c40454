"""Reads streams as they were written. What for: _stream_text.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strchr, strlen


cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    int inet_pton(int family, const char *text, void *address)
    uint16_t htons(uint16_t number)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t length, const void *part, size_t part_length)

cdef enum:
    LEAST_BYTES = 100    # of a stream
    HOST_BYTES = 64      # a numeric address with its scope

# As service/inspection.py begins the list; its first character cannot be in a text, where quotation marks are escaped.
cdef const char *LIST = ', "stream_list": ['


cdef class StreamText:
    """The list of one session's streams."""

    def __len__(self):
        return self.count

    def say(self, more not None):
        """The JSON of the list, without its brackets. `more`: for each application what its object has besides."""
        cdef list parts = []
        cdef Py_ssize_t begin = 0, place
        for place, each in zip(self.places, more, strict=True):
            if each:
                parts.append(self.text[begin:place])
                parts.append(each)
                begin = place
        parts.append(self.text[begin:])
        return b"".join(parts)


def take_streams(bytes answer not None):
    """(the answer with empty lists of streams, those lists in their order); None: they are not written as ours are."""
    cdef list parts = [], lists = []
    cdef const char *begin = answer
    cdef Cursor cursor
    cdef StreamText found
    cursor.at, cursor.end = begin, begin + len(answer)
    while True:
        begin = cursor.at
        cursor.at = <const char *>memmem(begin, cursor.end - begin, LIST, strlen(LIST))
        if cursor.at == NULL:
            parts.append(begin[:cursor.end - begin])
            return b"".join(parts), lists
        cursor.at += strlen(LIST)
        parts.append(begin[:cursor.at - begin])
        found = take_list(&cursor)
        if found is None:
            return None
        lists.append(found)


cdef StreamText take_list(Cursor *cursor):
    """The streams up to the bracket that ends their list, before which the cursor is then."""
    cdef const char *begin = cursor.at
    cdef size_t most = <size_t>(cursor.end - begin) // LEAST_BYTES + 1, count = 0, ends = 0
    cdef StreamText found = StreamText()
    cdef SocketKey *keys = <SocketKey *>malloc(most * sizeof(SocketKey))
    cdef list places = []
    cdef const char *place
    if keys == NULL:
        raise MemoryError
    try:
        pass_spaces(cursor)
        while cursor.at < cursor.end and cursor.at[0] != c"]":
            if count == most or (count and not word(cursor, ",")):
                return None
            pass_spaces(cursor)
            place = NULL
            if not take_stream(cursor, &keys[ends], &place):
                return None
            if place != NULL:
                places.append(place - begin)
                ends += 1
            count += 1
            pass_spaces(cursor)
        found.text = begin[:cursor.at - begin]
        found.count, found.ends, found.places = count, ends, places
        found.keys = (<const char *>keys)[:ends * sizeof(SocketKey)]
        return found
    finally:
        free(keys)


cdef bint take_stream(Cursor *cursor, SocketKey *key, const char **place) noexcept nogil:
    return (word(cursor, '{"stream":') and digits(cursor)
            and word(cursor, ',"state":') and quoted(cursor)
            and word(cursor, ',"target":') and (word(cursor, "null") or quoted(cursor))
            and word(cursor, ',"application":') and (word(cursor, "null") or take_application(cursor, key, place))
            and word(cursor, ',"age_s":') and (word(cursor, "null") or decimal(cursor))
            and word(cursor, ',"sent_bytes":') and digits(cursor)
            and word(cursor, ',"received_bytes":') and digits(cursor)
            and word(cursor, ',"unacknowledged_bytes":') and digits(cursor)
            and word(cursor, ',"undelivered_bytes":') and digits(cursor)
            and word(cursor, ',"slow":') and (word(cursor, "null") or quoted(cursor)) and word(cursor, "}"))


cdef bint take_application(Cursor *cursor, SocketKey *key, const char **place) noexcept nogil:
    if not (word(cursor, '{"local":') and take_end(cursor, key.other, &key.other_port)
            and word(cursor, ',"peer":') and take_end(cursor, key.own, &key.own_port)):
        return False
    place[0] = cursor.at
    return word(cursor, "}")


cdef bint take_end(Cursor *cursor, uint8_t *address, uint16_t *port) noexcept nogil:
    """`["127.0.0.1",5200]`"""
    cdef const char *begin = cursor.at + 2
    cdef size_t length
    cdef uint32_t number = 0
    cdef char host[HOST_BYTES]
    if not (word(cursor, "[") and quoted(cursor)):
        return False
    length = cursor.at - 1 - begin
    if length >= HOST_BYTES:
        return False
    memcpy(host, begin, length)
    host[length] = 0
    begin = cursor.at + 1
    if not (word(cursor, ",") and digits(cursor)) or cursor.at - begin > 5:
        return False
    while begin < cursor.at:
        number = number * 10 + <uint32_t>(begin[0] - c"0")
        begin += 1
    port[0] = htons(<uint16_t>number)
    spell(host, address)
    return number <= 65535 and word(cursor, "]")


cdef void spell(const char *host, uint8_t *address) noexcept nogil:
    memset(address, 0, 16)
    if inet_pton(AF_INET, host, address + 12) == 1:
        address[10] = address[11] = 0xff
    elif inet_pton(AF_INET6, host, address) != 1:
        memset(address, 0, 16)


cdef inline bint word(Cursor *cursor, const char *expected) noexcept nogil:
    cdef size_t length = strlen(expected)
    if <size_t>(cursor.end - cursor.at) < length or memcmp(cursor.at, expected, length) != 0:
        return False
    cursor.at += length
    return True


cdef inline void pass_spaces(Cursor *cursor) noexcept nogil:
    while cursor.at < cursor.end and cursor.at[0] == c" ":
        cursor.at += 1


cdef inline bint digits(Cursor *cursor) noexcept nogil:
    """A whole number that 64 bits have."""
    cdef const char *begin = cursor.at
    while cursor.at < cursor.end and c"0" <= cursor.at[0] <= c"9":
        cursor.at += 1
    return 0 < cursor.at - begin <= 18 and (begin[0] != c"0" or cursor.at - begin == 1)


cdef inline bint decimal(Cursor *cursor) noexcept nogil:
    cdef const char *begin
    if not digits(cursor):
        return False
    if word(cursor, "."):
        begin = cursor.at
        while cursor.at < cursor.end and c"0" <= cursor.at[0] <= c"9":
            cursor.at += 1
        return 0 < cursor.at - begin <= 18
    return True


cdef bint quoted(Cursor *cursor) noexcept nogil:
    """A text of ASCII."""
    cdef int i
    if not word(cursor, '"'):
        return False
    while cursor.at < cursor.end:
        if cursor.at[0] == c'"':
            cursor.at += 1
            return True
        if not c" " <= cursor.at[0] <= c"~":
            return False
        if cursor.at[0] != c"\\":
            cursor.at += 1
        elif cursor.end - cursor.at < 6:
            return False
        elif cursor.at[1] == c"u":
            for i in range(2, 6):
                if cursor.at[i] == 0 or strchr("0123456789abcdefABCDEF", cursor.at[i]) == NULL:
                    return False
            cursor.at += 6
        elif cursor.at[1] != 0 and strchr('"\\/bfnrt', cursor.at[1]) != NULL:
            cursor.at += 2
        else:
            return False
    return False
