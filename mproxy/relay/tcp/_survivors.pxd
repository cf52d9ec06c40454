"""Pairs of the worker that died: found by their records, checked, and named for the next one.

Nothing here is for C: whoever begins a worker asks once, from Python (relay/inheritance.py).
"""
