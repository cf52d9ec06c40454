"""What is in a directory, for the search of a tree: its names, and what they are, in one go for many of them.

Nearly all of a large tree are small files with one name each. They are not told one by one, but as runs: from which
name to which, and their sizes. So nothing is made of each of them but its name.
"""
