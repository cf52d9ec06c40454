"""A program that outlives its own death: the keeper, which was started, and its worker, which does everything.

Read first: `keeper.py`.
"""
