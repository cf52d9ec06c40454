"""Going on with what the worker before this one has left of a session: its streams, and applications that nobody had
noted yet. What becomes of each: _adopt.pxd."""
