"""Files over the transport: `mproxy send` and `mproxy recv`.

Read first: `messages.py`, what the two sides say; then `sender.py` and `receiver.py`, the two sides, and `partial.py`,
what lies on the disk until a file has its name.
"""
