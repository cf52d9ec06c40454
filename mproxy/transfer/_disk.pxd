"""Room on a disk, by the system's own call alone.

posix_fallocate(3) writes to each block where the file system cannot reserve. That is slow, and beside other threads
that write the same file it may put zeros in the place of what they have just written.
"""
