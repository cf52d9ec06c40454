"""Clones the worker, as fork(2) would, but so that both processes have one table of descriptors (CLONE_FILES): none
closes when the worker dies, and what it accepts the next one has, too."""
