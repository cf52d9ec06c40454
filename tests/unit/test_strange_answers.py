"""mproxy status, kill, wait and top among programs that give unexpected answers: those of another release, or of a
user who wants to hide something from root."""

import pytest

from mproxy.programs import status_commands
from mproxy.programs.top_table import TopTable
from mproxy.service.survey import Surveyed

GOOD = {"program": "recv", "name": "inbox", "state": "running", "uptime_s": 7.0, "listening": ["[::]:7000"],
        "transfers": []}
BEGUN = {"program": "cproxy", "name": "odd", "state": "running", "uptime_s": 1.0, "listening": []}
STRANGE = {
    "no name": {}, "a number": {"name": 5}, "no sessions": BEGUN, "a name alone": {"name": "odd"},
    "an older session": BEGUN | {"sessions": [{"session": "4f2a91c0", "state": "connected", "peer": "server:6200"}]},
    "no list": BEGUN | {"sessions": 3}, "a session of text": BEGUN | {"sessions": ["4f2a91c0"]},
    "a list as name": BEGUN | {"sessions": [{"session": [], "state": "connected"}]},
    "a time of text": GOOD | {"name": "odd", "uptime_s": "x"},
    "a time without end": GOOD | {"name": "odd", "uptime_s": float("inf")},
    "half a transfer": GOOD | {"name": "odd", "transfers": [{}]},
    "half a relay": BEGUN | {"program": "relay", "rules": 3}}


@pytest.fixture(params=STRANGE.values(), ids=STRANGE)
def strange(request, monkeypatch):
    """A strange program and a good one are running."""
    answers = {"/strange": request.param, "/good": GOOD}
    monkeypatch.setattr(status_commands, "survey", lambda _patience_s, **_more: [
        Surveyed("cproxy", 1, "/strange", 0, dict(answers["/strange"])),
        Surveyed("recv", 2, "/good", 0, dict(answers["/good"]))])


@pytest.mark.parametrize("options", [[], ["--streams"], ["--json"]])
def test_status_shows_the_others(strange, capfd, options):
    assert status_commands.status_main(options) in (0, 1)
    said = capfd.readouterr()
    assert "inbox" in said.out
    assert "/strange" in said.err or "odd" in said.out


def test_kill_and_wait_pass_it_over(strange, capfd):
    assert status_commands.kill_main(["00000000"]) == 1
    assert "no session 00000000 is here" in capfd.readouterr().err
    assert status_commands.wait_main(["--for", "away", "--timeout", "0"]) == 1
    assert capfd.readouterr().err == "mproxy wait: --timeout has expired\n"


def test_top_shows_the_others(strange):
    table = TopTable()
    found, silent = status_commands.ask_all(None)
    table.update(found, 1.0)
    assert "inbox" in [row.program["name"] for row in table.rows]
    assert len(found) + len(silent) == 2


def test_a_name_that_nothing_has_is_named(monkeypatch, capfd):
    monkeypatch.setattr(status_commands, "survey", lambda _patience_s, **_more: [
        Surveyed("recv", 2, "/good", 0, dict(GOOD))])
    assert status_commands.status_main(["lapotp"]) == 1
    assert "nothing called lapotp is running" in capfd.readouterr().out
    assert status_commands.wait_main(["--timeout", "0", "lapotp"]) == 1
    assert "nothing called lapotp is running" in capfd.readouterr().err
