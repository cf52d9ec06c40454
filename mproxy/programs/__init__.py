"""Command lines and wiring: each program is an observer of what happens below, and says so in its log.

Read first: `start.py`, where every program begins and ends; then `cproxy.py` and `sproxy.py`.
"""
