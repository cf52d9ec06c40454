"""python -m fuzz TARGET [libFuzzer's words]: hammers one target, guided by what its inputs reach.

Run it through `make fuzz`, or .ci/asan, which builds the extensions with sanitizers and coverage and names the places:
what is found new goes to build/fuzz/found/TARGET, an input that breaks the invariant to a file that the last lines
name. With that file behind TARGET it is run again.
"""

import ctypes
import importlib
import sys

import atheris


def main():
    """Fuzz until libFuzzer has enough; it ends the process."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["mproxy", "fuzz"]):
        target = importlib.import_module(f"fuzz.{name}")
    libfuzzer = importlib.import_module("atheris.core_with_libfuzzer").__file__
    preloaded = ctypes.CDLL(None)
    if hasattr(preloaded, "edges_start") and not preloaded.edges_start(libfuzzer.encode()):
        sys.exit("fuzz: the extensions' coverage found no libFuzzer to tell")
    atheris.Setup([sys.argv[0], *options], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
