"""Reliable transfer over an unreliable datagram path: the engine (no clock, no socket), and what carries it."""
