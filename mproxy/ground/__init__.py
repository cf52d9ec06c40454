"""What everybody stands on, one of each: settings and their ranges, errors, what a person wrote, ciphers.

Read first: `config.py`, the numbers that can be set, with their reasons; then `errors.py`, whose fault is what.
"""
