"""What everything stands on, one of each: settings and their ranges, errors, parsing of what people write, ciphers,
a hash under a key, the clock, addresses of sockets, lists.

Read first: `config.py`, the settings with their reasons; then `errors.py`, errors by whose fault they are.
"""
