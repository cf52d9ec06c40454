"""How many descriptors this process has open."""

import gc
import os


def open_descriptors():
    """Without those of garbage, which may go at any moment."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
