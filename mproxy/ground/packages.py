"""Python packages that not every program needs, and not every host has: imported when they are used.

The launchers start Python without site-packages, which saves time; who needs a package adds them.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module

from mproxy.ground.errors import MproxyError

# As pip writes them; pyproject.toml has the same.
KEYS = ("cryptography>=41",)
CODES = ("spake2>=0.9,<1",)
BLAKE3 = ("blake3>=0.4,<2",)
COMPRESSION = ("zstandard>=0.20,<1",)  # before Python 3.14, which has it
METRICS = ("prometheus-client>=0.16,<1",)
WEB = ("starlette>=0.40,<2", "uvicorn>=0.30,<1")


def import_packages(requirements: tuple[str, ...]) -> None:
    """Have these packages imported; MproxyError says how to install them."""
    names = [re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements]
    try:
        _import_all(names)
    except ImportError:
        import site
        site.main()
        try:
            _import_all(names)
        except ImportError as error:
            wanted = " ".join(f"'{requirement}'" for requirement in requirements)
            raise MproxyError(f"the Python package '{error.name or error}' is missing; to install what is needed:"
                              f" {sys.executable} -m pip install {wanted}") from None


def _import_all(names: list[str]) -> None:
    for name in names:
        import_module(name)
