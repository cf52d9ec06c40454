"""Tests: `unit` without sockets, `sim` in virtual time, `system` with real programs, `meta` about the source itself."""
