"""Runs cproxy or sproxy and counts every call of a Python function while it works.

usage: count_calls.py COUNT_FILE PROGRAM [arguments of the program]

COUNT_FILE holds the number as 64 bits in the machine's byte order, kept up to date, so that a test can look at it
while the program runs. Cython functions do not count; a Python function that Cython calls does.
"""

import importlib
import mmap
import sys
import threading


def main(count_file, program, *arguments):
    with open(count_file, "wb+") as file:
        file.truncate(8)
        calls = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    def profile(frame, event, argument):
        if event == "call":
            calls[0] += 1

    entry = importlib.import_module(f"mproxy.programs.{program}").main
    sys.argv = [program, *arguments]
    threading.setprofile(profile)
    sys.setprofile(profile)
    sys.exit(entry())


if __name__ == "__main__":
    main(*sys.argv[1:])
