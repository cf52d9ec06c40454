"""Builds one extension module per .pyx file; everything else about the project is in pyproject.toml.

MPROXY_DEBUG=1 gives the build for finding bugs: checked indexes, C assertions, no optimisation. C files and objects of
the two builds live apart, in build/release and build/debug.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("MPROXY_DEBUG") == "1"
BUILD = "build/debug" if DEBUG else "build/release"

# Python's own flags come first and win nothing: the last -O, -D or -U counts. Extensions are one C file each, so
# link-time optimisation has nothing to do. _FORTIFY_SOURCE only warns without optimisation.
FLAGS = ["-fno-strict-aliasing", "-Wno-unused-function"]
FLAGS += ["-O0", "-g", "-UNDEBUG", "-U_FORTIFY_SOURCE"] if DEBUG else ["-O3"]

# Division is C's in both builds: a debug build must not compute something else.
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "overflowcheck": False,
}

setup(
    ext_modules=cythonize(
        Extension("*", ["mproxy/**/*.pyx"], extra_compile_args=FLAGS),
        build_dir=BUILD,
        compiler_directives=DIRECTIVES,
        nthreads=2,
    ),
    options={"build": {"build_base": BUILD}, "build_ext": {"parallel": 2}},
)
