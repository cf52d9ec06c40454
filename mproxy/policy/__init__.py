"""Decisions, one in each file: when to dial and where, whom to trust, who may have how much, who we are.

Read first: `reconnect.py`, when a carrier is in doubt; then `dialer.py`, `attempt.py` and `candidate.py`, how the next
one is found; `via_dialer.py`, how by a command.
"""
