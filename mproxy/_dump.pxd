"""Sessions on their way to another build of the program: a dump, which does not show how they lie in memory.

    head       what it is, which version, how many sessions, how long it is; since version 2 also
               what the program keeps with no session
    session    as often: its numbers, then its targets, then what the program keeps with it, then its streams
    stream     as often as the session says: its numbers, then the bytes of `out`, then those of `inp`

Numbers have the order and the width of the structs below, which never change; a change is a new version, and there is
always the one before it, too: so whoever goes back to the former build can. They are in the processor's order, for a
dump stays on its host. Each group of numbers has a check; bytes of applications have none, as they have none in memory.

It is made between two turns of the loop, when every system call has been entered in the records. It is loaded into an
arena that has nothing yet, and leaves there what a worker that has died would have left (_inherit.pxd).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._wire cimport SECRET_BYTES, SESSION_ID_BYTES


cdef enum:
    MAGIC_BYTES = 8
    MOST_ABOUT = 1048576


cdef packed struct DumpHead:
    uint8_t magic[MAGIC_BYTES]  # what it is: MAGIC
    uint32_t version      # of the dump
    uint32_t sessions     # so many follow
    uint64_t length       # of the whole dump
    uint32_t about        # bytes of what the program keeps with no session, behind this; 0 in version 1
    uint32_t check        # of all before


cdef packed struct SessionImage:
    uint8_t session_id[SESSION_ID_BYTES]  # as in SessionState
    uint8_t secret[SECRET_BYTES]  # as there, and so are those that follow
    uint64_t epoch        # as there
    uint64_t out_bytes    # as there
    uint64_t in_bytes     # as there
    uint64_t opened       # as there
    uint32_t last_id      # as there
    uint32_t highest_id   # as there
    int32_t close_code    # as there
    uint8_t is_server     # as there
    uint8_t known         # as there
    uint16_t kept         # bytes of what the program keeps with it
    uint32_t targets      # bytes of the texts that OPENs have
    uint32_t streams      # so many follow
    uint32_t check        # of all before


cdef packed struct StreamImage:
    uint64_t out_head     # as in StreamState: of `out`
    uint64_t out_tail     # of `out`
    uint64_t sent         # as there
    uint64_t peak         # as there
    uint64_t inp_head     # of `inp`
    uint64_t inp_tail     # of `inp`
    uint64_t acked        # as there
    uint32_t id           # as there
    uint32_t target       # where it is among the session's
    uint32_t descriptor   # which of those that come with the dump, from 1 on; 0: none
    uint16_t target_bytes  # as there
    uint16_t read_before  # as there
    uint16_t written_before  # as there
    uint8_t out_ended     # as there
    uint8_t out_done      # as there
    uint8_t in_ended      # as there
    uint8_t in_done       # as there
    uint8_t open_due      # as there
    uint8_t confirmed     # as there
    uint8_t unheard       # as there
    uint8_t aborted       # as there
    uint8_t reset_ours    # as there
    uint8_t reset_code    # as there
    uint8_t deaf          # as there
    uint8_t drain_reset   # as there
    uint8_t retired       # as there
    uint8_t dialling      # as there
    uint32_t check        # of all before
