"""The protocol's numbers as Python sees them; their home is _wire.pxd."""
