"""Fuzz targets: each module has a `check(data)` whose invariant is its first comment. `python -m fuzz` runs one."""
