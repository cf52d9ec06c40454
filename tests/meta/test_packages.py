"""Packages that single programs need: what an error says is to be installed is what pyproject.toml has, and tests have
it, too; and there is one way to look for them."""

import re
import sys
import tomllib

import pytest

from mproxy.ground import packages
from mproxy.ground.errors import MproxyError
from tests.meta.sources import ROOT, source_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_lists_agree():
    extras = PROJECT["project"]["optional-dependencies"]
    assert extras == {"blake3": [*packages.BLAKE3], "codes": [*packages.CODES], "compress": [*packages.COMPRESSION],
                      "metrics": [*packages.METRICS], "web": [*packages.WEB]}
    assert PROJECT["project"]["dependencies"] == [*packages.KEYS]
    assert {*packages.BLAKE3, *packages.CODES, *packages.COMPRESSION, *packages.METRICS, *packages.WEB} <= {
        *PROJECT["dependency-groups"]["dev"]}


def test_no_other_list_is_kept():
    """Not in setup.py, and not in the text of an error."""
    names = [re.split("[^a-z0-9-]", requirement)[0]
             for requirement in (*packages.KEYS, *packages.BLAKE3, *packages.CODES, *packages.COMPRESSION,
                                 *packages.METRICS, *packages.WEB)]
    for path in [ROOT / "setup.py", *source_files(".py", ".pyx")]:
        if path.name != "packages.py":
            text = path.read_text()
            assert "site.main" not in text and "pip install" not in text, path
            assert not [name for name in names if re.search(rf"\b{name}[><=]", text)], path


def test_what_is_missing_is_named_with_all_that_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MproxyError, match=r"'uvicorn' is missing.* -m pip install 'starlette>=\S+' 'uvicorn>=\S+'$"):
        packages.import_packages(packages.WEB)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MproxyError, match="-m pip install 'cryptography>=41'"):
        packages.import_packages(packages.KEYS)
