"""What everything stands on, one of each: settings and their ranges, errors, parsing of what people write, ciphers.

Read first: `config.py`, the settings with their reasons; then `errors.py`, errors by whose fault they are.
"""
