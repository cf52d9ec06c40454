"""Descriptors that other processes read, for which nobody here may wait.

None of these calls releases the GIL, because none of them waits: passing it on, and getting it back from a thread that
has more to do, takes much longer than the call.
"""
