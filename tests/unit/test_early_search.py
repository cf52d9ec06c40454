"""What was found while ssh was at its login is what would be found afterwards."""

import os

import pytest

from mproxy.ground.errors import MproxyError
from mproxy.programs.early_search import EarlySearch
from mproxy.transfer.walk import find_sources


def told(sources):
    return [(source.name, source.same_as, source.kind, source.path) for source in sources]


@pytest.mark.parametrize("renamed", [None, "other"])
def test_as_if_it_had_been_later(tmp_path, renamed):
    top = tmp_path / "t"
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_bytes(b"x")
    os.link(top / "d/f", top / "g")
    os.mkfifo(top / "fifo")
    search = EarlySearch([str(top)], "omit", (), False, False)
    left_out, expected = [], []
    assert search.serves((str(top),), renamed)
    found = search.find(lambda path, why: left_out.append((path, why)), renamed)
    assert told(found) == told(find_sources([str(top)], lambda path, why: expected.append((path, why)),
                                            renamed=renamed))
    assert left_out == expected != []


def test_only_what_was_looked_for(tmp_path):
    search = EarlySearch([str(tmp_path)], "omit", ((False, "*.o"),), False, False)
    assert search.serves([str(tmp_path)], None)
    assert not search.serves([str(tmp_path / "x")], None)
    assert not search.serves([str(tmp_path)], "other"), "patterns see the name"


def test_what_is_not_there(tmp_path):
    search = EarlySearch([str(tmp_path / "none")], "omit", (), False, False)
    with pytest.raises(MproxyError, match="cannot send"):
        search.find(lambda path, why: None, None)
