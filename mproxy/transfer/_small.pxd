"""Small files, many in one go: read at the sender, the GIL released for all of them together.

A file with which anything is out of the ordinary (it has changed, has grown, cannot be read) is left alone here and
reported: it goes the way of larger files, which finds out what it was.
"""
