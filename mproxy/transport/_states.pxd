"""The states of a connection and what leads from one to the other.

The table in _states.pyx is all there is: `Connection.move` looks it up and nothing else changes the state. The diagram
in docs/datagram.md is drawn from it.
"""


cpdef enum ConnectionState:
    NEW       # neither `connect` nor `accept` yet
    SYN_SENT  # waiting for SYN-ACK
    SECURING  # handshake messages are exchanged; without keys this takes no time
    OPEN      # streams flow
    DRAINING  # all done on this side; answers the peer's repetitions for 3 timeouts
    CLOSED    # nothing goes in or out


cpdef enum ConnectionCause:
    DIAL      # `connect`
    ACCEPT    # `accept`: a client has shown its cookie
    ANSWER    # the SYN-ACK came
    KEYS      # `secure`, or no keys are needed
    FINISHED  # both streams arrived completely
    GIVE_UP   # `abort`, too many tries, idle, or the peer broke the protocol
    PEER_END  # CLOSE came
    QUIET     # the time of draining is over


cdef enum:
    STATES = 6
    CAUSES = 8


cdef int state_after(ConnectionState state, ConnectionCause cause) noexcept nogil
