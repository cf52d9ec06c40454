"""The mapping, and its tables of records. What it is for: _arena.pxd."""

from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from mproxy.ground._stores cimport store_whole, stores_done


cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifndef MFD_NOEXEC_SEAL
    #define MFD_NOEXEC_SEAL 8
    #endif

    /* Of a file without a name, which nobody can lengthen, shorten or (since Linux 6.3) execute. NULL with errno. */
    static void *shared_memory(size_t size)
    {
        unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
        void *memory = MAP_FAILED;
        int why, fd = (int)syscall(SYS_memfd_create, "mproxy", flags | MFD_NOEXEC_SEAL);
        if (fd < 0 && errno == EINVAL)
            fd = (int)syscall(SYS_memfd_create, "mproxy", flags);
        if (fd < 0)
            return NULL;
        if (ftruncate(fd, (off_t)size) == 0) {
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
            memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        }
        why = errno;
        close(fd);
        errno = why;
        return memory == MAP_FAILED ? NULL : memory;
    }
    """
    void *shared_memory(size_t size) nogil

cdef extern from "<sys/mman.h>" nogil:
    int MADV_REMOVE, MADV_DONTDUMP, MADV_DONTFORK
    int madvise(void *start, size_t length, int advice)
    int munmap(void *start, size_t length)


cdef Records tables[RecordTable.RECORD_TABLES]
cdef uint32_t no_turn = 0  # where turns are noted while there is no arena
arena_turn = &no_turn


cdef int arena_map() noexcept:
    """Reserve it, as much of it as the system lets us; -1 with errno."""
    global arena_base, arena_bytes, arena_turn
    cdef size_t size = <size_t>ARENA_CHUNKS * ARENA_CHUNK_BYTES
    cdef void *base = shared_memory(size)
    while base == NULL:
        size //= 2
        if size < <size_t>LEAST_ARENA_CHUNKS * ARENA_CHUNK_BYTES:
            return -1
        base = shared_memory(size)
    madvise(base, size, MADV_DONTDUMP)
    arena_base = <uint8_t *>base
    arena_bytes = size
    arena_turn = &(<ArenaHead *>base).turn
    return 0


cdef void arena_unmap() noexcept nogil:
    """This process has it no more; nothing that lies there may be used from now on."""
    global arena_base, arena_bytes, arena_turn
    if arena_base != NULL:
        munmap(arena_base, arena_bytes)
        arena_base = NULL
        arena_bytes = 0
        arena_turn = &no_turn


cdef void arena_keep_from_children() noexcept nogil:
    """What this process forks has no arena: a copy of our objects that is taken down must not take ours along."""
    madvise(arena_base, arena_bytes, MADV_DONTFORK)


cdef void arena_punch(void *start, size_t length) noexcept nogil:
    """Return whole pages to the system; they read as zeros."""
    madvise(start, length, MADV_REMOVE)


# ---- records

cdef inline ArenaHead *head() noexcept nogil:
    return <ArenaHead *>arena_base


cdef void shape_records(RecordTable table, uint32_t record_bytes, uint32_t most) noexcept nogil:
    """What a table holds; for whoever defines the records, before there is an arena."""
    tables[<int>table].record_bytes = record_bytes
    tables[<int>table].most = most


cdef inline uint8_t *start_of(RecordTable table) noexcept nogil:
    return arena_base + (1 + <size_t>table * TABLE_CHUNKS) * ARENA_CHUNK_BYTES


cdef void *record_at(RecordTable table, uint32_t number) noexcept nogil:
    """The record of a number from 1 to `most`."""
    return start_of(table) + <size_t>(number - 1) * tables[<int>table].record_bytes


cdef uint32_t record_number(RecordTable table, const void *record) noexcept nogil:
    return <uint32_t>(<size_t>(<const uint8_t *>record - start_of(table)) // tables[<int>table].record_bytes) + 1


cdef uint32_t records_used(RecordTable table) noexcept nogil:
    """Records above this number were never claimed."""
    cdef uint32_t used = head().used[<int>table]
    return used if used < tables[<int>table].most else tables[<int>table].most


cdef void *record_take(RecordTable table) noexcept nogil:
    """A record of zeros, or NULL when all are taken. The number of the highest is noted before it can be claimed."""
    cdef Records *records = &tables[<int>table]
    cdef uint32_t number = records_used(table) + 1
    cdef void *record
    if records.free_count > 0:
        records.free_count -= 1
        number = records.free_numbers[records.free_count]
        record = record_at(table, number)
        memset(record, 0, records.record_bytes)
        return record
    if number > records.most:
        return NULL
    record = record_at(table, number)
    memset(record, 0, records.record_bytes)
    stores_done()
    store_whole(&head().used[<int>table], number)
    return record


cdef void record_return(RecordTable table, uint32_t number) noexcept nogil:
    """It was given up; without room for the entry this process uses it no more."""
    cdef Records *records = &tables[<int>table]
    cdef uint32_t *larger
    if records.free_count == records.free_size:
        larger = <uint32_t *>realloc(records.free_numbers, (records.free_size * 2 + 64) * sizeof(uint32_t))
        if larger == NULL:
            return
        records.free_numbers = larger
        records.free_size = records.free_size * 2 + 64
    records.free_numbers[records.free_count] = number
    records.free_count += 1


# ---- records, where there may be no arena

cdef void *record_new(RecordTable table) noexcept nogil:
    """A record of zeros, in the arena if there is one; NULL when there is no memory."""
    return record_take(table) if arena_base != NULL else calloc(1, tables[<int>table].record_bytes)


cdef void record_claim(RecordTable table, const void *record, uint32_t *claim) noexcept nogil:
    """It outlives the process from now on, if it is in the arena; `claim` is its field for its own number."""
    if in_arena(record):
        record_name(claim, record_number(table, record))


cdef void record_free(RecordTable table, void *record) noexcept nogil:
    """Free what `record_new` gave; it is given up, and its rings are empty."""
    if in_arena(record):
        record_return(table, record_number(table, record))
    else:
        free(record)
