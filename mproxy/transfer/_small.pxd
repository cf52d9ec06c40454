"""Small files, many in one go: read at the sender, made at the receiver, the GIL released for all of them together.

A file with which anything is out of the ordinary (it has changed, has grown, cannot be read, its name is taken) is left
alone here and reported: it goes the way of larger files, which finds out what it was.

New files have no name until they are complete: O_TMPFILE, written, synced, read again and compared, and then linked
(linkat(2)), which fails where the name is taken. So nobody else can reach one that is not whole, and what is left of it
when this process dies is nothing. All of a go are written before the first is synced: a journal then commits them
together.
"""
