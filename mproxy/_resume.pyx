"""The end of a peer's RESUME list: _resume.pxd."""

from libc.stdint cimport int32_t

from mproxy._state cimport StreamState, opened_here
from mproxy._stream cimport stream_rewind


cdef Stream *resume_settle(StreamSet streams, const SessionState *lasting, const PeerList *listed) noexcept:
    """Settle streams that the list lacks, from `streams.unlisted` on. Stops at one that the peer has given up, to be
    reset by the caller, who then calls again; NULL: all are settled."""
    cdef Stream *stream
    cdef Stream *following
    cdef StreamState *state
    while streams.unlisted != NULL:
        stream = streams.unlisted
        state = stream.state
        streams.unlisted = <Stream *>stream.in_all.next
        if unknown_to_peer(stream, lasting, listed):
            if state.aborted:
                state.reset_ours = False  # nobody to tell
            elif state.in_done and state.out_done:
                continue  # finished and forgotten there; here the application is still to let go
            elif state.confirmed:
                return stream
            else:
                state.open_due = True
                state.sent = state.out.head
        elif stream.listed_epoch != lasting.epoch:
            stream_rewind(state, 0)
        rejoin(streams, stream)
    following = <Stream *>streams.finished_list.first
    while following != NULL:
        stream = following
        state = stream.state
        following = <Stream *>stream.in_all.next
        if state.aborted and state.reset_ours and not unknown_to_peer(stream, lasting, listed):
            streams.revive(stream)
            rejoin(streams, stream)
    return NULL


cdef void rejoin(StreamSet streams, Stream *stream) noexcept:
    """Let the stream send on the new carrier what is missing, or again a reset that may have been lost."""
    cdef StreamState *state = stream.state
    if state.aborted:
        stream.reset_due = state.reset_ours
        streams.retire_if_finished(stream)
    elif state.peak > state.sent:
        streams.resend_bytes += state.peak - state.sent
    if stream.blocked:
        stream.blocked = False
        streams.space(stream)
    streams.ask_ack(stream)
    streams.transmitter.ready(stream)


cdef bint unknown_to_peer(const Stream *stream, const SessionState *lasting, const PeerList *listed) noexcept nogil:
    """Whether the complete list lacks the stream.

    A client makes its list for this carrier while the former one goes on: so it does not count that the list lacks what
    began on that one later. Of the client's that has come; of ours it has if the client has shown so.
    """
    cdef const StreamState *state = stream.state
    if stream.listed_epoch == lasting.epoch:
        return False
    if opened_here(lasting, state.id):
        return not (lasting.is_server and state.confirmed and state.id > listed.served_id)
    return not lasting.is_server or <int32_t>((state.id - listed.last_id) << 1) <= 0
