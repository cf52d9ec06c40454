"""Overwriting secrets where they lie."""
