"""System calls for a file that arrives.

The os module releases the GIL for each call, and other threads have it until they wait for something. For a small file
that is far more time than all its calls take; so calls that belong together are made in one go.

Two of them pass the C library by. posix_fallocate(3) writes to each block where the file system cannot reserve: that is
slow, and beside other threads that write the same file it may put zeros in the place of what they have just written.
And older libraries do not have renameat2(2).
"""
