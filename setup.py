"""Builds one extension module per .pyx file; everything else about the project is in pyproject.toml.

MPROXY_DEBUG=1 gives the build for finding bugs: checked indexes, C assertions, no optimisation. C files and objects of
the two builds live apart, in build/release and build/debug. MPROXY_SANITIZE=1 adds AddressSanitizer and
UndefinedBehaviorSanitizer to it, MPROXY_SANITIZE=fuzz also what a fuzzer sees of the way through the code; .ci/asan
builds these in a place of their own.
"""

import os
import subprocess
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("MPROXY_SANITIZE", "")
DEBUG = os.environ.get("MPROXY_DEBUG") == "1" or bool(SANITIZE)
BUILD = "build/debug" if DEBUG else "build/release"

# Python's own flags come first and win nothing: the last -O, -D or -U counts. Extensions are one C file each, so
# link-time optimisation has nothing to do. _FORTIFY_SOURCE only warns without optimisation.
FLAGS = ["-fno-strict-aliasing", "-Wno-unused-function"]
FLAGS += ["-O0", "-g", "-UNDEBUG", "-U_FORTIFY_SOURCE"] if DEBUG else ["-O3"]
LINK_FLAGS = []
if SANITIZE:
    LINK_FLAGS = ["-fsanitize=address,undefined"]
    FLAGS += [*LINK_FLAGS, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1"]
if SANITIZE == "fuzz":
    FLAGS += ["-fsanitize-coverage=trace-pc,trace-cmp"]

# Division is C's in both builds: a debug build must not compute something else.
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "overflowcheck": False,
}

# Modules that are linked with OpenSSL: all others build without it.
NEED_OPENSSL = ["mproxy/net/_tls.pyx", "mproxy/net/_records.pyx", "mproxy/net/_aead.pyx"]
# The one that computes AES-GCM with Intel's Multi-Buffer Crypto library, where there is one.
WANTS_IPSEC_MB = "mproxy/net/_aead.pyx"


def openssl_keywords():
    """What pkg-config says about OpenSSL, as keywords of Extension."""
    asked = ["pkg-config", "--cflags-only-I", "--libs", "openssl >= 3.0"]
    try:
        words = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        sys.exit("setup.py: OpenSSL 3.0 or newer with its headers, and pkg-config, are needed to build mproxy\n"
                 "setup.py: on Debian and Ubuntu: sudo apt-get install libssl-dev pkg-config")
    def after(prefix):
        return [word[2:] for word in words if word.startswith(prefix)]
    return {"include_dirs": after("-I"), "library_dirs": after("-L"), "runtime_library_dirs": after("-L"),
            "libraries": after("-l")}


def has_ipsec_mb():
    """Whether the compiler finds that library's header, and knows the processor it is for."""
    tried = "#ifndef __x86_64__\n#error\n#endif\n#include <intel-ipsec-mb.h>\n"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC")).split()
    return subprocess.run([*compiler, "-E", "-"], input=tried, capture_output=True, text=True).returncode == 0


def extensions():
    """One extension for each .pyx; the pattern leaves out what is named."""
    openssl = openssl_keywords()
    for path in NEED_OPENSSL:
        name = path.removesuffix(".pyx").replace("/", ".")
        extension = Extension(name, [path], extra_compile_args=FLAGS, extra_link_args=LINK_FLAGS, **openssl)
        if path == WANTS_IPSEC_MB and has_ipsec_mb():
            extension.define_macros.append(("MPROXY_IPSEC_MB", None))
            extension.libraries.append("IPSec_MB")
        yield extension
    patterns = os.environ.get("MPROXY_MODULES", "mproxy/**/*.pyx").split()
    for pattern in patterns:  # of several in one Extension only the first is a pattern
        yield Extension("*", [pattern], extra_compile_args=FLAGS, extra_link_args=LINK_FLAGS)


setup(
    ext_modules=cythonize(
        list(extensions()),
        build_dir=BUILD,
        compiler_directives=DIRECTIVES,
        nthreads=2,
    ),
    options={"build": {"build_base": BUILD}, "build_ext": {"parallel": 2}},
)
