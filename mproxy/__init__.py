"""mproxy keeps TCP connections alive while the address under them changes."""

__version__ = "0.1.0"
