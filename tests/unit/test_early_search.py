"""What was found while ssh was at its login is what would be found afterwards."""

import os

import pytest

from mproxy.programs.early_search import EarlySearch
from mproxy.programs.transfer_config import TransferConfig
from tests.unit.test_search import Soon, all_of
from tests.walked import find_sources


def told(sources):
    return [(source.name, source.same_as, source.kind, source.path) for source in sources]


@pytest.mark.parametrize("renamed", [None, "other"])
def test_as_if_it_had_been_later(tmp_path, renamed):
    top = tmp_path / "t"
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_bytes(b"x")
    os.link(top / "d/f", top / "g")
    os.mkfifo(top / "fifo")
    config = TransferConfig(port=1, paths=(str(top),), renamed=renamed)
    search = EarlySearch(Soon(), config, config.paths)
    left_out, expected = [], []
    assert search.serves(config)
    sources = search.sources(renamed)
    sources.on_left_out = lambda path, why: left_out.append((path, why))
    assert told(all_of(sources)) == told(find_sources(
        [str(top)], lambda path, why: expected.append((path, why)), renamed=renamed))
    sources.tell_left_out()
    assert left_out == expected != []


def test_only_what_was_looked_for(tmp_path):
    config = TransferConfig(port=1, paths=(str(tmp_path),), rules=((False, "*.o"),))
    search = EarlySearch(Soon(), config, config.paths)
    assert search.serves(config)
    assert not search.serves(config.replace(paths=(str(tmp_path / "x"),)))
    assert not search.serves(config.replace(renamed="other")), "patterns see the name"
    search.close()
