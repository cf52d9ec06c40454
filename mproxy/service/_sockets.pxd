"""Whose TCP sockets these are: what the kernel tells of one by its two ends (sock_diag(7)), and which process has it.

Written in C's terms: a process may have ten thousand descriptors, and each of them is a link to be read.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<linux/netlink.h>" nogil:
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid

cdef extern from "<linux/inet_diag.h>" nogil:
    struct inet_diag_sockid:
        uint16_t idiag_sport
        uint16_t idiag_dport
        uint32_t idiag_src[4]
        uint32_t idiag_dst[4]
        uint32_t idiag_if
        uint32_t idiag_cookie[2]
    struct inet_diag_req_v2:
        uint8_t sdiag_family
        uint8_t sdiag_protocol
        uint8_t idiag_ext
        uint8_t pad
        uint32_t idiag_states
        inet_diag_sockid id
    struct inet_diag_msg:
        uint8_t idiag_family
        inet_diag_sockid id
        uint32_t idiag_inode


cdef struct SocketQuestion:
    nlmsghdr head              # to whom, and its number
    inet_diag_req_v2 about     # which socket


cdef struct SoughtSocket:
    uint64_t inode       # 0: the place is free
    uint32_t process     # 0: not found yet
