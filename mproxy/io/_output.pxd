"""Descriptors that others read, whom nobody here may wait for.

None of these calls releases the GIL, for none of them waits: to pass it on, and to get it back from a thread that has
more to do, takes much longer than the call.
"""
