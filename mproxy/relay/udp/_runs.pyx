"""Trains of equal packets.

A train's packets have one length, and only the last may be shorter; so a message may be followed by another one of the
same segment as long as it ends with a full packet. Order is kept. An empty packet cannot be part of a train.
"""


cdef inline uint32_t segments(const Piece *piece) noexcept nogil:
    return (piece.length + piece.segment - 1) // piece.segment


cdef void run_next(const Piece *pieces, int count, uint32_t segment_limit, Run *out) noexcept nogil:
    """How many of the `count` (> 0) pieces, from the first on, can leave as one train; its segment is below the limit.

    A piece that came as a train is never split for RUN_BYTES or RUN_SEGMENTS: the same kernel will take it again.
    """
    cdef const Piece *piece = pieces
    cdef uint32_t segment = piece.segment, length, total
    out.pieces = 1
    out.segment = segment if piece.length > segment else 0
    out.one_by_one = False
    if segment == 0:
        return
    if segment >= segment_limit:
        out.one_by_one = out.segment != 0
        return
    length = piece.length
    total = segments(piece)
    while out.pieces < count and length % segment == 0:
        piece = &pieces[out.pieces]
        # Either its packets are of this segment, or it is the last and shorter packet.
        if piece.length == 0 or piece.segment > segment or (piece.segment < segment and piece.length != piece.segment):
            return
        length += piece.length
        total += 1 if piece.segment < segment else segments(piece)
        if length > RUN_BYTES or total > RUN_SEGMENTS:
            return
        out.pieces += 1
        out.segment = segment
