"""What tests, fuzzers and benchmarks drive the core with: Cython modules that show Python what only C sees otherwise.

`make drivers` builds them; no wheel holds them. Read first: `_pysession.pyx`, a session whose carrier is bytes.
"""

from pathlib import Path

if not list(Path(__file__).parent.glob("*.so")):
    raise ImportError("the test drivers are not built: make drivers")
