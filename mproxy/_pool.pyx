"""Storage for rings. Why not malloc(3) alone: _pool.pxd."""

from libc.stdlib cimport free, realloc

from mproxy.ground._arena cimport RECORD_CHUNKS, arena_base, arena_bytes, arena_punch


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **out, size_t alignment, size_t size)

cdef extern from *:
    """
    #ifdef __GLIBC__
    #include <malloc.h>
    #else
    #define malloc_trim(pad) ((void)(pad))
    #endif
    """
    void malloc_trim(size_t pad) nogil

cdef extern from "<sys/mman.h>" nogil:
    int MADV_DONTNEED
    int madvise(void *start, size_t length, int advice)


cdef enum:
    SIZE_CLASSES = 20             # 4 KiB << 19 = 2 GiB: above the largest window
    KEPT_BYTES = 2097152          # unused memory that is kept: a ring for each of 512 short requests
    BULK_BLOCK_BYTES = 65536      # a block this large is a bulk stream's, which are returned many at a time;
    BULK_KEPT_BYTES = 33554432    # of these this much more is kept,
    KEPT_PART = 16                # but at most one part in this many of the limit
    CHUNK_BLOCK_BYTES = 524288    # largest block that is cut from a chunk; larger ones malloc maps by themselves
    HEAP_BYTES = 1048576          # freed since the last trim: enough to have the allocator look, which takes time
    CHUNK_BYTES = CHUNK_PAGES * MIN_BLOCK_BYTES


cdef struct Stack:
    uint32_t *blocks  # unused blocks
    uint32_t count    # entries
    uint32_t size     # room for entries


cdef struct SizeClass:
    Stack warm       # with their memory
    Stack cold       # address ranges without memory
    uint32_t fresh   # rest of the newest chunk, never used
    size_t fresh_bytes  # its length


cdef SizeClass classes[SIZE_CLASSES]
cdef bint from_arena = False      # whence chunks come
cdef uint32_t largest_cut = CHUNK_BLOCK_BYTES  # in the arena all blocks that fit into a chunk are cut
cdef uint32_t next_chunk = 1      # chunks from here on were never used
cdef Stack free_chunks            # chunks that were, by the numbers of their first pages
cdef size_t kept_bytes = 0
cdef size_t least_kept_bytes = 0  # least since the last trim: this much was not needed
cdef size_t heap_bytes = 0        # given to free(3) since the last trim: glibc keeps what lies below something in use
cdef size_t lent_bytes = 0
cdef int64_t charged_bytes = 0    # for records that are not rings
cdef size_t limit_bytes = <size_t>-1
cdef size_t bulk_kept_bytes = BULK_KEPT_BYTES  # the limit taken into account
cdef size_t session_bytes = 0     # promised to every session
cdef size_t promised_bytes = 0    # to all sessions together, including future ones, less what they hold of it


cdef inline bint push(Stack *stack, uint32_t block) noexcept nogil:
    """False when there is no memory for the entry."""
    cdef uint32_t *larger
    if stack.count == stack.size:
        larger = <uint32_t *>realloc(stack.blocks, (stack.size * 2 + 64) * sizeof(uint32_t))
        if larger == NULL:
            return False
        stack.blocks = larger
        stack.size = stack.size * 2 + 64
    stack.blocks[stack.count] = block
    stack.count += 1
    return True


cdef inline uint32_t pop(Stack *stack) noexcept nogil:
    """The entry pushed last; 0 when there is none."""
    if stack.count == 0:
        return 0
    stack.count -= 1
    return stack.blocks[stack.count]


cdef inline SizeClass *class_of(uint32_t size) noexcept nogil:
    cdef int n = 0
    while (<uint32_t>MIN_BLOCK_BYTES << n) < size:
        n += 1
    return &classes[n]


