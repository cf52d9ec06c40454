"""Small files, many in one go: made at the receiver, the GIL released for all of them together.

Files that lie beside each other in a bundle, and in one directory, are made as a group, from the bundle as it has come:
nothing is made of each of them but the file. A file with which anything is out of the ordinary (its name is taken, or
is none that there can be; it cannot be made) is left alone here and reported: it goes the way of larger files, which
finds out what it was.

New files have no name until they are complete: O_TMPFILE, written, synced, read again and compared, and then linked
(linkat(2)), which fails where the name is taken. So nobody else can reach one that is not whole, and what is left of it
when this process dies is nothing. All of a go are written before the first is synced: a journal then commits them
together.
"""
