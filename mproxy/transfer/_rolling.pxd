"""Finding blocks of one file in another, wherever they are there: Tridgell's rolling sums, as rsync has them.

The receiver sums up its old file block by block (`sums_of`), the sender finds these blocks in the new file at any
offset (`Sketch.find`). A block is recognised by a sum of 32 bits, which rolls on from byte to byte, and then by 32 bits
of SipHash-1-3 under a key that the receiver has drawn. Neither proves anything: whatever is made of blocks of the old
file is hashed as a whole afterwards, as if it had come from the network.
"""