cdef uint32_t pool_take(uint32_t size) noexcept nogil:
    """Return a block of `size` bytes (a power of two, MIN_BLOCK_BYTES at least), or 0 when there is no memory."""
    global kept_bytes, least_kept_bytes, lent_bytes
    cdef SizeClass *of_size = class_of(size)
    cdef uint32_t block = pop(&of_size.warm)
    if block != 0:
        kept_bytes -= size
        if kept_bytes < least_kept_bytes:
            least_kept_bytes = kept_bytes
    else:
        block = pop(&of_size.cold)
        if block == 0:
            block = new_chunk(size) if size > largest_cut else cut_fresh(of_size, size)
    if block != 0:
        lent_bytes += size
    return block


cdef uint32_t new_chunk(size_t size) noexcept nogil:
    """Get `size` bytes from the system; the number of their first page, or 0."""
    global next_chunk
    cdef uint32_t first
    cdef void *chunk
    if from_arena:
        return chunk_of_arena(size)
    first = pop(&free_chunks)
    if first == 0:
        if next_chunk == MOST_CHUNKS:
            return 0
        first = next_chunk * CHUNK_PAGES
        next_chunk += 1
    if posix_memalign(&chunk, MIN_BLOCK_BYTES, size) != 0:
        push(&free_chunks, first)
        return 0
    chunks[first // CHUNK_PAGES] = <uint8_t *>chunk
    return first


cdef uint32_t chunk_of_arena(size_t size) noexcept nogil:
    """The same there; a block larger than a chunk has several."""
    global next_chunk
    cdef uint32_t count = <uint32_t>((size + CHUNK_BYTES - 1) // CHUNK_BYTES), first = 0
    if count == 1:
        first = pop(&free_chunks)
    if first == 0:
        if next_chunk + count > arena_bytes // CHUNK_BYTES:
            return 0
        first = next_chunk * CHUNK_PAGES
        open_chunks(next_chunk + count)
    return first


cdef void open_chunks(uint32_t end) noexcept nogil:
    """Use the arena's chunks below `end`."""
    global next_chunk
    while next_chunk < end:
        chunks[next_chunk] = arena_base + <size_t>next_chunk * CHUNK_BYTES
        next_chunk += 1


cdef uint32_t cut_fresh(SizeClass *of_size, uint32_t size) noexcept nogil:
    cdef uint32_t block
    if of_size.fresh_bytes < size:
        of_size.fresh = new_chunk(CHUNK_BYTES)
        of_size.fresh_bytes = CHUNK_BYTES if of_size.fresh != 0 else 0
        if of_size.fresh == 0:
            return 0
    block = of_size.fresh
    of_size.fresh += size // MIN_BLOCK_BYTES
    of_size.fresh_bytes -= size
    return block


cdef void pool_return(uint32_t block, uint32_t size) noexcept nogil:
    """Take back a block that `pool_take` gave for the same size."""
    global kept_bytes, lent_bytes
    cdef SizeClass *of_size = class_of(size)
    cdef size_t most = bulk_kept_bytes if size >= BULK_BLOCK_BYTES else <size_t>KEPT_BYTES
    lent_bytes -= size
    if kept_bytes + size <= most and push(&of_size.warm, block):
        kept_bytes += size
    else:
        give_back(of_size, block, size)


cdef void give_back(SizeClass *of_size, uint32_t block, uint32_t size) noexcept nogil:
    """Return a block's memory to the system; without room for the entry only its address range is lost."""
    global heap_bytes
    if from_arena:
        arena_punch(pool_at(block), size)
        push(&of_size.cold, block)
    elif size > CHUNK_BLOCK_BYTES:
        free(pool_at(block))
        chunks[block // CHUNK_PAGES] = NULL
        heap_bytes += size
        push(&free_chunks, block)
    else:
        madvise(pool_at(block), size, MADV_DONTNEED)
        push(&of_size.cold, block)


cdef void pool_trim() noexcept nogil:
    """Give back what was not needed since the last call; call it every second or so."""
    global kept_bytes, least_kept_bytes, heap_bytes
    cdef size_t surplus = least_kept_bytes
    cdef uint32_t size
    cdef int n
    for n in range(SIZE_CLASSES):
        size = <uint32_t>MIN_BLOCK_BYTES << n
        while surplus >= size and classes[n].warm.count > 0:
            give_back(&classes[n], pop(&classes[n].warm), size)
            kept_bytes -= size
            surplus -= size
    least_kept_bytes = kept_bytes
    if heap_bytes >= HEAP_BYTES:
        heap_bytes = 0
        malloc_trim(0)


cdef size_t pool_lent_bytes() noexcept nogil:
    """Bytes that rings hold now."""
    return lent_bytes


cdef size_t pool_kept_bytes() noexcept nogil:
    """Bytes of unused memory kept for the next ring."""
    return kept_bytes


cdef void pool_set_limit(size_t limit) noexcept nogil:
    """Set what rings and records may hold together from now on."""
    global limit_bytes, bulk_kept_bytes
    limit_bytes = limit
    bulk_kept_bytes = min(<size_t>BULK_KEPT_BYTES, limit // KEPT_PART)


cdef void pool_charge(int64_t size) noexcept nogil:
    """Enter a record of `size` bytes; a negative size when it is gone."""
    global charged_bytes, heap_bytes
    charged_bytes += size
    if size < 0:
        heap_bytes += <size_t>-size


cdef size_t pool_free_bytes() noexcept nogil:
    """What is left of the limit; 0 when it is exceeded."""
    cdef size_t used = lent_bytes + <size_t>charged_bytes + promised_bytes
    return limit_bytes - used if used < limit_bytes else 0


cdef size_t pool_session_bytes() noexcept nogil:
    """What a session may hold now: what it was promised, and on top of that as much as is free."""
    return session_bytes + pool_free_bytes()


cdef size_t pool_redeem(size_t held, size_t before) noexcept nogil:
    """Enter how much of its promise a session of `held` bytes has used; returns it. `before`: the last result."""
    global promised_bytes
    cdef size_t redeemed = held if held < session_bytes else session_bytes
    promised_bytes += before - redeemed
    return redeemed


# ---- the arena

cdef bint pool_has_begun() noexcept nogil:
    """Whether there are chunks already."""
    return next_chunk != 1


cdef void pool_use_arena() noexcept nogil:
    """Take all chunks from there; before there are any."""
    global from_arena, largest_cut, next_chunk
    from_arena = True
    largest_cut = CHUNK_BYTES
    next_chunk = RECORD_CHUNKS


cdef void pool_recover(const PoolClaim *claims, size_t count) noexcept nogil:
    """Begin with these blocks lent, in their order, and nothing else; all other memory goes back to the system.

    The blocks of one chunk have one size.
    """
    global lent_bytes
    cdef uint32_t page = RECORD_CHUNKS * CHUNK_PAGES, size
    cdef size_t i
    for i in range(count):
        punch_pages(page, claims[i].block)
        page = claims[i].block + claims[i].size // MIN_BLOCK_BYTES
        lent_bytes += claims[i].size
    punch_pages(page, <uint32_t>(arena_bytes // MIN_BLOCK_BYTES))
    open_chunks((page + CHUNK_PAGES - 1) // CHUNK_PAGES)
    i = 0
    page = RECORD_CHUNKS * CHUNK_PAGES
    while page < next_chunk * CHUNK_PAGES:
        if i == count or claims[i].block >= page + CHUNK_PAGES:
            push(&free_chunks, page)
            page += CHUNK_PAGES
            continue
        size = claims[i].size
        while True:
            if i < count and claims[i].block == page:
                i += 1
            else:
                push(&class_of(size).cold, page)
            page += size // MIN_BLOCK_BYTES
            if page % CHUNK_PAGES == 0:
                break


cdef void punch_pages(uint32_t first, uint32_t end) noexcept nogil:
    if first < end:
        arena_punch(arena_base + <size_t>first * MIN_BLOCK_BYTES, <size_t>(end - first) * MIN_BLOCK_BYTES)


# ---- for Python

def limit_memory(size_t limit, size_t sessions=0, size_t each=0):
    """Set what rings and records may hold together, in bytes, and how much of it is promised to `each` of the sessions.

    To be called before there are sessions.
    """
    global session_bytes, promised_bytes
    pool_set_limit(limit)
    session_bytes = each
    promised_bytes = sessions * each
