"""Builds one extension module per .pyx file; everything else about the project is in pyproject.toml.

Every build is hardened whatever the Python that builds was made with. What a debugger needs of a release is in
build/release/symbols, not in the modules: `gdb -iex "set debug-file-directory build/release/symbols"`.

MPROXY_DEBUG=1 gives the build for finding bugs: checked indexes, C assertions, no optimisation. C files and objects of
the two builds live apart, in build/release and build/debug. MPROXY_SANITIZE=1 adds AddressSanitizer and
UndefinedBehaviorSanitizer to it, MPROXY_SANITIZE=fuzz also what a fuzzer sees of the way through the code; .ci/asan
builds these in a place of their own.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("MPROXY_SANITIZE", "")
DEBUG = os.environ.get("MPROXY_DEBUG") == "1" or bool(SANITIZE)
BUILD = "build/debug" if DEBUG else "build/release"

COMPILER = (os.environ.get("CC") or sysconfig.get_config_var("CC")).split()


def compiles(*flags, source="int main(void) { return 0; }\n"):
    """Whether the compiler takes `flags`, without a word, for a C program."""
    tried = subprocess.run([*COMPILER, *flags, "-Werror", "-x", "c", "-c", "-", "-o", os.devnull], input=source,
                           capture_output=True, text=True)
    return tried.returncode == 0


# What hardens: canaries on the stack, checked string and memory functions, and on x86 jumps that land where they may.
# Level 3 of the second knows more sizes than level 2, and needs gcc 12 and glibc 2.35.
HARDENED = ["-fstack-protector-strong"]
HARDENED += ["-fcf-protection"] if platform.machine() in ("x86_64", "i686") and compiles("-fcf-protection") else []
FORTIFIED = ["-U_FORTIFY_SOURCE"]
FORTIFIED += [next((level for level in ("-D_FORTIFY_SOURCE=3", "-D_FORTIFY_SOURCE=2")
                    if compiles("-O2", "-U_FORTIFY_SOURCE", level, source="#include <string.h>\n")),
                   "-D_FORTIFY_SOURCE=2")]

# Python's own flags come first and win nothing: the last -O, -D or -U counts. Extensions are one C file each, so
# link-time optimisation has nothing to do. _FORTIFY_SOURCE only warns without optimisation.
FLAGS = ["-fno-strict-aliasing", "-Wno-unused-function", "-g", *HARDENED]
FLAGS += ["-O0", "-UNDEBUG", "-U_FORTIFY_SOURCE"] if DEBUG else ["-O3", *FORTIFIED]
# The table of other libraries' functions is filled at the start and read-only from then on.
LINK_FLAGS = ["-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"]
if SANITIZE:
    sanitizers = ["-fsanitize=address,undefined"]
    LINK_FLAGS += sanitizers
    FLAGS += [*sanitizers, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1"]
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
NEED_OPENSSL = ["mproxy/carrier/_tls.pyx", "mproxy/carrier/_container.pyx", "mproxy/carrier/_records.pyx",
                "mproxy/ground/_aead.pyx", "mproxy/ground/_curves.pyx"]
# The one that computes AES-GCM with Intel's Multi-Buffer Crypto library, where there is one.
WANTS_IPSEC_MB = "mproxy/ground/_aead.pyx"


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
    return subprocess.run([*COMPILER, "-E", "-"], input=tried, capture_output=True, text=True).returncode == 0


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

PROGRESS_LOCK = threading.Lock()

# The one program that is no Python: it starts `mproxy ssh`, `mproxy connect` and `mproxy copy`.
QUICK_START = Path("mproxy/programs/quick-start")
QUICK_SOURCES = [QUICK_START.with_name(name) for name in (
    "quick_start.c", "quick_copy.c", "quick_login.c", "quick_text.c", "quick.h")]


class BuildExtensions(build_ext):
    """Keeps what a debugger needs of a release apart, nine tenths of a module's size, and tells how far it is."""

    def run(self):
        """Build all modules, and the program."""
        super().run()
        place = Path() if self.inplace else Path(self.build_lib)
        build_program(self.compiler, QUICK_SOURCES, place / QUICK_START, self.force)

    def get_outputs(self):
        """The program, too."""
        return [*super().get_outputs(), str(Path(self.build_lib, QUICK_START))]

    def build_extension(self, extension):
        """Build one module, and split it."""
        super().build_extension(extension)
        with PROGRESS_LOCK:
            self.built = getattr(self, "built", 0) + 1
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{self.built} of {len(self.extensions)} modules\033[K")
                sys.stderr.write("\n" if self.built == len(self.extensions) else "")
                sys.stderr.flush()
        if not DEBUG and shutil.which("objcopy"):
            keep_symbols_apart(Path(self.get_ext_fullpath(extension.name)), extension.name)


def build_program(compiler, sources, program, force):
    """Build a program of C files, if it is not up to date. Without sanitizers: it frees nothing on purpose."""
    if not force and program.exists() and program.stat().st_mtime >= max(path.stat().st_mtime for path in sources):
        return
    flags = [flag for flag in FLAGS if not flag.startswith(("-fsanitize", "-fno-sanitize"))]
    objects = compiler.compile([str(path) for path in sources if path.suffix == ".c"], output_dir=BUILD,
                               extra_postargs=[*flags, "-fPIE"])
    program.parent.mkdir(parents=True, exist_ok=True)
    compiler.link_executable(objects, str(program), extra_postargs=[
        "-pie", *(flag for flag in LINK_FLAGS if not flag.startswith("-fsanitize"))])
    if not DEBUG and shutil.which("objcopy"):
        subprocess.run(["objcopy", "--strip-all", program], check=True)


def keep_symbols_apart(module, name):
    """Move what a debugger needs of a built module into the directory for symbols, and leave a link to it."""
    symbols = Path(BUILD, "symbols", f"{name}.debug")
    if symbols.exists() and symbols.stat().st_mtime >= module.stat().st_mtime:
        return  # the module was up to date
    symbols.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["objcopy", "--only-keep-debug", module, symbols], check=True)
    subprocess.run(["objcopy", "--strip-unneeded", f"--add-gnu-debuglink={symbols}", module], check=True)
    os.utime(symbols)


setup(
    ext_modules=cythonize(
        list(extensions()),
        build_dir=BUILD,
        compiler_directives=DIRECTIVES,
        nthreads=2,
    ),
    cmdclass={"build_ext": BuildExtensions},
    options={"build": {"build_base": BUILD}, "build_ext": {"parallel": 2}},
)
