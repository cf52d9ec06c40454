"""System calls for an arriving file.

The os module releases the GIL for each call, and another thread then holds it until that one waits for something. For a
small file that is far longer than all its calls take; so calls that belong together are made in one go.

Two of them bypass the C library. Where the file system cannot reserve space posix_fallocate(3) writes to each block:
that is slow, and while other threads write to the same file it may overwrite with zeros what they have just written.
And older libraries lack renameat2(2).
"""
