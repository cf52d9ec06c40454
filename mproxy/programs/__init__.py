"""Command lines and wiring: each program observes what happens in the layers below, and logs it.

Read first: `start.py`, where every program begins and ends; then `cproxy.py` and `sproxy.py`.
"""
