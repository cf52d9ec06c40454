"""`mproxy web`: a page for people, made of what the running programs say on their control sockets.

Read first: `board.py`, what is known of every program, and since when; then `lookout.py`, who asks them, `gate.py`, who
is let in, and `routes.py`, what a browser can ask for. The page itself lies in `page/`.
"""
